"""SIGKILL, of each process, at named points and at random; nothing is lost and nothing doubled."""

import random

import numpy as np
from support.brokers import Broker
from support.datasets import npy

from edgecc.capture.item import Item
from edgecc.capture.producer import Stream
from edgecc.config.loading import load
from edgecc.mqtt.client import Client
from faults.producer import Producer
from faults.trouble import KILLED, MakeTrouble, Trouble, plan


def test_a_daemon_killed_at_every_point_has_all_that_the_broker_took(
    broker: Broker, make_trouble: MakeTrouble, full: bool
) -> None:
    """Producers here never send again: what the broker has, the daemon must not let go of."""
    trouble, moments = make_trouble(broker.port), random.Random(2)
    trouble.node.start()
    for role, point, passes in plan(["daemon"], 800 if full else 20, seed=1):
        if point is None:
            trouble.burst()
            trouble.node.kill(after=moments.uniform(0.0, 0.15))
        else:
            trouble.strike(role, point, passes, lambda: stir(trouble))
        trouble.count(f"daemon {point or 'at random'}")
        trouble.recover()
    trouble.settle()


def stir(trouble: Trouble) -> None:
    """Something to take in, and a generation to write."""
    trouble.burst()
    node = trouble.node
    node.peer.publish(node.topic("command/checkpoint"), '{"id": "c"}', wait=False)


def test_broker_and_producers_killed_the_node_still_has_all_that_was_sent(
    broker: Broker, make_trouble: MakeTrouble, full: bool
) -> None:
    """`edgecc stream` is run again until it ends with 0: by its word all has a receipt."""
    trouble, moments = make_trouble(broker.port), random.Random(3)
    trouble.node.start()
    for number, (role, point, passes) in enumerate(plan(["producer"], 200 if full else 6, seed=4)):
        producer = Producer(trouble, number)
        if point is not None:
            trouble.arm(role, point, passes)
            assert producer.run() == KILLED
            trouble.count(f"producer {point}")
        elif moments.random() < 0.5:
            producer.kill(after=moments.uniform(0.4, 1.0))
            power_cut(trouble, broker)
        else:
            producer.start()
            broker.kill()
            trouble.count("broker at random")
            broker.start()
        producer.finish()
    trouble.settle()


def power_cut(trouble: Trouble, broker: Broker) -> None:
    """Daemon and broker die at once, and what the broker had not yet written is gone."""
    broker.kill()
    trouble.node.kill()
    trouble.count("broker at random")
    trouble.count("daemon at random")
    broker.start()
    trouble.revive()


def test_a_stream_that_hears_more_than_receipts_goes_on(
    broker: Broker, make_trouble: MakeTrouble
) -> None:
    """As where the node comes back while its retained status is being looked at."""
    node = make_trouble(broker.port).node
    node.start()
    settings = load(node.config, environ={})
    with Client(settings) as client:
        client.subscribe([settings.topics / "status"])
        sending = Stream(client, settings.topics, "t")
        one = Item("one", npy(np.zeros((1, 8, 8), np.uint8)), "application/x-npy")
        sending.run(iter([one]), lambda _: None)
    assert sending.counts == {"sent": 1, "stored": 1}
