"""The wall clock jumps, back and forth, under a node that runs and under one that starts."""

import time

import pytest
from support.brokers import Broker

from faults.clock import Clock
from faults.trouble import MakeTrouble, Trouble

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
        await_time(trouble, offset)
    trouble.settle()
    assert node.stop() == 0, node.output


def await_time(trouble: Trouble, offset: int) -> None:
    """Until the node's clock, by its own word, is off by so many seconds."""
    node = trouble.node
    node.peer.wait(lambda m: m.topic == node.topic("health")
                   and abs(m.json["ts"] - time.time() - offset) < 60, after=len(node.peer.messages))
