"""[P8] and [P9]: reconnects, the errors that end a connection, and every connect."""

import contextlib
import itertools
import json
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from support.brokers import Broker
from support.datasets import Digits, npy
from support.live_node import MakeNode, Node
from support.mqtt_relay import PUBLISH, SUBSCRIBE, UNSUBSCRIBE, Relay
from support.patience import Clock, accept, exit_code, until
from support.peer import Peer

from edgecc.config.schema import Mqtt
from edgecc.mqtt.backoff import FIRST, LAST, STABLE, Backoff
from edgecc.mqtt.connection import Link

# --- [P8] ---


@given(st.lists(st.floats(0, 200), max_size=30))
def test_p08_waits_have_full_jitter_and_start_over_only_after_a_stable_minute(
    connections: list[float],
) -> None:
    backoff, ceiling = Backoff(), FIRST
    assert (FIRST, LAST, STABLE) == (1.0, 120.0, 60.0)
    for held in connections:
        ceiling = FIRST if held >= STABLE else ceiling
        assert 0 <= backoff.after(held) <= ceiling
        ceiling = min(2 * ceiling, LAST)


def test_p08_the_jitter_is_full_up_to_two_minutes() -> None:
    tired = Backoff()
    for _ in range(10):
        tired.after(0.0)
    waits = [tired.after(0.0) for _ in range(500)]
    assert min(waits) < 10
    assert 110 < max(waits) <= 120
    assert tired.after(STABLE) <= FIRST


def test_p08_a_node_comes_back_by_itself_and_waits_longer_each_time(
    make_node: MakeNode, broker: Broker, digits: Digits
) -> None:
    with socket.create_server(("127.0.0.1", broker.port)) as refusing:
        clock, tries = Clock(), list[float]()
        link = Link(Mqtt(host="127.0.0.1", port=broker.port), client_id="edgecc-p8")
        link.start()
        for _ in range(4):
            accept(refusing).close()
            tries.append(clock())
        link.stop()
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert all(gap <= ceiling + 1.0 for gap, ceiling in zip(gaps, (1, 2, 4), strict=True)), gaps
    broker.start()
    node = make_node(broker.port)
    node.start()
    heard = len(node.peer.messages)
    broker.stop()
    broker.start()
    node.peer.wait(lambda m: m.topic == node.topic("status") and m.payload == b"online",
                   after=heard)
    assert node.receipt(node.send(npy(digits[0][0])))["status"] == "stored"


def ended(node: Node) -> tuple[int, str]:
    """Exit code and last line of a node that ends by itself."""
    assert node.process is not None
    code = exit_code(node.process)
    assert "Traceback" not in node.output
    return code, node.output.splitlines()[-1]


def test_p08_a_session_taken_over_is_an_error_that_says_so(make_node: MakeNode) -> None:
    """MQTT 5's reason 142 (mosquitto 2.0.11 gives none)."""
    with socket.create_server(("127.0.0.1", 0)) as broker:
        node = make_node(mqtt={"port": broker.getsockname()[1]})
        node.launch()
        with accept(broker) as connection:
            connection.recv(1000)
            connection.sendall(b"\x20\x03\0\0\0" + b"\xe0\x01\x8e")
            code, said = ended(node)
    assert (code, "another client uses this id" in said) == (77, True)


def test_p08_two_clients_with_one_id_are_an_event_and_no_fast_loop(node: Node) -> None:
    """On mosquitto 2.0.11, which ends the connection of the first without a word."""
    other = paho.Client(CallbackAPIVersion.VERSION2, f"edgecc-{node.name}", protocol=paho.MQTTv5)
    other.connect("127.0.0.1", node.port)
    other.loop_start()
    said = node.peer.wait(lambda m: m.topic == node.topic("event") and
                          m.json["type"] == "taken-over").json
    other.disconnect()
    other.loop_stop()
    assert "another client uses this id" in said["data"]["what"]
    assert node.output.count("connected to the broker") < 8


DENYING = {
    "defaultACLAccess": {
        "publishClientSend": True, "publishClientReceive": True, "subscribe": True,
        "unsubscribe": True},
    "anonymousGroup": "all", "clients": [], "roles": [{"rolename": "all", "acls": [
        {"acltype": "subscribePattern", "topic": "edgecc/v1/+/command/+", "priority": 1,
         "allow": False}]}],
    "groups": [{"groupname": "all", "clients": [], "roles": [{"rolename": "all"}]}],
}


def test_p08_p09_a_denied_subscription_is_not_authorised_and_named(
    make_node: MakeNode, broker: Broker
) -> None:
    plugins = list(Path("/usr/lib").rglob("mosquitto_dynamic_security.so"))
    if not plugins:
        pytest.skip("mosquitto's dynamic security plugin is missing")
    broker.write("rules.json", json.dumps(DENYING))
    broker.more = (f"allow_anonymous true\nplugin {plugins[0]}\n"
                   "plugin_opt_config_file {folder}/rules.json")
    node = make_node(broker.start().port)
    node.launch()
    code, said = ended(node)
    assert (code, "command/+: Not authorized" in said) == (77, True), said


def unread(port: int) -> int:
    """Bytes that wait for whoever listens on a port of loopback, as the kernel counts them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(queues.partition(":")[2], 16) for _, local, _, _, queues, *_ in lines
               if local == f"0100007F:{port:04X}")


def test_p08_a_packet_too_large_is_an_event_and_no_loop(
    make_node: MakeNode, broker: Broker, digits: Digits
) -> None:
    """In flight when the broker dies, and above the limit that it has when it is back.

    The broker names that limit when it accepts the connection, so that no such packet is sent to it
    again: it would end the connection over each, and often without a reason that arrives.
    """
    node = make_node(broker.start().port)
    node.start()
    broker.signal(signal.SIGSTOP)
    until(lambda: unread(broker.port) >= 600, "the node says nothing")  # bytes: a health message
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)  # it says so once: the peer has to be back before
    broker.restart(node.peer, f"{broker.more}\nmax_packet_size 600", end=signal.SIGKILL)
    heard = len(node.peer.messages)
    node.process.send_signal(signal.SIGCONT)
    said = node.peer.wait(lambda m: m.topic == node.topic("event") and
                          m.json["type"] == "packet-too-large", after=heard)
    assert "max_packet_size" in said.json["data"]["what"]
    ends, small = time.monotonic() + 3.0, digits[0][0].tobytes()  # longer than health waits
    while time.monotonic() < ends:
        assert node.receipt(node.send(small))["status"] == "stored"
    assert broker.log.count("disconnected due to oversize packet") == 0
    assert not [m for m in node.peer.messages if m.topic == node.topic("event")
                and m.json["type"] == "taken-over"]
    assert node.process.poll() is None


def test_p08_a_broker_that_takes_no_packet_at_all_is_named(make_node: MakeNode) -> None:
    """MQTT 5's reason 149 in answer to the CONNECT."""
    with socket.create_server(("127.0.0.1", 0)) as broker:
        node = make_node(mqtt={"port": broker.getsockname()[1]})
        node.launch()
        with accept(broker) as connection:
            connection.recv(1000)
            connection.sendall(b"\x20\x03\0\x95\0")
            code, said = ended(node)
    assert (code, "raise its max_packet_size" in said) == (78, True)


# --- [P9] ---


def test_p09_a_lost_session_is_an_event_and_everything_is_said_again(
    make_node: MakeNode, broker: Broker, digits: Digits
) -> None:
    relay = Relay(broker.start().port)
    node = make_node(broker.port, mqtt={"port": relay.address})
    node.start()
    broker.stop()
    (broker.folder / "mosquitto.db").unlink()
    heard = len(node.peer.messages)
    broker.start()
    node.peer.wait(lambda m: m.topic == node.topic("health") and m.json["canary"] == "returned",
                   after=heard)
    said = [json.loads(p.payload) for p in relay.sent(PUBLISH) if p.topic == node.topic("event")]
    assert [(one["type"], one["severity"]) for one in said] == [("session-lost", "warning")]
    for rest in ("status", "info", "health", "checkpoint/index", "checkpoint/0/manifest"):
        node.peer.wait(lambda m, rest=rest: m.topic == node.topic(rest) and m.payload != b"offline",
                       after=heard)
    assert node.receipt(node.send(npy(digits[0][0])))["status"] == "stored"
    node.kill()
    node.start()
    node.ask(digits[0][0])
    assert len([p for p in relay.sent(PUBLISH) if p.topic == node.topic("event")]) == 1
    relay.close()


def test_p09_filters_of_the_previous_configuration_are_unsubscribed(
    make_node: MakeNode, mosquitto: int
) -> None:
    relay = Relay(mosquitto)
    node = make_node(mqtt={"port": relay.address})
    node.start()
    assert node.stop() == 0
    node.settings["prefix"] = "other/v1"
    node.__post_init__()
    with contextlib.closing(Peer(node.port, f"other/v1/{node.name}/#")) as peer:
        node.launch()
        peer.wait(lambda m: m.payload == b"online")
        node.peer.publish(node.topic("in/t/sample"), b"to nobody")
        peer.publish(f"other/v1/{node.name}/command/ping", b'{"id": "after"}')
        peer.wait(lambda m: m.topic.endswith("response/ping"))
    assert node.rows("SELECT COUNT(*) FROM quarantine") == [(0,)]
    [gone] = relay.sent(UNSUBSCRIBE)
    first, second = relay.sent(SUBSCRIBE)
    names = re.compile(rb"edgecc/v1/[^\0]*?/(?:in|command|checkpoint)/[a-z+/]+")
    assert set(names.findall(gone.body)) == set(names.findall(first.body))
    assert b"other/v1" in second.body
    relay.close()


ACL = "topic readwrite #\nuser node\ntopic write edgecc/v1/#\ntopic read edgecc/v1/+/command/+\n"


@pytest.mark.parametrize("denied", ["read", "write"])
def test_p09_a_canary_that_does_not_come_back_says_that_the_acl_denies_in(
    make_node: MakeNode, broker: Broker, denied: str
) -> None:
    broker.more = "allow_anonymous true\nacl_file {folder}/acl\npassword_file {folder}/words"
    broker.write("words", "")
    subprocess.run(["mosquitto_passwd", "-b", broker.folder / "words", "node", "word"], check=True)
    allowed = "topic readwrite edgecc/v1/+/in/#\n"
    broker.write("acl", ACL if denied == "read" else
                 ACL + allowed + "topic deny edgecc/v1/+/in/canary\n")
    node = make_node(broker.start().port, mqtt={"username": "node", "password": "word"})
    node.start()
    said = node.peer.wait(lambda m: m.topic == node.topic("event")).json
    assert (said["type"], said["severity"]) == ("canary-lost", "error")
    assert "ACL denies it in/#" in said["data"]["what"]
    assert ("Not authorized" in said["data"]["what"]) == (denied == "write")
    health = node.topic("health")
    node.peer.wait(lambda m: m.topic == health and m.json["canary"] == "lost")
    broker.write("acl", ACL + allowed)
    broker.signal(signal.SIGHUP)
    node.peer.wait(lambda m: m.topic == node.topic("event") and m.json["type"] == "canary-back")
    node.peer.wait(lambda m: m.topic == health and m.json["canary"] == "returned")
    assert node.rows("SELECT COUNT(*) FROM sample") == [(0,)]
    assert node.rows("SELECT COUNT(*) FROM quarantine") == [(0,)]
