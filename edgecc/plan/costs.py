"""What a plan takes: every byte of daemon and learner at their peak, by use."""

import math
from dataclasses import dataclass, replace

from edgecc.learn import geometry
from edgecc.plan.plan import Plan, map_sizes, most_classes, readout_dim
from edgecc.protocol.image import BYTES_A_PIXEL
from edgecc.protocol.sample import Input

MIB = 2**20
VALIDATION_ROWS = 2000  # held-out samples that a growth is evaluated on, at most
_FLOAT64 = 8
_FLOAT32 = 4
_POINTER = 8


@dataclass(frozen=True)
class Costs:
    """Resident bytes, as `edgecc bench costs` measures them; these on x86-64."""

    daemon: int = 61 * MIB  # Python, numpy, LiteRT, paho, SQLite's cache, at work
    learner: int = 193 * MIB  # Python, numpy, torch, LiteRT, SQLite, at work
    learner_start: int = 209 * MIB  # the same until its first step is done
    learner_numpy: int = 58 * MIB  # without torch
    unseen: int = 50 * MIB  # more that RLIMIT_DATA counts: reserved and never touched, less code
    readouts_daemon: float = 2.0  # copies of A alive at rest: sums, and a successor's
    solve: float = 2.0  # and while it is solved
    readouts_learner: float = 5.7  # train sums, all sums, a prefix, solve
    classes_daemon: int = 7  # copies of B alive at once: sums, weights, solve, successor
    classes_learner: int = 13
    pairs_daemon: int = 3  # numbers for each pair of classes alive at once: distances of samples
    tiles: int = 11  # float32 maps of one training batch alive at once
    tiles_numpy: int = 4
    stem: int = 8 * MIB  # LiteRT's own, once a stem is a model of many operators
    stems: int = 2  # its interpreters alive at once in each process
    margin: float = 1.05


def needed(plan: Plan, costs: Costs) -> float:
    """The smallest budget, in bytes, that has room for a plan."""
    return plan.total * costs.margin


def sized(plan: Plan, spec: Input, *, max_payload: int, costs: Costs, classes: int = 0) -> Plan:
    """The plan with every byte accounted for: what is never alive at once counts once."""
    dim, most = readout_dim(plan, spec), most_classes(plan, spec, classes)
    a, b = (dim + 1) ** 2 * _FLOAT64, most * (dim + 1) * _FLOAT64  # the readout's sums
    stem = _stem(plan, spec, costs)
    picture = spec.max_pixels * BYTES_A_PIXEL if spec.kind == "image" else 0
    where = _of("daemon", {
        "interpreter and libraries": costs.daemon,
        "readout": int(costs.readouts_daemon * a),
        "solving it, or the largest picture": max(int(costs.solve * a), picture),
        "classes": costs.classes_daemon * b + costs.pairs_daemon * most**2 * _FLOAT64,
        "messages in flight": plan.receive_maximum * min(max_payload, 64 * 1024),
    } | stem)
    if not plan.blocks:
        return replace(plan, where=where, learner_limit=0)
    learner = stem | _learner(plan, spec, costs, a=a, b=b, dim=dim)
    limit = int(sum(learner.values()) * costs.margin) + costs.unseen
    start = costs.learner_start if plan.backend == "torch" else 0
    if start > sum(learner.values()):
        learner["starting torch"] = start - sum(learner.values())
    return replace(plan, where=where | _of("learner", learner), learner_limit=limit)


def _of(process: str, uses: dict[str, int]) -> dict[str, int]:
    return {f"{process}: {use}": size for use, size in uses.items()}


def _stem(plan: Plan, spec: Input, costs: Costs) -> dict[str, int]:
    """What the stem's interpreters take in each process."""
    if plan.stem_map is not None:
        return {"stem model": costs.stem + costs.stems * plan.stem_map.memory}
    _, height, width = spec.model_shape
    taps = 5 if height == 1 else 25  # XNNPACK keeps a pointer for each, of each pixel
    each = 2 * plan.stem_filters * _FLOAT32 + taps * _POINTER
    return {"stem's map": costs.stems * each * height * width}


def _learner(plan: Plan, spec: Input, costs: Costs, *, a: int, b: int, dim: int) -> dict[str, int]:
    """It trains, then evaluates: the larger of both counts. a, b: bytes of the readout's sums."""
    torch = plan.backend == "torch"
    training = {
        "weights, gradients and moments": 4 * _weights(plan, spec),
        "training tile": _tile(plan, spec) * (costs.tiles if torch else costs.tiles_numpy),
    }
    evaluating = {
        "readout": int(costs.readouts_learner * a),
        "classes": costs.classes_learner * b,
        "held-out samples": VALIDATION_ROWS * dim * _FLOAT32,
    }
    libraries = {"interpreter and libraries": costs.learner if torch else costs.learner_numpy}
    return libraries | max(training, evaluating, key=lambda uses: sum(uses.values()))


def _tile(plan: Plan, spec: Input) -> int:
    """Bytes of the largest float32 map of one batch."""
    stem = plan.stem_map
    maps = [block.channels * (math.prod(below) if block.kernel else 1)
            for block, below, _ in map_sizes(plan, spec)]
    largest = max(maps + ([] if stem is None else [stem.channels * stem.height * stem.width]))
    return largest * plan.batch * _FLOAT32


def _weights(plan: Plan, spec: Input) -> int:
    """Bytes of all blocks' float32 weights, which train together."""
    count = 0
    channels = 2 * plan.stem_filters if plan.stem_map is None else plan.stem_map.channels
    for block, below, _ in map_sizes(plan, spec):
        window = geometry.odd(block.kernel, below) if block.kernel else below
        count += channels * math.prod(window) * block.channels
        channels = block.channels
    return count * _FLOAT32
