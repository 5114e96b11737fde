"""Memory is a contract: `plan(budget, costs)` says what fits before anything is allocated.

A pure function. Plans are tried from the widest down, each with torch and then with numpy, which
takes less; the first whose predicted peak (daemon plus learner, as the kernel counts it) stays
under the budget is taken. If none fits, the error says which smallest budget would.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgecc.errors import BudgetError
from edgecc.protocol.image import BYTES_A_PIXEL
from edgecc.protocol.sample import Input
from edgecc.trunk import geometry as sizes
from edgecc.trunk.patch_stem import map_size

MIB = 2**20
Backend = Literal["torch", "numpy"]
Allowed = Literal["auto", "torch", "numpy"]
_FLOAT64 = 8
_FLOAT32 = 4
_POINTER = 8
_WIDTHS = (  # of the first, the second and the dense block; the stem's filters, and a batch
    (64, 128, 512, 16, 64), (48, 96, 384, 16, 64), (32, 64, 256, 16, 64), (32, 48, 192, 16, 64),
    (24, 48, 128, 16, 32), (24, 32, 96, 12, 32), (16, 32, 64, 8, 16), (12, 24, 48, 8, 16),
)
_ON: Mapping[Allowed, Mapping[Backend, Sequence[tuple[int, ...]]]] = {
    "auto": {"torch": _WIDTHS[:3], "numpy": _WIDTHS[2:]},  # twice the time, and 140 MiB less
    "torch": {"torch": _WIDTHS}, "numpy": {"numpy": _WIDTHS},
}
# Filters, grid, mixtures and frequencies of a stem without blocks; docs/experiments.md.
_ALONE = ((28, 6, 0, 0), (20, 5, 0, 0), (15, 4, 0, 0), (8, 3, 0, 0))
_ALONE_ON_PICTURES = ((28, 12, 56, 36), (28, 12, 40, 25), (28, 12, 30, 16), (16, 12, 16, 9))
_CLASSES = 64  # at least, and one more for every ...
_CLASS_EVERY = 8  # ... features
JUDGES = 2000  # held-out samples that judge at most
_MODEL_FEATURES = 512  # of a stem that is a model, where a grid above 1x1 would give more


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
    pairs_daemon: int = 3  # numbers for each pair of classes alive at once: how far out samples lie
    tiles: int = 11  # float32 maps of one training batch alive at once
    tiles_numpy: int = 4
    stem: int = 8 * MIB  # LiteRT's own, once a stem is a model of many operators
    stems: int = 2  # its interpreters alive at once in each process
    margin: float = 1.05


@dataclass(frozen=True)
class Block:
    """One block's size: output channels, kernel, max-pool, readout grid; see `sizes.py`.

    Kernel 0 is a dense block over the whole map below it.
    """

    channels: int
    kernel: int
    pool: int
    grid: int


@dataclass(frozen=True)
class StemMap:
    """The map of a stem that is a model, as blocks see it, and the bytes of one interpreter."""

    channels: int
    height: int
    width: int
    memory: int


@dataclass(frozen=True)
class Plan:
    stem_filters: int
    stem_grid: int
    blocks: tuple[Block, ...]  # none: no growth, the stem alone serves
    batch: int
    receive_maximum: int
    where: dict[str, int]  # bytes by use
    stem_map: StemMap | None = None  # None: patch filters
    stem_mixed: int = 0  # features that each cell's are mixed to; 0 leaves them
    stem_waves: int = 0  # spatial frequencies of each that are kept; 0 leaves the cells
    learner_limit: int = 0  # RLIMIT_DATA of the learner, bytes; 0 where there is none
    backend: Backend = "torch"  # what the learner computes with

    @property
    def total(self) -> int:
        return sum(self.where.values())

    @property
    def hold(self) -> int:
        """Bytes of messages not yet acked above which the daemon reads no more."""
        return self.where["daemon: messages in flight"]

    def describe(self) -> dict[str, Any]:
        """All but sizes; what is computed with where that is not torch."""
        told = asdict(replace(self, where={}))
        del told["learner_limit"]
        return told if self.backend != "torch" else {
            name: value for name, value in told.items() if name != "backend"}

    @staticmethod
    def restored(described: Mapping[str, Any]) -> "Plan":
        """The plan that `describe` told, perhaps through JSON."""
        stem = described.get("stem_map")
        return Plan(**{
            **described, "blocks": tuple(Block(**block) for block in described["blocks"]),
            "stem_map": stem and StemMap(**stem),
        })


def plan(
    budget: int, spec: Input, *, max_payload: int, blocks: int, costs: Costs | None = None,
    stem: StemMap | None = None, classes: int = 0, backend: Allowed = "auto",
) -> Plan:
    """The widest plan whose predicted peak is within `budget` bytes; stem, if it is a model.

    classes: there is room for so many; 0 leaves that to the plan. backend: what may be used.
    """
    costs = costs or Costs()
    tried = plans(
        spec, max_payload=max_payload, blocks=blocks, costs=costs, stem=stem, classes=classes,
        backend=backend)
    for candidate in tried:
        if needed(candidate, costs) <= budget:
            return candidate
    smallest = min(needed(candidate, costs) for candidate in tried)
    raise BudgetError(
        f"memory_budget {budget / MIB:.0f}MiB fits no plan; the smallest is "
        f"{-(-smallest // MIB):.0f}MiB"
    )


def plans(
    spec: Input, *, max_payload: int, blocks: int, costs: Costs, stem: StemMap | None = None,
    classes: int = 0, backend: Allowed = "auto",
) -> list[Plan]:
    """All that are tried, the widest first."""
    return [
        sized(replace(shape, stem_map=stem), spec, max_payload=max_payload, costs=costs,
              classes=classes)
        for shape in _ladder(blocks, spec, backend, patches=stem is None)
    ]


def needed(candidate: Plan, costs: Costs) -> float:
    """The smallest budget, in bytes, that has room for a plan."""
    return candidate.total * costs.margin


def readout_dim(candidate: Plan, spec: Input) -> int:
    """Features of stem and all planned blocks."""
    size = _stem_size(candidate, spec)
    if candidate.stem_map is None:
        each = candidate.stem_mixed or 2 * candidate.stem_filters
        cells = math.prod(sizes.fitted(candidate.stem_grid, size))
        dim = each * min(candidate.stem_waves or cells, cells)
    else:
        rows, columns = model_grid(candidate.stem_map, candidate.stem_grid)
        dim = candidate.stem_map.channels * rows * columns
    for block in candidate.blocks:
        size = _after(size, block)
        dim += block.channels * math.prod(sizes.fitted(block.grid, size))
    return dim


def most_classes(candidate: Plan, spec: Input, asked: int = 0) -> int:
    """Classes that the plan has room for: as many as `asked` for, or what suits its features."""
    return asked or max(_CLASSES, readout_dim(candidate, spec) // _CLASS_EVERY)


def model_grid(stem: StemMap, largest: int) -> tuple[int, int]:
    """The finest pooling of a model's map to at most _MODEL_FEATURES features, or else 1x1."""
    grids = (sizes.fitted(n, (stem.height, stem.width)) for n in range(largest, 1, -1))
    return next(
        (grid for grid in grids if stem.channels * math.prod(grid) <= _MODEL_FEATURES), (1, 1))


def _stem_size(candidate: Plan, spec: Input) -> sizes.Size:
    """Rows and columns of the stem's map."""
    if candidate.stem_map is not None:
        return candidate.stem_map.height, candidate.stem_map.width
    _, height, width = spec.model_shape
    return map_size(height, width) if candidate.blocks else (height, width)


def _ladder(blocks: int, spec: Input, allowed: Allowed, *, patches: bool) -> Iterator[Plan]:
    """Plans from the widest to the stem alone, sizes still unknown."""
    for backend, widths in _ON[allowed].items() if blocks else ():
        for first, second, dense, filters, batch in widths:
            grown = tuple(_grown(blocks, first, second, dense))
            yield Plan(filters, 3, grown, batch, _in_flight(spec), {}, backend=backend)
    alone = _ALONE_ON_PICTURES if patches and spec.kind == "image" else _ALONE
    for filters, grid, mixed, waves in alone:
        yield Plan(filters, grid, (), 16, _in_flight(spec), {}, stem_mixed=mixed, stem_waves=waves)


def _grown(blocks: int, first: int, second: int, dense: int) -> Iterator[Block]:
    """Convolutions, the first with a pool, and from three blocks on a dense one on top."""
    for number in range(blocks):
        if number >= 2 and number == blocks - 1:
            yield Block(channels=dense, kernel=0, pool=1, grid=1)
        elif number:
            yield Block(channels=second, kernel=3, pool=1, grid=3)
        else:
            yield Block(channels=first, kernel=3, pool=2, grid=2)


def _in_flight(spec: Input) -> int:
    """ReceiveMaximum: messages the broker may send ahead of our acks."""
    return 256 if spec.kind == "sensor" else 64


def sized(
    candidate: Plan, spec: Input, *, max_payload: int, costs: Costs, classes: int = 0
) -> Plan:
    """The plan with every byte accounted for: what is never alive at once counts once."""
    dim = readout_dim(candidate, spec)
    readout = (dim + 1) ** 2 * _FLOAT64
    most = most_classes(candidate, spec, classes)
    named = most * (dim + 1) * _FLOAT64
    picture = spec.max_pixels * BYTES_A_PIXEL if spec.kind == "image" else 0
    model = _of_stem(candidate, spec, costs)
    where = _named("daemon", {
        "interpreter and libraries": costs.daemon,
        "readout": int(costs.readouts_daemon * readout),
        "solving it, or the largest picture": max(int(costs.solve * readout), picture),
        "classes": costs.classes_daemon * named + costs.pairs_daemon * most**2 * _FLOAT64,
        "messages in flight": candidate.receive_maximum * min(max_payload, 64 * 1024),
    } | model)
    if not candidate.blocks:
        return replace(candidate, where=where, learner_limit=0)
    judging = {
        "readout": int(costs.readouts_learner * readout),
        "classes": costs.classes_learner * named,
        "held-out samples": JUDGES * dim * _FLOAT32,
    }
    torch = candidate.backend == "torch"
    learner = model | {
        "interpreter and libraries": costs.learner if torch else costs.learner_numpy}
    training = {
        "weights, gradients and moments": 4 * _weights(candidate, spec),
        "training tile": _tile(candidate, spec) * (costs.tiles if torch else costs.tiles_numpy),
    }
    learner |= judging if sum(judging.values()) > sum(training.values()) else training
    limit = int(sum(learner.values()) * costs.margin) + costs.unseen
    start = costs.learner_start if torch else 0
    if start > sum(learner.values()):
        learner["starting torch"] = start - sum(learner.values())
    return replace(candidate, where=where | _named("learner", learner), learner_limit=limit)


def _of_stem(candidate: Plan, spec: Input, costs: Costs) -> dict[str, int]:
    """What the stem's interpreters take in each process."""
    if candidate.stem_map is not None:
        return {"stem model": costs.stem + costs.stems * candidate.stem_map.memory}
    _, height, width = spec.model_shape
    taps = 5 if height == 1 else 25  # XNNPACK keeps a pointer for each, of each pixel
    each = 2 * candidate.stem_filters * _FLOAT32 + taps * _POINTER
    return {"stem's map": costs.stems * each * height * width}


def _named(process: str, uses: dict[str, int]) -> dict[str, int]:
    return {f"{process}: {use}": size for use, size in uses.items()}


def _tile(candidate: Plan, spec: Input) -> int:
    """The largest float32 map of one batch."""
    size = _stem_size(candidate, spec)
    stem = candidate.stem_map
    largest = 0 if stem is None else stem.channels * stem.height * stem.width
    for block in candidate.blocks:
        before, size = size, _after(size, block)
        largest = max(largest, block.channels * (before[0] * before[1] if block.kernel else 1))
    return largest * candidate.batch * _FLOAT32


def _weights(candidate: Plan, spec: Input) -> int:
    """The float32 weights of all blocks, which train together."""
    stem, size, count = candidate.stem_map, _stem_size(candidate, spec), 0
    channels = 2 * candidate.stem_filters if stem is None else stem.channels
    for block in candidate.blocks:
        window = math.prod(sizes.odd(block.kernel, size) if block.kernel else size)
        count += channels * window * block.channels
        channels, size = block.channels, _after(size, block)
    return count * _FLOAT32


def _after(size: sizes.Size, block: Block) -> sizes.Size:
    """The map above `block` on one of `size`."""
    if not block.kernel:
        return 1, 1
    pool = sizes.fitted(block.pool, size)
    return size[0] // pool[0], size[1] // pool[1]
