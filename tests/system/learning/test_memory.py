"""Memory that runs out makes growths smaller, one step at a time; never predictions."""

import json
from typing import Any

from support.datasets import SERIES, fashion_series
from support.growths import await_closed
from support.live_node import MakeNode, Node
from support.patience import DEADLINE
from support.peer import Message

from edgecc.checkpoint import generation
from edgecc.config.state import State
from edgecc.plan import budget
from edgecc.plan.costs import MIB, Costs
from edgecc.plan.plan import Plan

LYING = Costs(learner=30 * MIB, learner_start=0, unseen=30 * MIB)  # torch takes 200 MiB


def events(node: Node, kind: str) -> list[dict[str, Any]]:
    return [m.json["data"] for m in node.peer.messages
            if m.topic == node.topic("event") and m.json["type"] == kind]


def test_a_learner_without_memory_comes_back_with_a_smaller_plan_also_after_a_restart(
    make_node: MakeNode
) -> None:
    images, labels = fashion_series()
    node = make_node(grow={"first": 400, "epochs": 8}, input=SERIES, stem="patches",
                     memory_budget="512MiB")
    node.state.mkdir()
    budget.write(State(node.state).costs, LYING)
    planned = json.loads(node.run("plan", "--json").stdout)
    assert (planned["backend"], planned["batch"]) == ("torch", 64)
    assert planned["costs"] == str(State(node.state).costs)
    node.start()
    node.stream(images[:400], labels[:400])

    def smaller(message: Message) -> bool:
        return message.topic == node.topic("event") and message.json["type"] == "plan-smaller"

    node.peer.wait(smaller, timeout=3 * DEADLINE)  # torch dies in many ways where it has no room
    assert node.ask(images[500])["label"] is not None
    node.kill()
    node.start()
    assert node.ask(images[501])["label"] is not None
    accepted = node.peer.wait(lambda m: m.topic == node.topic("event") and m.json["type"] == (
        "verdict") and m.json["data"]["accepted"], timeout=4 * DEADLINE).json["data"]
    steps = {event["steps"]: event["now"] for event in events(node, "plan-smaller")}
    widths = [block["channels"] for block in planned["blocks"]]
    assert [steps[n] for n in sorted(steps)] == [
        {"channels": widths, "batch": 32, "backend": "torch"},
        {"channels": widths, "batch": 16, "backend": "torch"},
        {"channels": widths, "batch": 16, "backend": "numpy"},
    ]
    assert {event["growth"] for event in events(node, "learner-memory")} == {1}
    await_closed(node, 1)
    kept = node.state / "generations"
    newest = generation.unsigned(kept / generation.name_of(generation.numbers(kept)[-1]))
    assert newest is not None
    assert newest.digest == accepted["digest"]
    trained = Plan.restored(newest.plan)
    assert (trained.backend, trained.batch) == ("numpy", 16)
