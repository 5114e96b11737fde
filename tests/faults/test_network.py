"""TCP between node and broker: slow, late, reset, half-open, cut in the middle of a packet."""

from collections.abc import Callable, Iterator

import pytest
from support.brokers import Broker

from faults.proxy import Proxy
from faults.trouble import MakeTrouble

KEEPALIVE = 5  # seconds; the least there is
LOST = "no connection to the broker"


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    made = Proxy(broker.port)
    yield made
    made.close()


def latency(proxy: Proxy) -> None:
    proxy.latency = 0.2


def slow(proxy: Proxy) -> None:
    proxy.rate = 20_000


def reset(proxy: Proxy) -> None:
    proxy.reset()


def half_open(proxy: Proxy) -> None:
    proxy.silent = True


def cut_mid_packet(proxy: Proxy) -> None:
    proxy.cut = 1001


BREAKING = (reset, half_open, cut_mid_packet)


@pytest.mark.parametrize("fault", [latency, slow, reset, half_open, cut_mid_packet])
def test_what_is_sent_while_the_network_fails_arrives_once(
    broker: Broker, proxy: Proxy, make_trouble: MakeTrouble, full: bool,
    fault: Callable[[Proxy], None],
) -> None:
    trouble = make_trouble(broker.port, mqtt={"port": proxy.port, "keepalive": KEEPALIVE})
    node = trouble.node
    node.start()
    for _ in range(3 if full else 1):
        losses = node.output.count(LOST)
        trouble.burst(40)
        fault(proxy)
        trouble.tally.faults[f"network: {fault.__name__.replace('_', ' ')}"] += 1
        trouble.burst(40)
        if fault in BREAKING:
            trouble.until(lambda: node.output.count(LOST) > losses)  # noqa: B023
        proxy.heal()
        trouble.checker.await_stored()
    trouble.settle()
    assert node.stop() == 0, node.output
