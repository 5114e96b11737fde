"""The wall clock jumps, back and forth, under a node that runs and under one that starts."""

import time

import pytest

from faults.broker import Broker
from faults.clock import Clock
from faults.conftest import MakeTrouble
from faults.trouble import Trouble

YEAR = 365 * 24 * 3600
JUMPS = (YEAR, -YEAR, 0, -50 * YEAR, 30 * YEAR, 3600, -3600, 0)


@pytest.mark.parametrize("restarted", [False, True])
def test_the_clock_jumps_and_nothing_is_lost_or_done_twice(
    broker: Broker, clock: Clock, make_trouble: MakeTrouble, full: bool, restarted: bool
) -> None:
    trouble = make_trouble(broker.port)
    node = trouble.node
    node.environ |= clock.environ
    node.start()
    for offset in JUMPS if full else JUMPS[:2]:
        trouble.burst(10)
        trouble.checker.await_stored()
        clock.set(offset)
        trouble.tally.faults["clock jumps"] += 1
        if restarted:
            node.kill()
            trouble.count("daemon at random")
            trouble.revive()
        trouble.burst(10)
        trouble.checker.await_stored()
        assert said_now(trouble) == pytest.approx(offset, abs=60)
    trouble.settle()
    assert node.stop() == 0, node.output


def said_now(trouble: Trouble) -> float:
    """Seconds by which the node's clock is off, by its own word."""
    health = trouble.node.topic("health")
    heard = len(trouble.node.peer.messages)
    message = trouble.node.peer.wait(lambda m: m.topic == health, after=heard)
    return float(message.json["ts"]) - time.time()
