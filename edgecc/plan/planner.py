"""Memory is a contract: `plan(budget, costs)` says what fits before anything is allocated.

A pure function. Plans are tried from the widest down, each with torch and then with numpy, which
takes less; the first whose predicted peak (daemon plus learner, as the kernel counts it) stays
under the budget is taken. If none fits, the error says which smallest budget would. A learner that
ran out of memory all the same gets a smaller plan, step by step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from edgecc.errors import BudgetError
from edgecc.learn.backends import Backend
from edgecc.plan.costs import MIB, Costs, needed, sized
from edgecc.plan.plan import Allowed, BlockSize, Plan, StemMap
from edgecc.protocol.sample import Input

_WIDTHS = (  # of the first, the second and the dense block; the stem's filters, a batch, and
    # kernels over whole windows
    (64, 128, 512, 16, 64, 256), (48, 96, 384, 16, 64, 256), (32, 64, 256, 16, 64, 256),
    (32, 48, 192, 16, 64, 256), (24, 48, 128, 16, 32, 256), (24, 32, 96, 12, 32, 256),
    (16, 32, 64, 8, 16, 96), (12, 24, 48, 8, 16, 48),
)
_ON: Mapping[Allowed, Mapping[Backend, Sequence[tuple[int, ...]]]] = {
    "auto": {"torch": _WIDTHS[:3], "numpy": _WIDTHS[2:]},  # twice the time, and 140 MiB less
    "torch": {"torch": _WIDTHS}, "numpy": {"numpy": _WIDTHS},
}
# Filters, grid, mixtures and frequencies of a stem without blocks; docs/experiments.md.
_ALONE = ((28, 6, 0, 0), (20, 5, 0, 0), (15, 4, 0, 0), (8, 3, 0, 0))
# Filters, grid and kernels of one for sensors, which reads whole windows too.
_ALONE_ON_WINDOWS = ((16, 2, 384), (16, 2, 256), (16, 2, 128), (8, 2, 64), (8, 1, 32))
_ALONE_ON_PICTURES = ((28, 12, 56, 36), (28, 12, 40, 25), (28, 12, 30, 16), (16, 12, 16, 9))
_LEAST_BATCH = 16


def plan(
    budget: int, spec: Input, *, max_payload: int, blocks: int, costs: Costs | None = None,
    stem: StemMap | None = None, whole: bool = False, classes: int = 0,
    backend: Allowed = "auto",
) -> Plan:
    """The widest plan whose predicted peak is within `budget` bytes; stem, if it is a model.

    whole: a sensor's whole window has features of its own. classes: there is room for so many; 0
    leaves that to the plan. backend: what may be used.
    Raises BudgetError where not even the smallest fits.
    """
    costs = costs or Costs()
    tried = plans(
        spec, max_payload=max_payload, blocks=blocks, costs=costs, stem=stem, whole=whole,
        classes=classes, backend=backend)
    for candidate in tried:
        if needed(candidate, costs) <= budget:
            return candidate
    smallest = min(needed(candidate, costs) for candidate in tried)
    raise BudgetError(f"memory_budget {budget / MIB:.0f}MiB fits no plan; the smallest is "
                      f"{-(-smallest // MIB):.0f}MiB")


def plans(
    spec: Input, *, max_payload: int, blocks: int, costs: Costs, stem: StemMap | None = None,
    whole: bool = False, classes: int = 0, backend: Allowed = "auto",
) -> list[Plan]:
    """All that are tried, the widest first."""
    return [
        sized(replace(shape, stem_map=stem), spec, max_payload=max_payload, costs=costs,
              classes=classes)
        for shape in _ladder(blocks, spec, backend, patches=stem is None, whole=whole)
    ]


def neighbours(
    tried: Sequence[Plan], chosen: Plan, costs: Costs
) -> tuple[Plan | None, Plan | None]:
    """The next cheaper and the next dearer plan, of plans from the widest down."""
    place, price = tried.index(chosen), needed(chosen, costs)
    less = (one for one in tried[place:] if needed(one, costs) < price)
    more = min(tried[:place], key=lambda one: needed(one, costs), default=None)
    return next(less, None), more


def step_down(
    plan: Plan, steps: int, spec: Input, *, max_payload: int, costs: Costs, classes: int = 0,
    backend: Allowed = "auto",
) -> Plan:
    """`plan` made smaller, one step after the other: half the batch, numpy for torch, narrower
    blocks, none. backend: what may be used. Generations are built on the stem, so it stays."""
    widths = [one.blocks for one in _ladder(len(plan.blocks), spec, backend, patches=True)]
    for _ in range(steps):
        plan = _smaller(plan, widths, backend)
    return sized(plan, spec, max_payload=max_payload, costs=costs, classes=classes)


def _smaller(plan: Plan, widths: Sequence[tuple[BlockSize, ...]], allowed: Allowed) -> Plan:
    if plan.batch > _LEAST_BATCH:
        return replace(plan, batch=plan.batch // 2)
    if plan.backend == "torch" and allowed != "torch":
        return replace(plan, backend="numpy")
    narrower = (blocks for blocks in widths if _channels(blocks) < _channels(plan.blocks))
    return replace(plan, blocks=next(narrower, ()))


def _channels(blocks: Sequence[BlockSize]) -> int:
    return sum(block.channels for block in blocks)


def _ladder(
    blocks: int, spec: Input, allowed: Allowed, *, patches: bool, whole: bool = False
) -> Iterator[Plan]:
    """Plans from the widest to the stem alone, sizes still unknown."""
    whole = whole and patches and spec.kind == "sensor"
    in_flight = 256 if spec.kind == "sensor" else 64  # messages sent ahead of our acks
    for backend, widths in _ON[allowed].items() if blocks else ():
        for first, second, dense, filters, batch, kernels in widths:
            grown = tuple(_grown(blocks, first, second, dense))
            yield Plan(filters, 2 if whole else 3, grown, batch, in_flight, {}, backend=backend,
                       stem_kernels=kernels * whole)
    if whole:
        for filters, grid, kernels in _ALONE_ON_WINDOWS:
            yield Plan(filters, grid, (), 16, in_flight, {}, stem_kernels=kernels)
        return
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
