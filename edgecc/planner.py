"""Memory is a contract: `plan(budget, costs)` says what fits before anything is allocated.

A pure function. Plans are tried from the widest down; the first whose predicted peak (daemon plus
learner, as the kernel counts it) stays under the budget is taken. If none fits, the error says
which smallest budget would.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgecc.errors import BudgetError
from edgecc.sample import Input
from edgecc.stem import map_shape

MIB = 2**20
_FLOAT64 = 8
_FLOAT32 = 4


@dataclass(frozen=True)
class Costs:
    """Resident bytes, fitted to what the kernel counted in `edgecc demo` on x86-64."""

    daemon: int = 72 * MIB  # Python, numpy, LiteRT, paho, SQLite's cache
    learner: int = 274 * MIB  # Python, numpy, torch imported and warm, LiteRT, SQLite
    readouts_daemon: float = 4.5  # copies of A alive at once: sums, solve, swap to a successor
    readouts_learner: float = 4.5  # train sums, all sums, prefix, solve
    tiles: int = 11  # float32 maps of one training batch alive at once
    margin: float = 1.05


@dataclass(frozen=True)
class Block:
    """One block's size: output channels, square kernel, max-pool, readout grid."""

    channels: int
    kernel: int
    pool: int
    grid: int


@dataclass(frozen=True)
class Plan:
    stem_filters: int
    stem_grid: int
    blocks: tuple[Block, ...]  # none: no growth, the stem alone serves
    batch: int
    receive_maximum: int
    where: dict[str, int]  # bytes by use

    @property
    def total(self) -> int:
        return sum(self.where.values())

    @property
    def learner_limit(self) -> int:
        """RLIMIT_DATA of the learner, bytes: what is predicted for it."""
        return sum(size for use, size in self.where.items() if use.startswith("learner"))

    def describe(self) -> dict[str, Any]:
        return asdict(replace(self, where={}))


def plan(
    budget: int, spec: Input, *, max_payload: int, blocks: int, costs: Costs | None = None
) -> Plan:
    """The widest plan whose predicted peak is within `budget` bytes."""
    costs = costs or Costs()
    tried = [_sized(shape, spec, max_payload, costs) for shape in _ladder(blocks, spec)]
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
    _, height, width = spec.model_shape
    size = [map_shape(height), map_shape(width)]
    dim = 2 * candidate.stem_filters * grid_of(size, candidate.stem_grid)
    for block in candidate.blocks:
        size = [_pooled(side, block.pool) for side in size]
        dim += block.channels * grid_of(size, block.grid)
    return dim


def grid_of(size: list[int], grid: int) -> int:
    """Cells of a grid x grid pooling on a map that may be smaller."""
    return min(size[0], grid) * min(size[1], grid)


def _ladder(blocks: int, spec: Input) -> Iterator[Plan]:
    """Plans from the widest to the stem alone, sizes still unknown."""
    for first, second, filters, batch in (
        (32, 64, 16, 64), (32, 48, 16, 64), (24, 48, 16, 32), (24, 32, 12, 32), (16, 32, 8, 16),
    ):
        grown = tuple(
            Block(channels=second if number else first, kernel=3, pool=1 + number % 2, grid=3)
            for number in range(blocks)
        )
        yield Plan(filters, 3, grown, batch, _in_flight(spec), {})
    yield Plan(16, 4, (), 16, _in_flight(spec), {})
    yield Plan(8, 3, (), 16, _in_flight(spec), {})


def _in_flight(spec: Input) -> int:
    """ReceiveMaximum: messages the broker may send ahead of our acks."""
    return 256 if spec.kind == "sensor" else 64


def _sized(candidate: Plan, spec: Input, max_payload: int, costs: Costs) -> Plan:
    """The plan with every byte accounted for."""
    dim = readout_dim(candidate, spec)
    readout = (dim + 1) ** 2 * _FLOAT64
    where = {
        "daemon: interpreter and libraries": costs.daemon,
        "daemon: readout": int(costs.readouts_daemon * readout),
        "daemon: messages in flight": candidate.receive_maximum * min(max_payload, 64 * 1024),
    }
    if candidate.blocks:
        where |= {
            "learner: interpreter and libraries": costs.learner,
            "learner: readout": int(costs.readouts_learner * readout),
            "learner: training tile": _tile(candidate, spec) * costs.tiles,
        }
    return replace(candidate, where=where)


def _tile(candidate: Plan, spec: Input) -> int:
    """The largest float32 map of one batch."""
    _, height, width = spec.model_shape
    size = [map_shape(height), map_shape(width)]
    largest = 0
    for block in candidate.blocks:
        largest = max(largest, block.channels * size[0] * size[1])
        size = [_pooled(side, block.pool) for side in size]
    return largest * candidate.batch * _FLOAT32


def _pooled(side: int, pool: int) -> int:
    return side // min(side, pool)
