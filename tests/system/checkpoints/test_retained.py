"""A node that is taken out of service leaves nothing on the broker, and touches nobody else's."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.datasets import Digits, npy
from support.live_node import MakeNode, Node
from support.patience import run_command, until
from support.peer import Peer

from edgecc.mqtt.local_broker import Mosquitto, find_mosquitto, free_port

ROLES = """\
topic readwrite #
user edge
topic write edgecc/v1/#
topic read edgecc/v1/+/in/#
topic read edgecc/v1/+/command/+
topic read edgecc/v1/+/checkpoint/get
"""


@pytest.fixture
def broker_with_roles(tmp_path: Path) -> Iterator[int]:
    """A mosquitto whose user `edge` reads only what is for a node, as by deploy/acl; its port."""
    binary, port = find_mosquitto(), free_port()
    if binary is None:
        pytest.skip("mosquitto is missing: apt install mosquitto")
    folder = tmp_path / "broker"
    folder.mkdir()
    Mosquitto(binary, folder, port).stop()
    (folder / "acl").write_text(ROLES)
    subprocess.run(["mosquitto_passwd", "-b", "-c", folder / "words", "edge", "word"], check=True)
    for name in ("acl", "words"):
        (folder / name).chmod(0o600)
    conf = folder / "mosquitto.conf"
    conf.write_text(f"{conf.read_text()}acl_file {folder}/acl\npassword_file {folder}/words\n")
    process = subprocess.Popen([binary, "-c", str(conf)], stderr=subprocess.DEVNULL)
    with socket.socket() as probe:
        until(lambda: probe.connect_ex(("127.0.0.1", port)) == 0,
              (folder / "mosquitto.log").read_text)
    yield port
    process.terminate()
    process.wait()


def left(node: Node) -> set[str]:
    """Retained topics below the node's root, by a client that comes now."""
    peer = Peer(node.port, node.topic("#"), "mark")
    peer.publish("mark", b"")  # comes after everything that is retained
    peer.wait(lambda m: m.topic == "mark" and not m.retain)
    peer.close()
    return {m.topic for m in peer.messages if m.retain}


def clear(
    node: Node, *arguments: str, answer: str = "", env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return run_command(
        [sys.executable, "-m", "edgecc", "--config", str(node.config), "retained", "clear",
         *arguments], input=answer, env=os.environ | (env or {}))


def test_a_stopped_node_s_retained_topics_are_cleared_and_nobody_else_s(
    make_node: MakeNode, digits: Digits
) -> None:
    node, other = make_node(), make_node()
    for one in (node, other):
        one.start()
        one.prediction(one.send(npy(digits[0][0]), source="door"), source="door")
    node.peer.publish(node.topic("command/ping"), b"{}", retain=True)
    for code, where in ((78, {}), (1, {"EDGECC_STATE_DIR": str(node.folder / "none")})):
        running = clear(node, "--yes", env=where)
        assert (running.returncode, "stop its daemon" in running.stderr) == (code, True)
    assert [one.stop() for one in (node, other)] == [0, 0]
    before, others = left(node), left(other)
    assert {node.topic(rest) for rest in (
        "status", "info", "health", "checkpoint/index", "checkpoint/0/manifest", "out/door/state",
    )} <= before
    refused = clear(node, answer="n\n")
    assert (refused.returncode, node.topic("out/door/state") in refused.stderr) == (1, True)
    assert left(node) == before
    done = clear(node, answer="y\n")
    assert done.returncode == 0, done.stderr
    assert left(node) == {node.topic("command/ping")}
    assert left(other) == others
    assert clear(node, "--yes").returncode == 0


def test_a_node_s_own_user_who_may_not_read_them_clears_what_its_state_knows_of(
    broker_with_roles: int, make_node: MakeNode, digits: Digits
) -> None:
    node = make_node(broker_with_roles, mqtt={"username": "edge", "password": "word"})
    node.start()
    node.prediction(node.send(npy(digits[0][0]), source="door"), source="door")
    assert node.stop() == 0
    assert len(left(node)) >= 6
    done = clear(node, "--yes")
    assert done.returncode == 0, done.stderr
    assert left(node) == set()
