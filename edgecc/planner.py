"""Memory is a contract: `plan(budget, costs)` says what fits before anything is allocated.

A pure function. Plans are tried from the widest down; the first whose predicted peak (daemon plus
learner, as the kernel counts it) stays under the budget is taken. If none fits, the error says
which smallest budget would.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgecc.errors import BudgetError
from edgecc.picture import BYTES_A_PIXEL
from edgecc.sample import Input
from edgecc.stem import map_shape

MIB = 2**20
_FLOAT64 = 8
_FLOAT32 = 4
_WIDTHS = (  # of the first, the second and the dense block; the stem's filters, and a batch
    (64, 128, 512, 16, 64), (48, 96, 384, 16, 64), (32, 64, 256, 16, 64), (32, 48, 192, 16, 64),
    (24, 48, 128, 16, 32), (24, 32, 96, 12, 32), (16, 32, 64, 8, 16),
)
_ALONE = ((28, 6), (20, 5), (15, 4), (8, 3))  # filters and grid of a stem without blocks
_CLASSES = 64  # at least, and one more for every ...
_CLASS_EVERY = 8  # ... features
_MODEL_FEATURES = 512  # of a stem that is a model, where a grid above 1x1 would give more


@dataclass(frozen=True)
class Costs:
    """Resident bytes, fitted to what the kernel counted in `edgecc demo` on x86-64."""

    daemon: int = 72 * MIB  # Python, numpy, LiteRT, paho, SQLite's cache
    learner: int = 274 * MIB  # Python, numpy, torch imported and warm, LiteRT, SQLite
    readouts_daemon: float = 4.5  # copies of A alive at once: sums, solve, swap to a successor
    readouts_learner: float = 5.5  # train sums, all sums, two prefixes, solve
    classes_daemon: int = 7  # copies of B alive at once: sums, weights, solve, successor
    classes_learner: int = 8
    pairs_daemon: int = 3  # numbers for each pair of classes alive at once: how far out samples lie
    tiles: int = 11  # float32 maps of one training batch alive at once
    stem: int = 8 * MIB  # LiteRT's own, once a stem is a model of many operators
    stems: int = 2  # its interpreters alive at once in each process
    margin: float = 1.05


@dataclass(frozen=True)
class Block:
    """One block's size: output channels, square kernel, max-pool, readout grid.

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

    @property
    def total(self) -> int:
        return sum(self.where.values())

    @property
    def hold(self) -> int:
        """Bytes of messages not yet acked above which the daemon reads no more."""
        return self.where["daemon: messages in flight"]

    @property
    def learner_limit(self) -> int:
        """RLIMIT_DATA of the learner, bytes: what is predicted for it."""
        return sum(size for use, size in self.where.items() if use.startswith("learner"))

    def describe(self) -> dict[str, Any]:
        return asdict(replace(self, where={}))

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
    stem: StemMap | None = None, classes: int = 0,
) -> Plan:
    """The widest plan whose predicted peak is within `budget` bytes; stem, if it is a model.

    classes: there is room for so many; 0 leaves that to the plan.
    """
    costs = costs or Costs()
    tried = [
        _sized(replace(shape, stem_map=stem), spec, max_payload, costs, classes)
        for shape in _ladder(blocks, spec)
    ]
    for candidate in tried:
        if candidate.total * costs.margin <= budget:
            return candidate
    smallest = min(candidate.total for candidate in tried) * costs.margin
    raise BudgetError(
        f"memory_budget {budget / MIB:.0f}MiB fits no plan; the smallest is "
        f"{-(-smallest // MIB):.0f}MiB"
    )


def readout_dim(candidate: Plan, spec: Input) -> int:
    """Features of stem and all planned blocks."""
    size = _stem_size(candidate, spec)
    if candidate.stem_map is None:
        each = candidate.stem_mixed or 2 * candidate.stem_filters
        cells = grid_of(size, candidate.stem_grid)
        dim = each * min(candidate.stem_waves or cells, cells)
    else:
        rows, columns = model_grid(candidate.stem_map, candidate.stem_grid)
        dim = candidate.stem_map.channels * rows * columns
    for block in candidate.blocks:
        size = _after(size, block)
        dim += block.channels * grid_of(size, block.grid)
    return dim


def most_classes(candidate: Plan, spec: Input, asked: int = 0) -> int:
    """Classes that the plan has room for: as many as `asked` for, or what suits its features."""
    return asked or max(_CLASSES, readout_dim(candidate, spec) // _CLASS_EVERY)


def model_grid(stem: StemMap, largest: int) -> tuple[int, int]:
    """The finest pooling of a model's map to at most _MODEL_FEATURES features, or else 1x1."""
    fits = [
        (min(stem.height, side), min(stem.width, side)) for side in range(1, largest + 1)
        if side == 1 or stem.channels * side * side <= _MODEL_FEATURES
    ]
    return fits[-1]


def _stem_size(candidate: Plan, spec: Input) -> list[int]:
    """Rows and columns of the stem's map."""
    if candidate.stem_map is not None:
        return [candidate.stem_map.height, candidate.stem_map.width]
    _, height, width = spec.model_shape
    return [map_shape(height), map_shape(width)] if candidate.blocks else [height, width]


def grid_of(size: list[int], grid: int) -> int:
    """Cells of a grid x grid pooling on a map that may be smaller."""
    return min(size[0], grid) * min(size[1], grid)


def _ladder(blocks: int, spec: Input) -> Iterator[Plan]:
    """Plans from the widest to the stem alone, sizes still unknown."""
    for first, second, dense, filters, batch in _WIDTHS if blocks else ():
        grown = tuple(_grown(blocks, first, second, dense))
        yield Plan(filters, 3, grown, batch, _in_flight(spec), {})
    for filters, grid in _ALONE:
        yield Plan(filters, grid, (), 16, _in_flight(spec), {})


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


def _sized(
    candidate: Plan, spec: Input, max_payload: int, costs: Costs, most: int
) -> Plan:
    """The plan with every byte accounted for."""
    dim = readout_dim(candidate, spec)
    readout = (dim + 1) ** 2 * _FLOAT64
    most = most_classes(candidate, spec, most)
    classes = most * (dim + 1) * _FLOAT64
    where = {
        "daemon: interpreter and libraries": costs.daemon,
        "daemon: readout": int(costs.readouts_daemon * readout),
        "daemon: classes": costs.classes_daemon * classes + costs.pairs_daemon * most**2 * _FLOAT64,
        "daemon: messages in flight": candidate.receive_maximum * min(max_payload, 64 * 1024),
    }
    if spec.kind == "image":
        where["daemon: largest picture"] = spec.max_pixels * BYTES_A_PIXEL
    stem = candidate.stem_map
    model = 0 if stem is None else costs.stem + costs.stems * stem.memory
    if model:
        where["daemon: stem model"] = model
    if candidate.blocks and model:
        where["learner: stem model"] = model
    if candidate.blocks:
        where |= {
            "learner: interpreter and libraries": costs.learner,
            "learner: readout": int(costs.readouts_learner * readout),
            "learner: classes": costs.classes_learner * classes,
            "learner: weights, gradients and moments": 4 * _weights(candidate, spec),
            "learner: training tile": _tile(candidate, spec) * costs.tiles,
        }
    return replace(candidate, where=where)


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
    channels, height, width = spec.model_shape
    channels, size, count = 2 * candidate.stem_filters, [map_shape(height), map_shape(width)], 0
    for block in candidate.blocks:
        window = block.kernel**2 or size[0] * size[1]
        count += channels * window * block.channels
        channels, size = block.channels, _after(size, block)
    return count * _FLOAT32


def _after(size: list[int], block: Block) -> list[int]:
    """The map above `block` on one of `size`."""
    return [_pooled(side, block.pool) for side in size] if block.kernel else [1, 1]


def _pooled(side: int, pool: int) -> int:
    return side // min(side, pool)
