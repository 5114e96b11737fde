"""The broker that deploy/ ships: what each role may do and must not, and what is kept for a node.

mosquitto answers many a denied publication or subscription with success, so a refusal is shown by
delivery: the forbidden message goes first, then a permitted marker, and the marker arrives first.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.patience import until
from support.shipped import MARKER, Broker, Client


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    running = Broker(tmp_path_factory.mktemp("mosquitto"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


def test_a_sample_of_a_producer_reaches_the_node_and_the_prediction_comes_back(
    broker: Broker,
) -> None:
    with Client(broker, "cam1") as node, Client(broker, "producer") as producer:
        node.subscribe("edgecc/v1/cam1/in/+/sample/+")
        producer.subscribe("edgecc/v1/cam1/out/+/prediction")
        producer.publish("edgecc/v1/cam1/in/door/sample/cat", b"picture")
        assert node.next() == ("edgecc/v1/cam1/in/door/sample/cat", b"picture")
        node.publish("edgecc/v1/cam1/out/door/prediction", b"cat")
        assert producer.next() == ("edgecc/v1/cam1/out/door/prediction", b"cat")


def test_a_node_proves_its_rights_by_its_own_canary(broker: Broker) -> None:
    with Client(broker, "cam1") as node:
        node.subscribe("edgecc/v1/cam1/in/canary").publish("edgecc/v1/cam1/in/canary", b"alive")
        assert node.next() == ("edgecc/v1/cam1/in/canary", b"alive")


ALLOWED = [
    ("producer", "cam1/in/door/sample", "cam1"),
    ("producer", "cam1/in/door/label", "cam1"),
    ("operator", "cam1/in/door/label", "cam1"),
    ("operator", "cam1/command/rollback", "cam1"),
    ("operator", "cam1/checkpoint/get", "cam1"),
    ("operator", "cam1/checkpoint/put", "cam1"),
    ("operator", "cam1/command/push", "cam1"),
    ("cam1", "cam1/response/rollback", "operator"),
    ("cam1", "cam1/checkpoint/index", "operator"),
    ("cam1", "cam1/checkpoint/7/manifest", "operator"),
    ("cam1", "cam1/checkpoint/data/laptop/t1/0", "operator"),
    ("cam1", "cam1/out/door/receipt", "producer"),
    ("cam1", "cam1/out/door/state", "viewer"),
    *(("cam1", f"cam1/{t}", "viewer") for t in ("status", "info", "health", "train", "event")),
]


@pytest.mark.parametrize(("writer", "topic", "reader"), ALLOWED)
def test_a_role_may_do_what_it_is_for(broker: Broker, writer: str, topic: str, reader: str) -> None:
    topic = f"edgecc/v1/{topic}"
    with Client(broker, reader) as listening, Client(broker, writer) as writing:
        listening.subscribe(topic)
        writing.publish(topic, b"allowed")
        assert listening.next() == (topic, b"allowed")


def test_a_command_of_a_viewer_never_reaches_the_node(broker: Broker) -> None:
    with (
        Client(broker, "cam1") as node,
        Client(broker, "viewer") as viewer,
        Client(broker, "operator") as operator,
    ):
        node.subscribe("edgecc/v1/cam1/command/+")
        viewer.publish("edgecc/v1/cam1/command/rollback", b"forbidden")
        operator.publish(*MARKER)
        assert node.next() == MARKER


WRITES_REFUSED = [
    ("viewer", "cam1/command/forget"),
    ("viewer", "cam1/in/door/label"),
    ("viewer", "cam1/checkpoint/get"),
    ("viewer", "cam1/checkpoint/put"),
    ("viewer", "cam1/command/push"),
    ("viewer", "viewer/status"),
    ("producer", "cam1/command/forget"),
    ("producer", "cam1/in/canary"),
    ("producer", "cam1/out/door/receipt"),
    ("producer", "cam1/checkpoint/get"),
    ("producer", "cam1/checkpoint/put"),
    ("producer", "cam1/command/push"),
    ("producer", "producer/status"),
    ("operator", "cam1/in/door/sample"),
    ("operator", "cam1/status"),
    ("operator", "cam1/checkpoint/7/manifest"),
    ("cam2", "cam1/in/door/sample"),
    ("cam2", "cam1/in/canary"),
    ("cam2", "cam1/status"),
    ("cam2", "cam1/command/forget"),
    ("cam2", "cam2/command/forget"),
    ("cam2", "cam2/in/door/sample"),
]


@pytest.mark.parametrize(("user", "topic"), WRITES_REFUSED)
def test_what_a_role_must_not_write_is_delivered_to_nobody(
    broker: Broker, user: str, topic: str
) -> None:
    with (
        Client(broker, "operator") as witness,
        Client(broker, user) as intruder,
        Client(broker, "operator") as operator,
    ):
        witness.subscribe("edgecc/v1/#")
        intruder.publish(f"edgecc/v1/{topic}", b"forbidden")
        operator.publish(*MARKER)
        assert witness.next() == MARKER


def test_a_forbidden_retained_message_is_not_kept_for_later_readers(broker: Broker) -> None:
    with Client(broker, "viewer") as viewer, Client(broker, "cam1") as node:
        viewer.publish("edgecc/v1/cam1/event", b"forbidden", retain=True)
        viewer.subscribe("edgecc/v1/cam1/event")
        node.publish("edgecc/v1/cam1/event", b"marker")
        assert viewer.next() == ("edgecc/v1/cam1/event", b"marker")


READS_REFUSED = [
    ("viewer", "producer", "cam1/in/door/sample", "cam1/status"),
    ("viewer", "operator", "cam1/command/ping", "cam1/status"),
    ("viewer", "cam1", "cam1/checkpoint/7/manifest", "cam1/status"),
    ("viewer", "cam1", "cam1/checkpoint/data/laptop/t1/0", "cam1/status"),
    ("producer", "producer", "cam1/in/door/sample", "cam1/out/door/receipt"),
    ("producer", "cam1", "cam1/response/ping", "cam1/out/door/receipt"),
    ("producer", "cam1", "cam1/checkpoint/data/laptop/t1/0", "cam1/out/door/receipt"),
    ("producer", "operator", "cam1/command/ping", "cam1/out/door/receipt"),
]


@pytest.mark.parametrize(("user", "writer", "forbidden", "permitted"), READS_REFUSED)
def test_what_a_role_must_not_read_is_not_delivered_to_it(
    broker: Broker, user: str, writer: str, forbidden: str, permitted: str
) -> None:
    with (
        Client(broker, user) as curious,
        Client(broker, writer) as writing,
        Client(broker, "cam1") as node,
    ):
        curious.subscribe("edgecc/v1/#")
        writing.publish(f"edgecc/v1/{forbidden}", b"not for everybody")
        node.publish(f"edgecc/v1/{permitted}", b"marker")
        assert curious.next() == (f"edgecc/v1/{permitted}", b"marker")


def test_a_node_sees_no_sample_of_another_node(broker: Broker) -> None:
    with Client(broker, "cam2") as other, Client(broker, "producer") as producer:
        other.subscribe("edgecc/v1/#")
        producer.publish("edgecc/v1/cam1/in/door/sample", b"of cam1")
        producer.publish("edgecc/v1/cam2/in/door/sample", b"marker")
        assert other.next() == ("edgecc/v1/cam2/in/door/sample", b"marker")


def test_a_client_without_a_name_is_refused(broker: Broker) -> None:
    with pytest.raises(ConnectionRefusedError, match="Not authorized"):
        Client(broker)


def test_a_wrong_password_is_refused(broker: Broker) -> None:
    with pytest.raises(ConnectionRefusedError, match="Not authorized"):
        Client(broker, "viewer", password="password of operator")


def test_a_certificate_makes_its_common_name_the_user(broker: Broker) -> None:
    with Client(broker, "operator") as witness, Client(broker, cert="cam1") as node:
        witness.subscribe("edgecc/v1/#")
        node.publish("edgecc/v1/cam2/status", b"forbidden")
        node.publish("edgecc/v1/cam1/status", b"marker")
        assert witness.next() == ("edgecc/v1/cam1/status", b"marker")


def test_a_certificate_outweighs_the_password_of_another_role(broker: Broker) -> None:
    with (
        Client(broker, "operator") as witness,
        Client(broker, "operator", cert="cam1") as node,
    ):
        witness.subscribe("edgecc/v1/#")
        node.publish("edgecc/v1/cam1/command/forget", b"forbidden")
        node.publish("edgecc/v1/cam1/status", b"marker")
        assert witness.next() == ("edgecc/v1/cam1/status", b"marker")


def test_a_client_without_a_certificate_is_refused_whatever_its_password(broker: Broker) -> None:
    with pytest.raises(ConnectionRefusedError):
        Client(broker, "operator", cert="")
    Client(broker, cert="operator").close()


def test_a_certificate_of_another_authority_is_refused(broker: Broker) -> None:
    with pytest.raises(ConnectionRefusedError):
        Client(broker, cert="forged")


# What the broker keeps


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """One that a test may stop and kill."""
    running = Broker(tmp_path)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def queue_for_absent_node(broker: Broker, count: int) -> None:
    with Client(broker, "cam1", session="cam1") as node:
        node.subscribe("edgecc/v1/cam1/in/+/sample")
    with Client(broker, "producer") as producer:
        for number in range(count):
            producer.publish("edgecc/v1/cam1/in/door/sample", b"%d" % number)


def queued(broker: Broker, count: int) -> list[int]:
    """What the node finds when it comes back, up to a marker sent behind it."""
    with Client(broker, "cam1", session="cam1") as node, Client(broker, "producer") as producer:
        node.subscribe("edgecc/v1/cam1/in/+/sample")
        producer.publish("edgecc/v1/cam1/in/door/sample", b"%d" % count)
        return list(iter(lambda: int(node.next()[1]), count))


def test_a_stopped_broker_keeps_every_sample_for_an_absent_node(own_broker: Broker) -> None:
    queue_for_absent_node(own_broker, 1500)
    own_broker.stop()
    own_broker.start()
    assert queued(own_broker, 1500) == list(range(1500))


def test_a_killed_broker_loses_fewer_than_20_samples_of_an_absent_node(own_broker: Broker) -> None:
    queue_for_absent_node(own_broker, 200)
    own_broker.kill()
    own_broker.start()
    kept = queued(own_broker, 200)
    assert kept == list(range(len(kept)))
    assert len(kept) > 180


def test_a_packet_above_the_limit_never_arrives(own_broker: Broker) -> None:
    done = threading.Event()
    with Client(own_broker, "cam1") as node:
        node.subscribe("edgecc/v1/cam1/in/+/sample")
        with Client(own_broker, "producer") as producer:
            producer._mqtt.on_disconnect = lambda *_: done.set()
            producer._mqtt.publish("edgecc/v1/cam1/in/door/sample", bytes(2**21), qos=1)
            until(done.is_set, "it is not disconnected")
        with Client(own_broker, "producer") as producer:
            producer.publish("edgecc/v1/cam1/in/door/sample", b"marker")
        assert node.next() == ("edgecc/v1/cam1/in/door/sample", b"marker")
