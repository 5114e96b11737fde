"""Other plans than the chosen one: for the next budgets, and after a learner ran out of memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgecc.plan import planner
from edgecc.plan.costs import Costs, needed, sized
from edgecc.plan.plan import Allowed, BlockSize, Plan
from edgecc.protocol.sample import Input

_LEAST_BATCH = 16


def neighbours(
    tried: Sequence[Plan], chosen: Plan, costs: Costs
) -> tuple[Plan | None, Plan | None]:
    """The next cheaper and the next dearer plan, of plans from the widest down."""
    place = tried.index(chosen)
    less = (one for one in tried[place:] if needed(one, costs) < needed(chosen, costs))
    more = min(tried[:place], key=lambda one: needed(one, costs), default=None)
    return next(less, None), more


def step_down(
    plan: Plan, steps: int, spec: Input, *, max_payload: int, costs: Costs, classes: int = 0,
    backend: Allowed = "auto",
) -> Plan:
    """`plan` made smaller, one step after the other: half the batch, numpy for torch, narrower
    blocks, none.

    backend: what may be used. The stem stays the same, since generations are built on it.
    """
    widths = [one.blocks for one in planner.plans(
        spec, max_payload=max_payload, blocks=len(plan.blocks), costs=costs, backend=backend)]
    for _ in range(steps):
        plan = replace(plan, **_less(plan, widths, backend))
    return sized(plan, spec, max_payload=max_payload, costs=costs, classes=classes)


def _less(
    plan: Plan, widths: Sequence[tuple[BlockSize, ...]], allowed: Allowed
) -> dict[str, Any]:
    if plan.batch > _LEAST_BATCH:
        return {"batch": plan.batch // 2}
    if plan.backend == "torch" and allowed != "torch":
        return {"backend": "numpy"}
    narrower = (blocks for blocks in widths if _channels(blocks) < _channels(plan.blocks))
    return {"blocks": next(narrower, ())}


def _channels(blocks: Sequence[BlockSize]) -> int:
    return sum(block.channels for block in blocks)
