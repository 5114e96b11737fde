"""[P7]: the watchdog is fed by progress, and the network thread cannot die unseen."""

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from support.datasets import Digits
from support.fake_systemd import Systemd
from support.live_node import MakeNode, Node
from support.patience import APART, accept, run_command, until

from edgecc.config.schema import Mqtt
from edgecc.mqtt.connection import Link
from edgecc.mqtt.connection_events import Disconnected


def test_p07_the_watchdog_is_fed_while_everything_moves(node: Node, systemd: Systemd) -> None:
    node.kill()
    node.start()
    systemd.assert_fed()
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    systemd.assert_starved()


def test_p07_a_network_thread_that_hangs_starves_the_watchdog(
    make_node: MakeNode, systemd: Systemd
) -> None:
    """It waits for a TLS handshake that never comes; the writer goes on meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        node = make_node(mqtt={
            "port": silent.getsockname()[1], "tls": True, "keepalive": 65535})
        node.launch()
        with accept(silent):
            systemd.assert_starved()
            assert node.process is not None
            assert node.process.poll() is None


def test_p07_a_learner_that_hangs_starves_the_watchdog(
    make_node: MakeNode, systemd: Systemd, digits: Digits
) -> None:
    node = make_node(grow={"first": 100, "epochs": 200.0})
    node.start()
    node.stream(digits[0][:120], digits[1][:120])
    node.peer.wait(lambda m: m.topic == node.topic("train") and m.json.get("step", 0) > 0)
    systemd.assert_fed()
    assert node.learner is not None
    os.kill(node.learner, signal.SIGSTOP)
    systemd.assert_starved()


DIES = """
import ctypes, sys, threading, time
from edgecc.config.loading import load
from edgecc.daemon import daemon

def kill():
    while True:
        [thread] = [
            t for t in threading.enumerate() if t.name == "network" and t.is_alive()] or [None]
        if thread is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
            return
        time.sleep(0.01)

threading.Thread(target=kill, daemon=True).start()
read = lambda: load(None)
daemon.run(read(), read)
"""


def test_p07_a_network_thread_that_dies_ends_the_node_with_the_reason(
    make_node: MakeNode, tmp_path: Path
) -> None:
    """SystemExit ends a thread without a word."""
    environ = {"EDGECC_NODE": "dies", "EDGECC_STATE_DIR": str(tmp_path / "dies"),
               "EDGECC_MQTT__HOST": "127.0.0.1", "EDGECC_MQTT__PORT": str(make_node().port)}
    done = run_command([sys.executable, "-c", DIES], env=os.environ | environ)
    assert done.returncode == 1
    assert "the network thread has died" in done.stderr


@pytest.mark.parametrize("answer", [
    b"", b"\x20\x03\x00\x00\xff", b"\x20\xff\xff\xff\xff\x01", b"\x20\x05\x00\x00\x02\x21\x00",
    b"\x20\x03\x00\x00\x00\x30\x02\x00\x09", b"\xf0\x00", os.urandom(64),
], ids=["nothing", "torn", "length", "property", "publish", "auth", "noise"])
def test_p07_whatever_a_broker_sends_the_network_thread_goes_on(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rude:
        link = Link(Mqtt(host="127.0.0.1", port=rude.getsockname()[1]), client_id="edgecc-p7")
        link.start()
        try:
            for _ in range(2):  # it comes again
                with accept(rude) as connection:
                    connection.recv(1000)
                    connection.sendall(answer)
                    with contextlib.suppress(OSError):  # it may have hung up already
                        connection.shutdown(socket.SHUT_WR)
                    until(lambda: _lost(link), "it does not notice")
            assert link.alive
        finally:
            link.stop()


def _lost(link: Link) -> bool:
    return any(isinstance(event, Disconnected) for event in link.take(10, APART))
