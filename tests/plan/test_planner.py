"""The plan is a promise about memory: never over, never worse with more, and honest when it fails.

What the plan says of sizes is checked against the trunk that is really built from it.
"""

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecc.errors import BudgetError
from edgecc.learn import geometry
from edgecc.learn.blocks import PoolConv
from edgecc.plan.costs import MIB, Costs, needed, sized
from edgecc.plan.plan import Allowed, Plan, most_classes, readout_dim
from edgecc.plan.planner import neighbours, plan, plans, step_down
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.trunk.compile import Layer, compile_trunk
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.trunk import Trunk

images = st.builds(
    lambda channels, height, width: Input("image", (channels, height, width)),
    st.sampled_from([1, 3]), st.integers(8, 256), st.integers(8, 256),
)
sensors = st.builds(
    lambda channels, time: Input("sensor", (channels, time)),
    st.integers(1, 16), st.integers(1, 4000),
)
specs = images | sensors
budgets = st.integers(144 * MIB, 4096 * MIB)  # what the largest pictures need
payloads = st.integers(1024, 8 * MIB)
MARGIN = Costs().margin


def planned(budget: int, spec: Input, *, blocks: int = 2, max_payload: int = MIB) -> Plan:
    return plan(budget, spec, max_payload=max_payload, blocks=blocks)


@given(budgets, specs, st.integers(0, 4), payloads)
@settings(max_examples=300)
def test_a_plan_is_never_over_its_budget(
    budget: int, spec: Input, blocks: int, max_payload: int
) -> None:
    chosen = planned(budget, spec, blocks=blocks, max_payload=max_payload)
    assert chosen.total == sum(chosen.where.values())
    assert chosen.total * MARGIN <= budget
    assert min(chosen.where.values()) > 0
    assert len(chosen.blocks) in (0, blocks)


def test_more_classes_leave_less_room_for_blocks_and_are_counted() -> None:
    spec = Input("image", (1, 28, 28))
    few, many = (plan(600 * MIB, spec, max_payload=MIB, blocks=3, classes=classes)
                 for classes in (0, 1000))
    assert most_classes(few, spec) < most_classes(many, spec, 1000) == 1000
    assert readout_dim(many, spec) < readout_dim(few, spec)
    least = 1000 * (readout_dim(many, spec) + 1) * 8
    assert min(many.where["daemon: classes"], many.where["learner: classes"]) > 2 * least
    with pytest.raises(BudgetError, match="fits no plan"):
        plan(256 * MIB, spec, max_payload=MIB, blocks=3, classes=50_000)


@given(budgets, specs, st.integers(0, 4))
@settings(max_examples=200)
def test_the_plan_counts_what_a_solve_and_a_training_batch_hold(
    budget: int, spec: Input, blocks: int
) -> None:
    """At least A and its solved copy in each process, and forward and backward of one batch."""
    chosen = planned(budget, spec, blocks=blocks)
    readout = (readout_dim(chosen, spec) + 1) ** 2 * 8
    assert chosen.where["daemon: readout"] >= 2 * readout
    if chosen.blocks:
        _, height, width = spec.model_shape
        cells = min(width, 113) if height == 1 else min(height, 8) * min(width, 8)  # at least
        first = chosen.batch * chosen.blocks[0].channels * cells * 4
        learner = {use: size for use, size in chosen.where.items() if use.startswith("learner")}
        work = sum(learner.values()) - learner["learner: interpreter and libraries"]
        assert work >= max(2 * first, 4 * readout)
        assert chosen.learner_limit >= sum(learner.values()) - learner.get(
            "learner: starting torch", 0)
    else:
        assert chosen.learner_limit == 0


@given(budgets, budgets, specs, st.integers(0, 4))
@settings(max_examples=400)
def test_more_budget_never_gives_fewer_blocks_or_with_as_many_a_smaller_readout(
    one: int, other: int, spec: Input, blocks: int
) -> None:
    less, more = (planned(budget, spec, blocks=blocks) for budget in sorted((one, other)))
    assert len(more.blocks) >= len(less.blocks)
    if len(more.blocks) == len(less.blocks):
        assert readout_dim(more, spec) >= readout_dim(less, spec)
    assert more.batch >= less.batch
    assert sum(block.channels for block in more.blocks) >= sum(
        block.channels for block in less.blocks)


@given(st.integers(0, 4096 * MIB), st.integers(0, 64 * MIB), specs, st.integers(0, 3))
@settings(max_examples=200)
def test_more_budget_is_never_refused_where_less_was_enough(
    budget: int, extra: int, spec: Input, blocks: int
) -> None:
    try:
        planned(budget, spec, blocks=blocks)
    except BudgetError:
        return
    assert planned(budget + extra, spec, blocks=blocks).total * MARGIN <= budget + extra


@given(st.integers(0, Costs().daemon), specs, st.integers(0, 3), payloads)
@settings(max_examples=200)
def test_the_smallest_budget_named_works_and_one_mebibyte_less_does_not(
    budget: int, spec: Input, blocks: int, max_payload: int
) -> None:
    with pytest.raises(BudgetError) as refused:
        planned(budget, spec, blocks=blocks, max_payload=max_payload)
    named = re.search(r"the smallest is (\d+)MiB", str(refused.value))
    assert named is not None
    smallest = int(named[1]) * MIB
    planned(smallest, spec, blocks=blocks, max_payload=max_payload)
    with pytest.raises(BudgetError):
        planned(smallest - MIB, spec, blocks=blocks, max_payload=max_payload)


def told(budget: int, spec: Input, blocks: int) -> tuple[Plan | None, Plan, Plan | None]:
    tried = plans(spec, max_payload=MIB, blocks=blocks, costs=Costs())
    chosen = planned(budget, spec, blocks=blocks)
    less, more = neighbours(tried, chosen, Costs())
    return less, chosen, more


@given(budgets, specs, st.integers(0, 4))
@settings(max_examples=200)
def test_the_budgets_told_beside_a_plan_buy_what_is_told_and_nothing_lies_between(
    budget: int, spec: Input, blocks: int
) -> None:
    less, chosen, more = told(budget, spec, blocks)
    least = math.ceil(needed(chosen, Costs()))
    assert planned(least, spec, blocks=blocks) == chosen
    if less is None:
        with pytest.raises(BudgetError):
            planned(least - 1, spec, blocks=blocks)
    else:
        assert planned(least - 1, spec, blocks=blocks) == less
    if more is None:
        assert planned(2**50, spec, blocks=blocks) == chosen
    else:
        next_one = math.ceil(needed(more, Costs()))
        assert planned(next_one, spec, blocks=blocks) == more
        assert planned(next_one - 1, spec, blocks=blocks) == chosen


@given(budgets, specs, st.integers(1, 4))
@settings(max_examples=200)
def test_every_step_down_takes_no_more_memory_and_the_last_has_no_blocks(
    budget: int, spec: Input, blocks: int
) -> None:
    plan, seen = planned(budget, spec, blocks=blocks), []
    for number in range(20):
        seen.append(step_down(plan, number, spec, max_payload=MIB, costs=Costs()))
    assert seen[0] == plan
    assert seen[-1].blocks == ()
    stems = {(one.stem_filters, one.stem_grid) for one in seen}
    assert len(stems) == 1
    for one, smaller in pairwise(seen):
        assert smaller.total <= one.total
        assert smaller.total < one.total or smaller.batch < one.batch or not smaller.blocks


@given(budgets, specs, st.integers(1, 4))
@settings(max_examples=200)
def test_numpy_is_planned_only_where_torch_does_not_fit(
    budget: int, spec: Input, blocks: int
) -> None:
    chosen = planned(budget, spec, blocks=blocks)
    if chosen.backend == "numpy":
        same = sized(replace(chosen, backend="torch"), spec, max_payload=MIB, costs=Costs())
        assert needed(same, Costs()) > budget


@given(budgets, specs, st.sampled_from(["torch", "numpy"]))
@settings(max_examples=200)
def test_a_backend_that_is_asked_for_is_the_only_one(
    budget: int, spec: Input, backend: Allowed
) -> None:
    chosen = plan(budget, spec, max_payload=MIB, blocks=3, backend=backend)
    for number in range(20) if chosen.blocks else ():
        less = step_down(
            chosen, number, spec, max_payload=MIB, costs=Costs(), backend=backend)
        assert less.backend == backend or not less.blocks


@given(budgets, specs, st.integers(0, 4))
def test_the_same_budget_gives_the_same_plan(budget: int, spec: Input, blocks: int) -> None:
    one, other = (planned(budget, spec, blocks=blocks) for _ in range(2))
    assert one == other
    assert one.describe() == other.describe()


@given(budgets, specs, st.integers(1, 3))
def test_a_dearer_board_gets_no_wider_plan(budget: int, spec: Input, blocks: int) -> None:
    dear = replace(Costs(), daemon=90 * MIB, learner=600 * MIB, learner_numpy=200 * MIB)
    cheap = planned(budget, spec, blocks=blocks)
    try:
        chosen = plan(budget, spec, max_payload=MIB, blocks=blocks, costs=dear)
    except BudgetError:
        return
    assert len(chosen.blocks) <= len(cheap.blocks)
    assert chosen.total * MARGIN <= budget


def test_a_zero_w_predicts_and_a_larger_board_grows() -> None:
    spec = Input("image", (3, 64, 64))
    assert planned(128 * MIB, spec).blocks == ()
    assert len(planned(512 * MIB, spec).blocks) == 2


@pytest.mark.parametrize("spec", [
    Input("image", (1, 8, 8)), Input("image", (1, 28, 28)), Input("image", (3, 64, 96)),
    Input("image", (3, 9, 200)), Input("sensor", (6, 100)), Input("sensor", (2, 7)),
    Input("sensor", (1, 1)),
], ids=lambda spec: f"{spec.kind}{list(spec.shape)}")
@pytest.mark.parametrize("budget", [128 * MIB, 420 * MIB, 2048 * MIB])
def test_the_trunk_that_is_built_has_the_features_that_were_planned(
    spec: Input, budget: int
) -> None:
    chosen = planned(budget, spec)
    trunk = built(chosen, spec)
    assert trunk.dim == readout_dim(chosen, spec)
    run = Interpreter(compile_trunk(trunk.layers, input_shape=trunk.shape)).run
    x = trunk.scale(np.zeros(spec.model_shape, spec.dtype))
    assert run(x).shape == (readout_dim(chosen, spec),)


def built(chosen: Plan, spec: Input) -> Trunk:
    """Stem and untrained blocks, each as large as the map below it allows."""
    trunk = stem_trunk(chosen, spec, seed=0)
    generator = torch.Generator().manual_seed(0)
    for block in chosen.blocks:
        run = Interpreter(compile_trunk(trunk.layers, input_shape=trunk.shape, output="map")).run
        height, width, channels = run(trunk.scale(np.zeros(spec.model_shape, spec.dtype))).shape
        pool = geometry.fitted(block.pool, (height, width))
        conv = PoolConv(
            channels, pool, block.channels, geometry.odd(block.kernel, (height, width)),
            norm="batch", generator=generator,
        )
        grid = geometry.fitted(block.grid, (height // pool[0], width // pool[1]))
        layer = Layer((conv.weights[0].numpy(),), np.zeros(block.channels, np.float32), pool, grid)
        trunk = replace(
            trunk, layers=(*trunk.layers, layer), methods=(*trunk.methods, "contextual"))
    return trunk
