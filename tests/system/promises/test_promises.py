"""What a node promises of delivery: acks, duplicates, poison. PROTOCOL's numbers are the names."""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.brokers import Broker
from support.datasets import Digits, npy
from support.live_node import MakeNode, Node
from support.mqtt_relay import CONNECT, PUBACK, PUBLISH, Packet, Relay
from support.patience import APART, run_command, until
from support.peer import Peer

from edgecc.capture.open import open_items
from edgecc.config.schema import Mqtt
from edgecc.mqtt.connection import Link
from edgecc.mqtt.connection_events import Connected, Event, Subscribed
from edgecc.mqtt.local_broker import Mosquitto, find_mosquitto, free_port
from edgecc.protocol.messages import Inbound
from edgecc.store.writer import Store

WEEK = 7 * 24 * 3600


@pytest.fixture
def relay(mosquitto: int) -> Iterator[Relay]:
    made = Relay(mosquitto)
    yield made
    made.close()


def test_p01_an_ack_leaves_only_after_the_commit_and_in_receive_order(
    make_node: MakeNode, relay: Relay, digits: Digits
) -> None:
    node, early = make_node(mqtt={"port": relay.address}), list[int]()
    acked = 0

    def look(packet: Packet) -> None:
        nonlocal acked
        if packet.kind == PUBACK and packet.outward:
            acked += 1
            stored = node.rows("SELECT COUNT(*) FROM sample")[0][0]
            if stored < acked - 1:  # the canary is acked too
                early.append(acked)

    relay.look = look
    node.start()
    ids = node.stream(digits[0][:300], digits[1][:300])
    node.await_receipts(ids)
    node.peer.wait(lambda m: m.topic == node.topic("health") and m.json["acked"] == 300)
    assert early == []
    came = [packet.mid for packet in relay.sent(PUBLISH, outward=False) if packet.flags & 6]
    assert [packet.mid for packet in relay.sent(PUBACK)] == came
    assert len(came) == 301


def test_p01_its_session_stays_for_a_week_under_one_client_id(
    make_node: MakeNode, relay: Relay
) -> None:
    node = make_node(mqtt={"port": relay.address})
    node.start()
    node.kill()
    node.start()
    flags, properties, names = zip(*(one.client for one in relay.sent(CONNECT)), strict=True)
    assert [one & 2 for one in flags] == [0, 0]  # clean start
    assert [one.SessionExpiryInterval >= WEEK for one in properties] == [True, True]
    assert set(names) == {f"edgecc-{node.name}"}


def test_p01_a_commit_is_a_full_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "log.sqlite")
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_p03_a_sample_without_an_id_is_named_by_source_label_and_payload(
    node: Node, digits: Digits
) -> None:
    payload, wanted = npy(digits[0][0]), set[tuple[str, str]]()
    for source, label in (("a", ""), ("b", ""), ("a", "cat"), ("b", "cat"), ("a", "dog")):
        topic = f"in/{source}/sample" + (f"/{label}" if label else "")
        name = hashlib.sha256(b"\0".join([source.encode(), label.encode(), payload])).hexdigest()
        wanted.add((name, source))
        node.peer.publish(node.topic(topic), payload)
        assert node.receipt(name, source=source)["status"] == "stored"
        heard = len(node.peer.messages)
        node.peer.publish(node.topic(topic), payload)
        assert node.receipt(name, source=source, after=heard)["status"] == "duplicate"
    assert set(node.rows("SELECT id, source FROM sample")) == wanted
    assert len(wanted) == 5


def test_p04_after_a_reconnect_no_ack_of_an_earlier_connection_is_sent(tmp_path: Path) -> None:
    """The new session's packet ids are those of the old: a stale ack would lose a message."""
    port, folder = free_port(), tmp_path / "broker"
    folder.mkdir()
    binary = find_mosquitto()
    assert binary is not None
    broker = Mosquitto(binary, folder, port)
    link = Link(Mqtt(host="127.0.0.1", port=port), client_id="edgecc-stale")
    link.start()
    try:
        old = _two_messages(link, port, "old")
        broker.stop()
        (folder / "mosquitto.db").unlink()  # and with it the session
        broker = Mosquitto(binary, folder, port)
        new = _two_messages(link, port, "new")
        assert [one.mid for one in old] == [one.mid for one in new]
        assert [link.ack(one) for one in old] == [False, False]
        link.stop()
        link = Link(Mqtt(host="127.0.0.1", port=port), client_id="edgecc-stale")
        link.start()
        again = _inbound(link, 2)
        assert [(one.payload, one.redelivered) for one in again] == [(b"new", True)] * 2
        assert [link.ack(one) for one in again] == [True, True]
    finally:
        link.stop()
        broker.stop()


def _two_messages(link: Link, port: int, payload: str) -> list[Inbound]:
    _await(link, Connected)
    link.subscribe(["p04"])
    _await(link, Subscribed)
    with contextlib.closing(Peer(port, "none")) as peer:
        for _ in range(2):
            peer.publish("p04", payload)
    return _inbound(link, 2)


def _await(link: Link, kind: type[Event]) -> None:
    until(lambda: any(isinstance(event, kind) for event in link.take(1, APART)),
          f"no {kind.__name__}")


def _inbound(link: Link, count: int) -> list[Inbound]:
    came: list[Inbound] = []

    def complete() -> bool:
        came.extend(event for event in link.take(256, APART) if isinstance(event, Inbound))
        return len(came) >= count

    until(complete, lambda: f"{len(came)} of {count} messages came")
    return came


def test_p04_a_node_cut_off_in_the_middle_acks_what_came_on_the_same_connection(
    make_node: MakeNode, relay: Relay, digits: Digits
) -> None:
    node = make_node(mqtt={"port": relay.address})
    cuts, turn = [150, 300], threading.Lock()  # packets of both ways are looked at, by two threads

    def look(packet: Packet) -> None:
        with turn:
            due = bool(cuts) and len(relay.sent(PUBLISH, outward=False)) == cuts[0]
            if due:
                cuts.pop(0)
        if due:
            relay.cut()  # with the next one on its way, and others not yet acked

    relay.look = look
    node.start()
    ids = node.stream(*(one[:400] for one in digits))
    node.await_receipts(ids)
    for connection in range(1, relay.connections + 1):
        came = [p.mid for p in relay.sent(PUBLISH, outward=False, connection=connection)
                if p.flags & 6]
        acked = [p.mid for p in relay.sent(PUBACK, connection=connection)]
        assert acked == came[: len(acked)], connection
    assert relay.connections == 3
    assert node.rows("SELECT COUNT(*) FROM sample") == [(len(ids),)]


def test_p05_what_the_broker_kept_for_an_earlier_prefix_cannot_stall_a_node(
    make_node: MakeNode, digits: Digits
) -> None:
    node = make_node()
    node.start()
    node.kill()
    node.peer.publish(node.topic("in/t/sample/cat"), npy(digits[0][0]))
    node.peer.publish(node.topic("in/t/label"), b'{"id": "a", "label": "b"}')
    node.settings["prefix"] = "other/v1"
    node.__post_init__()
    node.launch()
    with contextlib.closing(Peer(node.port, f"other/v1/{node.name}/#")) as peer:
        peer.wait(lambda m: m.payload == b"online")
        peer.publish(f"other/v1/{node.name}/in/t/sample", npy(digits[0][1]))
        peer.wait(lambda m: m.topic.endswith("/out/t/receipt") and m.json[0]["status"] == "stored")
        reasons = [reason for (reason,) in node.rows(
            "SELECT reason FROM quarantine WHERE topic NOT LIKE '%canary'")]
        assert len(reasons) == 2
        assert all("is not below" in reason for reason in reasons)
        assert node.stop() == 0, node.output


def test_p05_a_label_beyond_the_classes_that_memory_has_room_for_is_refused(
    make_node: MakeNode, digits: Digits
) -> None:
    node = make_node(memory_budget="110MiB", grow={"blocks": 0})
    node.start()
    most = json.loads(node.run("plan", "--json").stdout)["buys"]["classes"]
    assert 64 <= most < 200
    images = np.concatenate([digits[0]] * 2)[: most + 5]
    ids = node.stream(images, [f"class {n}" for n in range(most + 5)])
    said = [node.receipt(one) for one in ids]
    assert [one["status"] for one in said] == ["stored"] * most + ["rejected"] * 5
    assert str(most) in said[-1]["reason"]
    assert "max_classes" in said[-1]["reason"]
    assert node.label(ids[0], "one more")["status"] == "rejected"
    assert node.label(ids[0], "class 1")["status"] == "stored"
    assert node.rows("SELECT COUNT(DISTINCT label) FROM sample") == [(most - 1,)]
    node.kill()
    node.start()
    assert node.label(ids[1], "another")["status"] == "rejected"


def test_p05_quarantine_takes_no_more_than_its_share_of_the_disk(node: Node) -> None:
    large = bytes(900_000)
    for n in range(30):
        node.send(large, id=f"bad-{n}", wait=False)
    assert node.receipt("bad-29")["status"] == "rejected"
    [(kept, size)] = node.rows("SELECT COUNT(*), SUM(LENGTH(payload)) FROM quarantine")
    assert size <= 16 * 2**20 < size + len(large)
    assert json.loads(node.run("samples", "quarantine", "--json").stdout)[0]["seq"] == 30
    assert kept == 18


def test_p11_a_stream_keeps_its_copy_until_the_receipt_whatever_the_broker_acked(
    make_node: MakeNode, broker: Broker, digits: Digits
) -> None:
    """Node, producer and broker stop in turn; the broker comes back with nothing that it had."""
    node = make_node(broker.start().port)
    node.start()
    command = [sys.executable, "-m", "edgecc", "--config", str(node.config), "stream", "digits",
               "--json"]
    with subprocess.Popen([*command, "--rate", "400"], stdout=subprocess.DEVNULL) as producer:
        node.peer.wait(lambda _: len(node.receipts()) >= 200)
        assert node.process is not None
        node.process.send_signal(signal.SIGSTOP)
        with contextlib.closing(Peer(broker.port, node.topic("in/#"))) as witness:
            witness.wait(lambda _: len(witness.messages) >= 300)  # acked, and not stored
        with pytest.raises(subprocess.TimeoutExpired):
            producer.wait(0.5)
        producer.kill()
    broker.stop(signal.SIGKILL)
    (broker.folder / "mosquitto.db").unlink(missing_ok=True)
    broker.start()
    before = node.rows("SELECT COUNT(*) FROM sample")[0][0]
    node.process.send_signal(signal.SIGCONT)
    node.peer.wait(lambda m: m.topic == node.topic("health"), after=len(node.peer.messages))
    done = run_command(command)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    ids = [item.id for item in open_items("digits", shape=(1, 8, 8))]
    assert 0 < said["resumed"] <= before <= len(ids) - 300
    assert said["resumed"] + said["sent"] == len(ids)
    assert sorted(one for (one,) in node.rows("SELECT id FROM sample")) == sorted(ids)
