"""Generations are a function of the log: killed fifty times or never, they are the same."""

import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest
from support.brokers import Broker
from support.datasets import SERIES, Digits, fashion_series
from support.growths import await_closed, chain, closed
from support.peer import Message

from faults.trouble import MakeTrouble, Trouble

# In the order in which a node comes to them: while samples come in, and in each growth. Daemon
# and learner take turns, since a learner that keeps dying is started again ever later.
INGESTING = (
    ("daemon", "after receive", 5), ("daemon", "before rename", 1), ("daemon", "after rename", 1),
    ("daemon", "mid-write", 70), ("daemon", "after ack", 3),
)
GROWING = (
    ("learner", "mid-training", 1), ("daemon", None, 0), ("learner", "mid-training", 40),
    ("learner", None, 0), ("daemon", "before swap", 5), ("learner", "before replace", 1),
    ("learner", "mid-generation", 3), ("daemon", None, 0), ("learner", "after replace", 1),
    ("learner", "before replace", 2), ("daemon", "before publish", 5),
    ("learner", "after replace", 2), ("daemon", "mid-generation", 1),
    ("daemon", "before replace", 1), ("daemon", "before rename", 1), ("daemon", "after rename", 1),
    ("daemon", "after write", 1), ("daemon", "after commit", 1), ("daemon", "after replace", 1),
)
CUT = (GROWING[2], GROWING[7], GROWING[9], GROWING[14])


@pytest.fixture
def fashion() -> Digits:
    return fashion_series()


def test_generations_are_the_same_killed_fifty_times_or_never(
    broker: Broker, make_trouble: MakeTrouble, fashion: Digits, full: bool
) -> None:
    settings: dict[str, Any] = {"grow": {"first": 200, "epochs": 40}, "input": SERIES}
    growths = (1, 3, 5, 7) if full else (1, 3)
    calm, killed = (make_trouble(broker.port, **settings) for _ in range(2))
    wanted = grown(calm, fashion, growths, {})
    assert len(wanted[0]) >= 4, "three stems and at least one grown generation"
    scripts = dict.fromkeys(growths, GROWING if full else CUT)
    assert grown(killed, fashion, growths, scripts | {0: INGESTING}) == wanted
    assert killed.kills >= (50 if full else 9)


def grown(
    trouble: Trouble, fashion: Digits, growths: tuple[int, ...], scripts: dict[int, Any]
) -> tuple[list[str], list[tuple[Any, ...]], dict[str, Any]]:
    """The chain of generations, the verdicts and a prediction after all growths."""
    images, labels = fashion
    node, count = trouble.node, 100 + 200 * 2 ** (growths[-1] // 2)
    node.start()
    trouble.checker.sent.update({f"d-{n}": str(label) for n, label in enumerate(labels[:count])})
    ingest(trouble, lambda: node.stream(images[:count], labels[:count]), scripts.get(0, ()))
    for number in growths:
        for role, point, passes in scripts.get(number, ()):
            if closed(node, number):
                break
            kill(trouble, number, role, point, passes)
        await_closed(node, number)
    assert node.rows("SELECT id FROM sample WHERE row <= ? ORDER BY row", count) == [
        (f"d-{n}",) for n in range(count)]
    trouble.settle()
    body = node.ask(images[2000], generation=len(chain(node)) - 1)
    judged = node.rows("SELECT * FROM verdict ORDER BY growth, block")
    return chain(node), judged, {key: body[key] for key in ("label", "top", "generation")}


def ingest(trouble: Trouble, send: Callable[[], object], script: Any) -> None:
    """Send all of it. The node dies at each point in turn, armed before it lives again: it may
    have taken everything in a moment later."""
    for place, (role, point, passes) in enumerate(script):
        trouble.arm(role, point, passes)
        if place:
            trouble.revive()
        else:
            send()
        trouble.await_strike(lambda: False)
        trouble.count(f"{role} {point}")
    if script:
        trouble.revive()
    else:
        send()


def kill(trouble: Trouble, number: int, role: str, point: str | None, passes: int) -> None:
    """One process, once; or none, where growth `number` is over before it comes to the point."""
    if point is None:
        at_random(trouble, role)
    else:
        trouble.arm(role, point, passes)
        if not trouble.await_strike(lambda: closed(trouble.node, number)):
            return
    trouble.count(f"{role} {point or 'at random'}")
    if role == "daemon":
        trouble.revive()


def at_random(trouble: Trouble, role: str) -> None:
    """After some signs of life of the learner."""
    node, moments = trouble.node, random.Random(trouble.kills)
    for _ in range(moments.randrange(1, 4)):
        node.peer.wait(training, after=len(node.peer.messages))
    if role == "daemon":
        node.kill(after=moments.uniform(0, 0.2))
    elif node.learner is not None:
        os.kill(node.learner, signal.SIGKILL)


def training(message: Message) -> bool:
    return message.topic.endswith("/train")
