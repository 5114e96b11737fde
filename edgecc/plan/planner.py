"""Memory is a contract: `plan(budget, costs)` says what fits before anything is allocated.

A pure function. Plans are tried from the widest down, each with torch and then with numpy, which
takes less; the first whose predicted peak (daemon plus learner, as the kernel counts it) stays
under the budget is taken. If none fits, the error says which smallest budget would.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from edgecc.errors import BudgetError
from edgecc.learn.backends import Backend
from edgecc.plan.costs import MIB, Costs, needed, sized
from edgecc.plan.plan import Allowed, BlockSize, Plan, StemMap
from edgecc.protocol.sample import Input

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


def plan(
    budget: int, spec: Input, *, max_payload: int, blocks: int, costs: Costs | None = None,
    stem: StemMap | None = None, classes: int = 0, backend: Allowed = "auto",
) -> Plan:
    """The widest plan whose predicted peak is within `budget` bytes; stem, if it is a model.

    classes: there is room for so many; 0 leaves that to the plan. backend: what may be used.
    Raises BudgetError where not even the smallest fits.
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


def _ladder(blocks: int, spec: Input, allowed: Allowed, *, patches: bool) -> Iterator[Plan]:
    """Plans from the widest to the stem alone, sizes still unknown."""
    in_flight = 256 if spec.kind == "sensor" else 64  # messages sent ahead of our acks
    for backend, widths in _ON[allowed].items() if blocks else ():
        for first, second, dense, filters, batch in widths:
            grown = tuple(_grown(blocks, first, second, dense))
            yield Plan(filters, 3, grown, batch, in_flight, {}, backend=backend)
    alone = _ALONE_ON_PICTURES if patches and spec.kind == "image" else _ALONE
    for filters, grid, mixed, waves in alone:
        yield Plan(filters, grid, (), 16, in_flight, {}, stem_mixed=mixed, stem_waves=waves)


def _grown(blocks: int, first: int, second: int, dense: int) -> Iterator[BlockSize]:
    """Convolutions, the first with a pool, and from three blocks on a dense one on top."""
    for number in range(blocks):
        if number >= 2 and number == blocks - 1:
            yield BlockSize(channels=dense, kernel=0, pool=1, grid=1)
        elif number:
            yield BlockSize(channels=second, kernel=3, pool=1, grid=3)
        else:
            yield BlockSize(channels=first, kernel=3, pool=2, grid=2)
