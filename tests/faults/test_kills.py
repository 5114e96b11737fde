"""SIGKILL, of each process, at named points and at random; nothing is lost and nothing doubled."""

import random

from faults.broker import Broker
from faults.conftest import MakeTrouble
from faults.trouble import Trouble, plan


def test_a_daemon_killed_at_every_point_has_all_that_the_broker_took(
    broker: Broker, make_trouble: MakeTrouble, full: bool
) -> None:
    """Producers here never send again: what the broker has, the daemon must not let go of."""
    trouble, moments = make_trouble(broker.port), random.Random(2)
    trouble.node.start()
    for role, point, passes in plan(["daemon"], 800 if full else 20, seed=1):
        if point is None:
            trouble.burst()
            trouble.kill_daemon(after=moments.uniform(0.0, 0.15))
        else:
            trouble.strike(role, point, passes, lambda: stir(trouble))
            trouble.died(f"daemon {point}")
    trouble.settle()


def stir(trouble: Trouble) -> None:
    """Something to take in, and a generation to write."""
    trouble.burst()
    node = trouble.node
    node.peer.publish(node.topic("command/checkpoint"), '{"id": "c"}', wait=False)
