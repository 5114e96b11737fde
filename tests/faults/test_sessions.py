"""The broker's side of the session: lost, expired, taken over, refused, restarted."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from support.brokers import OPEN, Broker
from support.patience import exit_code
from support.peer import Peer

from faults.clock import Clock
from faults.producer import Producer
from faults.trouble import KILLED, MakeTrouble, Trouble

FORGETFUL = OPEN + "persistence false"
DAY = 24 * 3600


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "broker", FORGETFUL).start()
    yield made
    made.stop()


def is_event(trouble: Trouble, kind: str) -> Any:
    topic = trouble.node.topic("event")
    return lambda m: m.topic == topic and m.json["type"] == kind


def test_a_broker_that_keeps_its_sessions_is_restarted_unnoticed(
    broker: Broker, make_trouble: MakeTrouble
) -> None:
    trouble = make_trouble(broker.port)
    trouble.node.start()
    trouble.burst(100)
    trouble.checker.await_stored()
    trouble.node.kill()
    trouble.burst(100)
    broker.restart(trouble.node.peer)
    trouble.tally.faults["broker restarted with persistence"] += 1
    trouble.node.start()
    trouble.burst(20)
    trouble.settle()
    assert not any(map(is_event(trouble, "session-lost"), trouble.node.peer.messages))


def test_a_broker_that_forgets_everything_costs_nothing_but_sending_again(
    forgetful: Broker, make_trouble: MakeTrouble
) -> None:
    trouble = make_trouble(forgetful.port)
    trouble.node.start()
    producer = Producer(trouble, 0)
    producer.start()
    trouble.node.peer.wait(lambda m: m.topic.endswith("/receipt"))
    trouble.node.kill()
    forgetful.restart(trouble.node.peer, end=signal.SIGKILL)
    trouble.count("daemon at random")
    trouble.count("broker at random")
    trouble.tally.faults["broker restarted without persistence"] += 1
    trouble.revive()
    trouble.node.peer.wait(is_event(trouble, "session-lost"))
    producer.finish()
    trouble.settle()


def test_a_session_that_expired_while_the_node_was_away_is_an_event(
    tmp_path: Path, clock: Clock, make_trouble: MakeTrouble
) -> None:
    """The broker's clock goes on by eight days, the node's session is for seven."""
    broker = Broker(tmp_path / "broker", environ=clock.environ).start()
    try:
        trouble = make_trouble(broker.port)
        trouble.node.start()
        trouble.burst(20)
        trouble.checker.await_stored()
        trouble.node.kill()
        trouble.node.peer.wait(lambda m: m.payload == b"offline")
        clock.set(8 * DAY)
        broker.await_saying(f"Expiring client edgecc-{trouble.node.name}")
        trouble.tally.faults["session expired"] += 1
        heard = len(trouble.node.peer.messages)
        trouble.node.start()
        trouble.node.peer.wait(is_event(trouble, "session-lost"), after=heard)
        Producer(trouble, 0).finish()
        trouble.settle()
    finally:
        broker.stop()


def test_a_node_says_that_another_client_has_its_id_and_loses_nothing(
    broker: Broker, make_trouble: MakeTrouble
) -> None:
    """mosquitto 2.0.11 does not tell a client why it ends the connection: the node finds out."""
    trouble = make_trouble(broker.port)
    node = trouble.node
    trouble.start()
    trouble.burst(50)
    trouble.checker.await_stored()
    other = paho.Client(CallbackAPIVersion.VERSION2, f"edgecc-{node.name}", protocol=paho.MQTTv5)
    other.reconnect_delay_set(1, 1)
    other.connect("127.0.0.1", broker.port, clean_start=True)
    other.loop_start()
    trouble.tally.faults["duplicate client id"] += 1
    trouble.until(lambda: "does another device" in node.output)
    other.disconnect()
    other.loop_stop()
    node.kill()  # rather than wait for its backoff
    trouble.count("daemon at random")
    trouble.revive()
    trouble.await_answer()
    trouble.burst(50)
    trouble.settle()


def test_receipts_that_an_acl_denies_arrive_once_it_allows_them(
    tmp_path: Path, broker: Broker, make_trouble: MakeTrouble
) -> None:
    trouble = make_trouble(broker.port)
    acl = tmp_path / "acl"
    allowed = [f"topic write edgecc/v1/+/{rest}/#\n" for rest in ("in", "command", "response")]
    acl.write_text("topic read #\n" + "".join(allowed))
    acl.chmod(0o600)
    broker.restart(trouble.node.peer, f"{OPEN}acl_file {acl}")
    trouble.start()
    trouble.burst(50)
    trouble.tally.faults["acl denies receipts"] += 1
    trouble.until(lambda: "the broker refused a message: Not authorized" in trouble.node.output)
    trouble.until(lambda: trouble.node.rows("SELECT COUNT(*) FROM sample") == [(50,)])
    assert not trouble.node.receipts()
    trouble.node.kill()  # so that it does not speak before its peer listens
    trouble.count("daemon at random")
    broker.restart(trouble.node.peer, OPEN)
    trouble.revive()
    trouble.settle()


def test_packets_too_large_for_broker_or_node_harm_nobody_else(
    broker: Broker, make_trouble: MakeTrouble
) -> None:
    trouble = make_trouble(broker.port, mqtt={"max_payload": 1024})
    node = trouble.node
    broker.restart(node.peer, f"{OPEN}max_packet_size 200000")
    node.start()
    trouble.burst(20)
    for size in (100_000, 300_000):  # too large for the node, and for the broker
        with contextlib.closing(Peer(broker.port, node.topic("status"))) as producer:
            producer.publish(node.topic("in/t/sample"), bytes(size), wait=size < 200_000)
        trouble.tally.faults["packet too large"] += 1
    node.peer.publish(node.topic("command/checkpoint"), '{"id": "c"}')  # its files are larger
    node.peer.wait(lambda m: m.topic == node.topic("response/checkpoint"))
    trouble.burst(20)
    trouble.settle()
    assert node.stop() == 0, node.output


@pytest.mark.parametrize("point", ["before write", "before ack"])
@pytest.mark.parametrize("restarted", [False, True])
def test_labels_that_are_delivered_again_are_logged_once_each_and_in_order(
    broker: Broker, make_trouble: MakeTrouble, point: str, restarted: bool
) -> None:
    """A label may come back to what it was before: it is then no redelivery of the earlier one."""
    trouble, given = make_trouble(broker.port), ["cat", "dog", "cat", "owl", "cat"]
    node = trouble.node
    trouble.start()
    identity, = trouble.burst(1)
    trouble.checker.await_stored()
    trouble.arm("daemon", point)
    for label in given:
        trouble.label(identity, label)
    assert node.process is not None
    assert exit_code(node.process) == KILLED
    trouble.count(f"daemon {point}")
    if restarted:
        broker.restart(node.peer)
    trouble.start()
    logged = node.rows("SELECT label FROM label ORDER BY seq")
    assert [label for (label,) in logged] == [trouble.checker.sent[identity], *given]
