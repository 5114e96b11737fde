"""[P10] and [P12]: what leaves a node, and the commands that it obeys."""

import contextlib
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from support.brokers import Broker
from support.datasets import Digits, npy
from support.live_node import MakeNode, Node
from support.mqtt_relay import PUBLISH, Relay
from support.peer import BRIEF, Peer

from edgecc.config.schema import Mqtt
from edgecc.mqtt.connection import Link
from edgecc.mqtt.connection_events import Connected, Published
from edgecc.mqtt.outbox import Outbox
from edgecc.store.writer import Store

LIMIT = 1500  # bytes: below a manifest, above all else


ACL = "topic readwrite #\nuser node\ntopic readwrite edgecc/v1/#\n"


def test_p10_what_the_broker_refuses_waits_in_the_store_until_it_does_not(
    make_node: MakeNode, broker: Broker, digits: Digits
) -> None:
    broker.more = "allow_anonymous true\nacl_file {folder}/acl\npassword_file {folder}/words"
    broker.write("words", "")
    subprocess.run(["mosquitto_passwd", "-b", broker.folder / "words", "node", "word"], check=True)
    broker.write("acl", f"{ACL}topic deny edgecc/v1/+/out/#\ntopic deny edgecc/v1/+/info\n")
    node = make_node(broker.start().port, mqtt={"username": "node", "password": "word"})
    node.start()
    ids = node.stream(digits[0][:20], digits[1][:20])
    health = node.topic("health")
    node.peer.wait(lambda m: m.topic == health and m.json["denied"] and m.json["acked"] == 20)
    assert not node.receipts()
    node.kill()
    waiting = node.rows("SELECT payload FROM outbox WHERE topic LIKE '%receipt'")
    assert {one["id"] for (payload,) in waiting for one in json.loads(payload)} == set(ids)
    node.start()
    broker.write("acl", ACL)
    broker.signal(signal.SIGHUP)
    node.await_receipts(ids)
    node.peer.wait(lambda m: m.topic == node.topic("info"))
    node.peer.wait(lambda m: m.topic == health and not m.json["denied"]
                   and m.json["log"]["outbox"] == 0)


def test_p10_nothing_above_the_brokers_largest_packet_is_ever_sent(
    make_node: MakeNode, broker: Broker, digits: Digits
) -> None:
    broker.more += f"\nmax_packet_size {LIMIT}"
    relay = Relay(broker.start().port)
    node = make_node(broker.port, mqtt={"port": relay.address})
    node.start()
    ids = [node.send(digits[0][n].tobytes(), wait=False) for n in range(150)]
    node.await_receipts(ids)
    health = node.peer.wait(lambda m: m.topic == node.topic("health")
                            and m.json["dropped"]["too_large"])
    assert health.json["connections"] == 1
    assert max(packet.size for packet in relay.sent(PUBLISH)) <= LIMIT
    topics = {packet.topic for packet in relay.sent(PUBLISH)}
    assert node.topic("status") in topics
    assert node.topic("checkpoint/0/manifest") not in topics
    assert node.process is not None
    assert node.process.poll() is None
    relay.close()


def test_p10_predictions_drop_oldest_first_and_are_counted_and_what_must_arrive_arrives(
    tmp_path: Path, mosquitto: int
) -> None:
    store, root = Store(tmp_path / "log.sqlite"), f"edgecc/v1/{tmp_path.name}"
    link = Link(Mqtt(host="127.0.0.1", port=mosquitto), client_id=tmp_path.name)
    outbox = Outbox(link, store)
    with store.transaction():
        for n in range(100):
            outbox.put(f"{root}/event", str(n).encode())
    outbox.retain(f"{root}/status", b"online")
    for n in range(8500):
        outbox.send(f"{root}/out/t/prediction", str(n).encode())
    assert outbox.dropped == 500
    with contextlib.closing(Peer(mosquitto, f"{root}/#")) as peer:
        link.start()
        while not (outbox.window and outbox.idle):
            for event in link.take(256, 0.5):
                if isinstance(event, Connected):
                    outbox.connected(event.window, event.max_packet)
                elif isinstance(event, Published):
                    assert outbox.published(event)
            outbox.pump()
        peer.wait(lambda m: m.payload == b"8499")
        said = [(m.topic, m.payload.decode()) for m in peer.messages]
    link.stop()
    assert [text for topic, text in said if topic.endswith("event")] == list(map(str, range(100)))
    assert [text for topic, text in said if topic.endswith("prediction")] == [
        str(n) for n in range(500, 8500)]
    assert said[100] == (f"{root}/status", "online")
    with store.transaction():
        outbox.settle()
    assert store.counts()["outbox"] == 0
    store.close()


def test_p10_of_what_the_window_does_not_take_yet_only_so_much_is_handed_over(
    tmp_path: Path
) -> None:
    """256 messages, 2 MiB with what is in the window: the rest can still be dropped."""
    store, link = Store(tmp_path / "log.sqlite"), Link(Mqtt(), client_id=tmp_path.name)
    for size, window, taken in ((65536, 20, 32), (65536, 64, 64), (10, 20, 276)):
        outbox = Outbox(link, store)
        for _ in range(500):
            outbox.send("a/chunk", bytes(size))
        waiting = len(outbox._volatile)
        outbox.connected(window, None)
        outbox.pump()
        assert waiting - len(outbox._volatile) == taken
        first, *others = list(outbox._in_flight)[:5]
        assert not outbox.published(Published(first, "denied"))
        assert all(outbox.published(Published(mid, None)) for mid in others)
        assert len(outbox._volatile) == waiting - taken
        outbox.pump()
        assert len(outbox._volatile) == waiting - taken - 5
        assert outbox._flying == taken * size
        outbox.refused_as_too_large()
        assert outbox._flying == 0
    store.close()


def command(node: Node, verb: str, request: str, **options: Any) -> None:
    node.peer.publish(node.topic(f"command/{verb}"), json.dumps({"id": request}), **options)


def response(node: Node, verb: str, request: str) -> dict[str, Any]:
    topic = node.topic(f"response/{verb}")
    message = node.peer.wait(lambda m: m.topic == topic and m.json["id"] == request)
    body: dict[str, Any] = message.json
    return body


def test_p12_a_retained_command_is_ignored(make_node: MakeNode, digits: Digits) -> None:
    """Whatever the verb, now and after a restart."""
    node = make_node()
    for verb in ("ping", "pause", "checkpoint", "reload"):
        command(node, verb, "old", retain=True)
    args = {"id": "old", "args": {"ids": ["kept"]}}
    node.peer.publish(node.topic("command/unlearn"), json.dumps(args), retain=True)
    node.start()
    node.receipt(node.send(npy(digits[0][0]), id="kept", label="x"))
    node.kill()
    node.start()
    command(node, "ping", "new")
    assert response(node, "ping", "new")["status"] == "ok"
    answers = [(m.topic, m.json["id"]) for m in node.peer.messages if "/response/" in m.topic]
    assert answers == [(node.topic("response/ping"), "new")]
    assert node.rows("SELECT id, label FROM sample") == [("kept", "x")]
    health = node.peer.wait(lambda m: m.topic == node.topic("health")).json
    assert (health["paused"], health["generation"], health["unlearning"]) == (False, 0, False)


def test_p12_a_response_goes_where_it_was_asked_for_only_below_the_nodes_own_prefix(
    node: Node, make_node: MakeNode
) -> None:
    other, root = make_node(), f"edgecc/v1/{node.name}"
    strays = [other.topic("response/ping"), f"{root}x/response/ping", node.topic("in/t/label"),
              node.topic("command/pause"), node.topic("status"), node.topic("response"),
              node.topic("response/../../x"), node.topic("response/#"), "$SYS/x"]
    for number, stray in enumerate(strays):
        command(node, "ping", f"stray-{number}", ResponseTopic=stray)
    command(node, "ping", "own", ResponseTopic=node.topic("response/mine/7"))
    node.peer.wait(lambda m: m.topic == node.topic("response/mine/7") and m.json["id"] == "own")
    said = {m.topic for m in node.peer.messages if m.payload.startswith(b'{"id":"stray')}
    assert said == {node.topic("response/ping"), node.topic("response/../../x")}
    assert other.peer.find(lambda m: "response" in m.topic, timeout=BRIEF) is None


def test_p12_reload_takes_up_what_can_change_and_names_what_needs_a_restart(
    node: Node, digits: Digits
) -> None:
    node.receipt(node.send(npy(digits[0][0]), label="x"))
    node.ask(digits[0][1])
    node.settings |= {"disk_budget": "99MiB", "keep_generations": 3, "memory_budget": "600MiB",
                      "sources": {"*": {"labels": ["x"]}}}
    node.__post_init__()
    command(node, "reload", "1")
    assert response(node, "reload", "1")["data"] == {
        "taken_up": ["disk_budget", "keep_generations", "sources"],
        "needs_restart": ["memory_budget"]}
    assert node.receipt(node.send(npy(digits[0][2]), label="y"))["status"] == "rejected"
    command(node, "reload", "2")
    assert response(node, "reload", "2")["data"]["taken_up"] == []
    assert node.ask(digits[0][1])["label"] == "x"
    node.config.write_text("disk_budget: 1")
    command(node, "reload", "3")
    refused = response(node, "reload", "3")
    assert (refused["code"], "under 16MiB" in refused["error"]) == (78, True)
    assert node.ask(digits[0][1])["label"] == "x"
