"""What lies beside a plan: what other budgets would buy, and what a node short of memory does."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgecc.plan import planner
from edgecc.plan.costs import Costs, needed, sized
from edgecc.plan.plan import Allowed, BlockSize, Plan
from edgecc.protocol.sample import Input

_LEAST_BATCH = 16


def beside(tried: Sequence[Plan], chosen: Plan, costs: Costs) -> tuple[Plan | None, Plan | None]:
    """What the next smaller budget and the next larger one buy, of plans from the widest down."""
    place = tried.index(chosen)
    less = (one for one in tried[place:] if needed(one, costs) < needed(chosen, costs))
    more = min(tried[:place], key=lambda one: needed(one, costs), default=None)
    return next(less, None), more


def down(
    plan: Plan, steps: int, spec: Input, *, max_payload: int, costs: Costs, classes: int = 0,
    backend: Allowed = "auto",
) -> Plan:
    """`plan` after so many steps down: half the batch, numpy for torch, narrower blocks, none.

    backend: what may be used. The stem stays as it is: generations stand on it.
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
