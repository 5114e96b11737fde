"""[P6]: what a node keeps is bounded, and a full disk is sat out."""

import contextlib
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.datasets import Digits
from support.live_node import MakeNode, Node
from support.mqtt_relay import CONNECT, PUBACK, PUBLISH, Relay
from support.peer import Message

from edgecc.config.loading import load
from edgecc.errors import StorageFull
from edgecc.host.memory import resident_memory
from edgecc.plan.budget import planned
from edgecc.store.writer import Store

SIZE = 24 * 2**20  # bytes of the disk


@pytest.fixture
def make_small(make_node: MakeNode) -> Iterator[MakeNode]:
    """A node whose state is a file system of SIZE."""
    mounted: list[Path] = []

    def make(*arguments: Any, **changes: Any) -> Node:
        node = make_node(*arguments, **changes)
        node.state.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", node.state])
        if done.returncode:
            pytest.skip("only root can mount a small tmpfs")
        mounted.append(node.state)
        return node

    yield make
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True)


def fill(node: Node) -> Path:
    """Leave no block free."""
    ballast = node.state / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return ballast


def event(node: Node, kind: str) -> Message:
    return node.peer.wait(lambda m: m.topic == node.topic("event") and m.json["type"] == kind)


def test_p06_a_full_disk_stops_acks_says_so_deletes_nothing_and_is_sat_out(
    make_small: MakeNode, mosquitto: int, digits: Digits
) -> None:
    relay = Relay(mosquitto)
    node = make_small(mqtt={"port": relay.address})
    images, labels = digits
    node.start()
    first = node.stream(images[:200], labels[:200])
    node.await_receipts(first)
    before = node.ask(images[0])
    ballast = fill(node)
    more = node.stream(images[200:], labels[200:], prefix="more")
    assert event(node, "storage-full").json["severity"] == "error"
    node.peer.wait(lambda m: m.topic == node.topic("health") and m.json["storage_full_since"])
    stored = {one for (one,) in node.rows("SELECT id FROM sample")}
    acked = len(relay.sent(PUBACK))
    assert set(first) < stored
    assert not set(more) <= stored
    time.sleep(2.5)  # seconds in which nothing may be acked
    assert len(relay.sent(PUBACK)) == acked
    window = relay.sent(CONNECT)[0].client[1].ReceiveMaximum
    came = [p for p in relay.sent(PUBLISH, outward=False) if p.flags & 6]
    assert window == planned(load(node.config, environ={}))[0].receive_maximum
    assert len(came) - acked <= window
    assert {one for (one,) in node.rows("SELECT id FROM sample")} == stored

    ballast.unlink()
    event(node, "storage-back")
    node.await_receipts(more)
    once = [(len(images), len(images))]
    assert node.rows("SELECT COUNT(*), COUNT(DISTINCT id) FROM sample WHERE label NOT NULL") == once
    assert node.rows("SELECT COUNT(*), COUNT(DISTINCT row) FROM label") == once
    assert {one for counted in node.receipts().values() for one in counted} == {"stored"}
    assert node.ask(images[0])["readout"] == before["readout"] + len(more)
    assert relay.connections == 1, "it was restarted, or left the broker"
    assert node.output.count("connected to the broker") == 1
    relay.close()


def test_p06_a_node_stopped_while_its_disk_is_full_loses_nothing(
    make_small: MakeNode, digits: Digits
) -> None:
    node = make_small()
    images, labels = digits
    node.start()
    ballast = fill(node)
    ids = node.stream(images[:1500], labels[:1500])
    event(node, "storage-full")
    assert node.stop() == 0
    ballast.unlink()
    node.start()
    node.await_receipts(ids)
    assert node.rows("SELECT COUNT(*) FROM sample") == [(len(ids),)]


def test_p06_a_learner_without_room_is_no_reason_to_give_a_growth_up(
    make_small: MakeNode, digits: Digits
) -> None:
    node = make_small(grow={"first": 300})
    images, labels = digits
    node.start()
    node.peer.publish(node.topic("command/pause"), b'{"id": "p"}')
    ids = node.stream(images[:300], labels[:300])
    node.await_receipts(ids)
    ballast = fill(node)
    node.peer.publish(node.topic("command/resume"), b'{"id": "r"}')
    event(node, "storage-full")
    assert node.rows("SELECT closed FROM growth") == [(0,)]
    ballast.unlink()
    event(node, "storage-back")
    event(node, "verdict")
    kinds = {m.json["type"] for m in node.peer.messages if m.topic == node.topic("event")}
    assert "learner-failed" not in kinds


def test_p06_a_log_at_its_largest_is_full_and_takes_more_once_there_is_room(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "log.sqlite")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages + 4000}")
    assert store.has_room()
    with contextlib.suppress(StorageFull):
        for _ in range(100):
            with store.transaction():
                store.put_outbox("t", bytes(10**5))
    put = store.counts()["outbox"]
    assert 30 < put < 50
    assert not store.has_room()
    with pytest.raises(StorageFull, match="full"), store.transaction():
        store.put_outbox("t", bytes(10**5))
    assert store.counts()["outbox"] == put
    store._db.execute("PRAGMA max_page_count=1000000")
    assert store.has_room()
    with store.transaction():
        store.put_outbox("t", bytes(10**5))
    assert store.counts()["outbox"] == put + 1
    store.close()


def test_p06_a_node_holds_no_more_bytes_than_were_planned_for(node: Node) -> None:
    """The log is locked meanwhile; the broker's window would let 58 MB of these in."""
    hold, large = planned(load(node.config, environ={}))[0].hold, bytes(900_000)
    assert node.process is not None
    before = resident_memory(node.process.pid)
    path = node.state / "log.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as log:
        log.execute("BEGIN IMMEDIATE")
        for n in range(40):
            node.send(large, id=f"large-{n}", wait=False)
        time.sleep(3.0)
        assert resident_memory(node.process.pid) - before < hold + 8 * 2**20
        log.execute("ROLLBACK")
    assert node.receipt("large-39")["status"] == "rejected"
