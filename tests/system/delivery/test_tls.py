"""The real daemon on the shipped broker: over TLS with certificates, and what each role can do."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.datasets import Digits, npy
from support.live_node import Node
from support.patience import accept, run_command, until
from support.peer import Peer
from support.shipped import Broker, needs, run

CA_CONFIG = """\
[ca]
default_ca = here
[here]
dir = {0}
database = {0}/index
new_certs_dir = {0}
rand_serial = yes
unique_subject = no
default_md = sha256
copy_extensions = copy
policy = any
[any]
commonName = supplied
"""
PAST, FUTURE = ("20200101000000Z", "20210101000000Z"), ("20990101000000Z", "20991231000000Z")


class Certified(Broker):
    """Also with certificates that time or a mistake has made useless."""

    def _make_certificates(self) -> None:
        super()._make_certificates()
        (self.certs / "index").touch()
        (self.certs / "ca.cnf").write_text(CA_CONFIG.format(self.certs))
        self.dated("past", "/CN=127.0.0.1", PAST, "subjectAltName=IP:127.0.0.1")
        self.dated("future", "/CN=127.0.0.1", FUTURE, "subjectAltName=IP:127.0.0.1")
        self.dated("cam1-past", "/CN=cam1", PAST, "subjectAltName=DNS:cam1")
        shutil.copy(self.certs / "broker.crt", self.certs / "good.crt")
        shutil.copy(self.certs / "broker.key", self.certs / "good.key")

    def dated(self, name: str, subject: str, dates: tuple[str, str], extension: str) -> None:
        openssl, at = needs("openssl", "openssl"), self.certs / name
        run(openssl, "req", "-new", "-noenc", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:P-256", "-subj", subject, "-addext", extension, "-keyout",
            f"{at}.key", "-out", f"{at}.csr")
        run(openssl, "ca", "-batch", "-notext", "-config", self.certs / "ca.cnf", "-cert",
            self.certs / "ca.crt", "-keyfile", self.certs / "ca.key", "-in", f"{at}.csr", "-out",
            f"{at}.crt", "-startdate", dates[0], "-enddate", dates[1])

    def show(self, name: str) -> None:
        """Start again with another certificate."""
        self.stop()
        for end in ("crt", "key"):
            shutil.copy(self.certs / f"{name}.{end}", self.certs / f"broker.{end}")
        self.start()

    def mqtt(self, cert: str | None = "cam1", **changes: Any) -> dict[str, Any]:
        """How a client reaches the TLS listener."""
        own = {} if cert is None else {
            "cert": str(self.certs / f"{cert}.crt"), "key": str(self.certs / f"{cert}.key")}
        return {"host": "127.0.0.1", "port": self.tls_port, "tls": True,
                "ca": str(self.certs / "ca.crt")} | own | changes

    def peer(self, user: str, *filters: str) -> Peer:
        return Peer(self.port, *filters, username=user, password=f"password of {user}")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    running = Certified(tmp_path_factory.mktemp("certified"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


Make = Callable[..., Node]


@pytest.fixture
def cam1(broker: Certified, tmp_path: Path) -> Iterator[Make]:
    """The node whose certificate says cam1; an operator hears all that it says."""
    made: list[Node] = []

    def make(mqtt: dict[str, Any]) -> Node:
        settings = {"node": "cam1", "state_dir": str(tmp_path / "state"), "mqtt": mqtt,
                    "input": {"kind": "image", "shape": [1, 8, 8]}, "grow": {"first": 100_000}}
        made.append(Node(tmp_path, broker.port, "cam1", settings,
                         broker.peer("operator", "edgecc/v1/cam1/#")))
        return made[-1]

    yield make
    for node in made:
        node.bury()


def edgecc(node: Node, mqtt: dict[str, Any], *command: str) -> "subprocess.CompletedProcess[str]":
    """A command from another machine: it has the node's name, and an access of its own."""
    elsewhere = node.folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    return run_command(
        [sys.executable, "-m", "edgecc", *command], cwd=elsewhere, env=os.environ | {
            "EDGECC_NODE": "cam1", "EDGECC_MQTT": json.dumps(mqtt), "HOME": str(elsewhere)})


def role(broker: Certified, user: str) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": broker.port, "username": user,
            "password": f"password of {user}"}


def test_every_role_can_do_its_work_with_a_real_node_and_no_other_s(
    broker: Certified, cam1: Make, digits: Digits
) -> None:
    node = cam1(broker.mqtt())
    node.start()
    picture = npy(digits[0][0])
    producer = broker.peer("producer", "edgecc/v1/cam1/#")
    viewer, other = broker.peer("viewer", "edgecc/v1/#"), broker.peer("cam2", "edgecc/v1/#")
    node.peer.publish(node.topic("in/door/sample/operator"), picture)
    for name in ("viewer", "cam2"):
        intruder = viewer if name == "viewer" else other
        intruder.publish(node.topic(f"in/door/sample/{name}"), picture)
        intruder.publish(node.topic("in/door/label"), b'{"id": "a", "label": "wrong"}')
    for intruder in (producer, viewer, other):
        intruder.publish(node.topic("command/pause"), b'{"id": "p"}')
        intruder.publish(node.topic("command/unlearn"), b'{"id": "u", "args": {"ids": ["a"]}}')
        intruder.publish(node.topic("checkpoint/get"), json.dumps({
            "client": "c", "transfer": "t", "generation": 0, "file": "trunk.tflite",
            "chunks": [0]}))
        intruder.publish(node.topic("event"), b"forged", retain=True)
        intruder.publish(node.topic("status"), b"offline", retain=True)
    producer.publish(node.topic("in/door/sample/seven"), picture, UserProperty=[("id", "a")])
    said = producer.wait(lambda m: m.topic == node.topic("out/door/receipt"))
    assert said.json == [{"id": "a", "status": "stored"}]
    producer.wait(lambda m: m.topic == node.topic("out/door/prediction"))
    operator = role(broker, "operator")
    for command in (("checkpoint", "save"), ("checkpoint", "pull"), ("label", "a", "eight")):
        done = edgecc(node, operator, *command)
        assert done.returncode == 0, (command, done.stderr)
    assert edgecc(node, broker.mqtt("operator"), "status").returncode == 0  # with a certificate
    assert edgecc(node, role(broker, "viewer"), "status").returncode == 0
    assert edgecc(node, role(broker, "viewer"), "checkpoint", "pull").returncode != 0
    assert node.rows("SELECT id, label FROM sample") == [("a", "eight")]
    assert node.rows("SELECT COUNT(*) FROM unlearning") == [(0,)]
    health = node.peer.wait(lambda m: m.topic == node.topic("health"),
                            after=len(node.peer.messages)).json
    assert health["paused"] is False
    assert b"forged" not in {m.payload for m in node.peer.messages}
    assert b"offline" not in {m.payload for m in node.peer.messages}
    assert {m.topic.split("/")[3] for m in viewer.messages} <= {
        "out", "status", "info", "health", "train", "event"}
    assert {m.topic.split("/")[3] for m in producer.messages} == {"out"}
    assert other.messages == []
    for peer in (producer, viewer, other):
        peer.close()


def test_a_node_with_the_certificate_of_another_cannot_take_its_place(
    broker: Certified, cam1: Make
) -> None:
    node = cam1(broker.mqtt("operator"))
    node.launch()
    heard = node.peer.find(lambda m: m.topic == node.topic("status") and m.payload == b"online"
                           and not m.retain, timeout=2)
    assert heard is None


WRONG = [
    ({"ca": "forger.crt"}, 77, "set mqtt.ca to the right one"),
    ({"ca": None}, 77, "set mqtt.ca to the right one"),
    ({"host": "localhost"}, 77, "is not for 'localhost': set mqtt.host"),
    ({"cert": None, "key": None}, 77, "set mqtt.cert and mqtt.key"),
    ({"cert": "forged.crt", "key": "forged.key"}, 77, "does not trust mqtt.cert"),
    ({"cert": "cam1-past.crt", "key": "cam1-past.key"}, 77, "mqtt.cert has expired: renew it"),
    ({"ca": "nowhere.crt"}, 78, "nowhere.crt cannot be read: No such file"),
    ({"ca": "ca.key"}, 78, "ca.key cannot be read"),
    ({"key": "operator.key"}, 78, "fitting each other"),
    ({"key": "locked.key"}, 78, "not encrypted"),
]


@pytest.mark.parametrize(("changes", "code", "says"), WRONG)
def test_what_is_wrong_with_tls_is_named_with_what_to_do(
    broker: Certified, cam1: Make, changes: dict[str, Any], code: int, says: str
) -> None:
    locked = broker.certs / "locked.key"
    if not locked.exists():
        run(needs("openssl", "openssl"), "ec", "-aes128", "-passout", "pass:word", "-in",
            broker.certs / "cam1.key", "-out", locked)
    mqtt = broker.mqtt() | {key: str(broker.certs / value) if value and key != "host" else value
                            for key, value in changes.items()}
    node = cam1(mqtt)
    for command in ("start", "status") if "ca" in changes else ("start",):
        done = node.run(command)
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "says"), [
    ("past", "the broker's certificate has expired"),
    ("future", "the broker's certificate is not valid yet: correct the clock"),
])
def test_what_time_heals_ends_no_daemon(
    broker: Certified, cam1: Make, name: str, says: str
) -> None:
    broker.show(name)
    try:
        node = cam1(broker.mqtt())
        done = node.run("status")
        assert (done.returncode, says in done.stderr) == (75, True), done.stderr
        process = node.launch()
        until(lambda: says in node.output, lambda: node.output)
        assert process.poll() is None, node.output
        heard = len(node.peer.messages)
    finally:
        broker.show("good")
    node.peer.wait(lambda m: m.topic == node.topic("health") and not m.retain, after=heard)


def test_a_broker_that_shows_another_certificate_for_a_while_ends_no_daemon_that_was_connected(
    broker: Certified, cam1: Make
) -> None:
    node = cam1(broker.mqtt())
    node.start()
    heard = len(node.peer.messages)
    broker.show("forged")
    try:
        until(lambda: "set mqtt.ca to the right one" in node.output, lambda: node.output)
    finally:
        broker.show("good")
    node.peer.wait(lambda m: m.topic == node.topic("health") and not m.retain, after=heard)


# --- versions ---


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    """One that speaks nothing newer than TLS 1.1."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def test_the_shipped_broker_speaks_no_tls_1_1(broker: Certified) -> None:
    context = ssl.create_default_context(cafile=broker.certs / "ca.crt")
    context.load_cert_chain(broker.certs / "cam1.crt", broker.certs / "cam1.key")
    place = ("127.0.0.1", broker.tls_port)
    with socket.create_connection(place) as plain, context.wrap_socket(
        plain, server_hostname="127.0.0.1"
    ) as secure:
        assert secure.version() in ("TLSv1.2", "TLSv1.3")
    with socket.create_connection(place) as plain, pytest.raises(ssl.SSLError):
        old(context).wrap_socket(plain, server_hostname="127.0.0.1")


def test_edgecc_speaks_no_tls_1_1(broker: Certified, cam1: Make) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(broker.certs / "good.crt", broker.certs / "good.key")
    old(context)
    refused: list[str] = []

    def serve(listening: socket.socket) -> None:
        with accept(listening) as taken:
            try:
                context.wrap_socket(taken, server_side=True).close()
            except ssl.SSLError as error:
                refused.append(str(error.reason))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve, args=(listening,))
        server.start()
        done = cam1(broker.mqtt(port=listening.getsockname()[1])).run("status")
        until(lambda: not server.is_alive(), "nobody says which TLS it speaks")
    assert (done.returncode, "TLS 1.2" in done.stderr) == (77, True), done.stderr
    assert refused
