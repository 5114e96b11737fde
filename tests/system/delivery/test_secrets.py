"""Nothing that a real node says or writes, at any log level, holds its password or signing key."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.datasets import Digits
from support.live_node import Node
from support.patience import exit_code, run_command
from support.peer import Peer
from support.shipped import Broker, needs, run

HUSH = "Hush-4711 and-a-blank"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    running = Broker(tmp_path_factory.mktemp("secretive"))
    run(needs("mosquitto_passwd", "mosquitto"), "-b", running.folder / "passwd", "cam1", HUSH)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def node(broker: Broker, tmp_path: Path) -> Iterator[Node]:
    settings = {"node": "cam1", "state_dir": str(tmp_path / "state"),
                "mqtt": {"host": "127.0.0.1", "port": broker.port, "username": "cam1"},
                "input": {"kind": "image", "shape": [1, 8, 8]},
                "grow": {"first": 20, "epochs": 1, "idle_exit": 60}}
    peer = Peer(broker.port, "edgecc/v1/#", username="operator", password="password of operator")
    made = Node(tmp_path, broker.port, "cam1", settings, peer)
    yield made
    made.bury()


def launch(node: Node, *options: str, **environ: str) -> "subprocess.Popen[bytes]":
    with (node.folder / "daemon.log").open("ab") as log:
        node.process = subprocess.Popen(
            [sys.executable, "-m", "edgecc", "--config", str(node.config), *options, "start"],
            stdout=log, stderr=log, env=os.environ | environ)
    return node.process


def processes(node: Node) -> str:
    """What `ps` shows of daemon and learner."""
    assert node.process is not None
    pids = [node.process.pid, node.learner]
    assert all(pids), "no learner"
    return " ".join(Path(f"/proc/{pid}/{name}").read_text()
                    for pid in pids for name in ("cmdline", "comm"))


def written(node: Node) -> bytes:
    """Everything below the node's folder but the file that holds the secret, and the key's own."""
    apart = {"secrets.yaml", "node.key"}
    return b"\n".join(path.read_bytes() for path in node.folder.rglob("*")
                      if path.is_file() and path.name not in apart)


@pytest.mark.parametrize(("way", "options"), [
    ("secret", ["--log-level", "debug"]),
    ("variable", ["--log-level", "info", "--log-format", "json"]),
    ("environment", ["--log-level", "warning"]),
    ("secret", ["--log-level", "error"]),
])
def test_a_password_and_a_key_stay_where_they_are(
    broker: Broker, node: Node, digits: Digits, way: str, options: list[str]
) -> None:
    environ = {"variable": {"WORD": HUSH}, "environment": {"EDGECC_MQTT__PASSWORD": HUSH}}.get(
        way, {})
    (node.folder / "secrets.yaml").write_text(f"word: {HUSH}\n")
    how = {"secret": "!secret word", "variable": "${WORD:?set it}", "environment": "~"}[way]
    text = node.config.read_text()
    node.config.write_text(text.replace("  username: cam1", f"  username: cam1\n  password: {how}"))

    launch(node, *options, **environ)
    producer = Peer(broker.port, "edgecc/v1/cam1/out/#", username="producer",
                    password="password of producer")
    node.peer.wait(lambda m: m.topic == node.topic("status") and m.payload == b"online"
                   and not m.retain)
    for n in range(40):
        producer.publish(node.topic(f"in/door/sample/{digits[1][n]}"), digits[0][n].tobytes())
    node.peer.wait(lambda m: m.topic == node.topic("train") and not m.retain)
    shown = processes(node)
    producer.publish(node.topic("in/door/sample"), b"no picture")
    producer.wait(lambda m: m.topic.endswith("/receipt") and b"rejected" in m.payload)
    answers = [run_command(
        [sys.executable, "-m", "edgecc", "--config", str(node.config), *options, *command],
        env=os.environ | environ)
        for command in (["config", "show"], ["config", "show", "--json"], ["config", "check"])]
    assert [answer.returncode for answer in answers] == [0, 0, 0]
    assert "********" in answers[0].stdout
    assert node.stop() == 0

    heard = b"\n".join(m.topic.encode() + m.payload for m in node.peer.messages)
    printed = "\n".join(answer.stdout + answer.stderr for answer in answers)
    everything = b"\n".join((heard, printed.encode(), shown.encode(), written(node)))
    seed = (node.state / "node.key").read_bytes()
    for hidden in (HUSH.encode(), base64.b64encode(HUSH.encode()), seed, seed.hex().encode(),
                   base64.b64encode(seed)):
        assert hidden not in everything
    producer.close()


@pytest.mark.parametrize("level", ["debug", "error"])
def test_a_password_that_the_broker_refuses_is_not_repeated(
    broker: Broker, node: Node, level: str
) -> None:
    process = launch(node, "--log-level", level, EDGECC_MQTT__PASSWORD=HUSH + "x")
    assert exit_code(process) == 77
    assert HUSH not in node.output
    assert "mqtt.username" in node.output or "refuses this node" in node.output
