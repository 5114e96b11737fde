"""A learner that runs out of memory: the kernel's own limit, lowered while it trains."""

import resource

from support.brokers import Broker
from support.growths import closed
from support.peer import Message

from faults.trouble import MakeTrouble, Trouble

TIMES = 3


def test_a_learner_without_memory_makes_its_growth_smaller_and_costs_nothing_else(
    broker: Broker, make_trouble: MakeTrouble
) -> None:
    trouble = make_trouble(broker.port, grow={"first": 150, "epochs": 200})
    node = trouble.node
    node.start()
    trouble.burst(220)
    for _ in range(TIMES):
        heard = len(node.peer.messages)
        node.peer.wait(is_training, after=heard)
        take_memory_away(trouble)
        trouble.tally.faults["learner out of memory"] += 1
        trouble.burst(5)
        node.peer.wait(lambda m: m.topic == node.topic("event")
                       and m.json["type"] == "learner-memory", after=heard)
    trouble.until(lambda: closed(node, 1))
    trouble.settle()
    steps = [m.json["data"]["steps"] for m in node.peer.messages
             if m.topic == node.topic("event") and m.json["type"] == "plan-smaller"]
    assert steps == list(range(1, TIMES + 1))
    assert node.rows("SELECT COUNT(*) FROM verdict") != [(0,)]


def is_training(message: Message) -> bool:
    return message.topic.endswith("/train") and message.json["phase"] == "training"


def take_memory_away(trouble: Trouble) -> None:
    """The learner may have no more than it has."""
    learner = trouble.node.learner
    assert learner is not None
    resource.prlimit(learner, resource.RLIMIT_DATA, (2**20, 2**20))
