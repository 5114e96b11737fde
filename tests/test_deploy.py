"""What deploy/ ships, run by the programs that read it: systemd-analyze and a real mosquitto.

mosquitto answers many a denied publication or subscription with success, so a refusal is shown by
delivery: the forbidden message goes first, then a permitted marker, and the marker arrives first.
"""

import os
import queue
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

DEPLOY = Path(__file__).parent.parent / "deploy"
UNIT = DEPLOY / "edgecc.service"
DEADLINE = 10.0
USERS = ("cam1", "producer", "operator", "viewer", "cam2")
MARKER = ("edgecc/v1/cam1/command/ping", b"marker")


def needs(program: str, package: str) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{program} is missing: sudo apt install {package}")
    return found


def run(*command: str | Path) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}"
    return done.stdout


# The unit


def settings() -> dict[str, list[str]]:
    """Each key of the unit with its values, in order; a key may stand more than once."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def runnable_unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here; nothing else is changed."""
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"(?m)^ExecStart=.*$", "ExecStart=/bin/true", UNIT.read_text()))
    return copy


def test_systemd_accepts_the_unit_without_a_complaint(runnable_unit: Path) -> None:
    analyze = needs("systemd-analyze", "systemd")
    assert run(analyze, "verify", runnable_unit) == ""


def test_systemd_rates_the_exposure_of_the_unit_at_1_5_or_less(runnable_unit: Path) -> None:
    analyze = needs("systemd-analyze", "systemd")
    report = run(analyze, "security", "--offline=true", "--no-pager", runnable_unit)
    score = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert score, report
    assert float(score[1]) <= 1.5, report


def test_the_unit_starts_the_daemon_and_watches_it() -> None:
    unit = settings()
    start = "/opt/edgecc/bin/edgecc --config /etc/edgecc/edgecc.yaml start"
    assert unit["ExecStart"] == [start]
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["WatchdogSec"] == ["60"]


def test_the_unit_restarts_the_daemon_except_where_a_person_is_needed() -> None:
    unit = settings()
    assert unit["Restart"] == ["always"]
    assert unit["RestartPreventExitStatus"] == ["77 78"]


def test_a_learner_killed_for_memory_does_not_end_the_daemon() -> None:
    unit = settings()
    assert unit["MemoryMax"] == ["512M"]
    assert unit["OOMPolicy"] == ["continue"]


def test_the_unit_leaves_the_learner_what_it_needs() -> None:
    unit = settings()
    assert "MemoryDenyWriteExecute" not in unit, "oneDNN generates code"
    assert unit["ProcSubset"] == ["all"], "LiteRT reads /proc/cpuinfo"
    assert not [value for value in unit["SystemCallFilter"] if "@resources" in value]


def test_the_container_copies_what_is_there_and_is_not_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert copied
    assert all(list(DEPLOY.parent.glob(name)) for name in copied)
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]


# The broker


class Broker:
    """mosquitto under the shipped configuration; only paths and ports are replaced."""

    def __init__(self, folder: Path) -> None:
        self.program = needs("mosquitto", "mosquitto")
        self.folder = folder
        self.port, self.tls_port = free_port(), free_port()
        self.config = folder / "mosquitto.conf"
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir()
        shutil.copy(DEPLOY / "acl", folder / "acl")
        self._write_config()
        self._make_passwords()
        self._make_certificates()

    def _write_config(self) -> None:
        text = (DEPLOY / "mosquitto.conf").read_text()
        for shipped, here in {
            "persistence_location /var/lib/mosquitto/": f"persistence_location {self.folder}/data/",
            " /etc/mosquitto/": f" {self.folder}/",
            "listener 1883 127.0.0.1": f"listener {self.port} 127.0.0.1",
            "listener 8883": f"listener {self.tls_port} 127.0.0.1",
        }.items():
            assert f"\n{shipped}" in text or shipped.startswith(" "), f"{shipped!r} is not set"
            text = text.replace(shipped, here)
        if os.geteuid() == 0:
            text += "\nuser root\n"  # the folder of a test belongs to whoever runs it
        self.config.write_text(text)

    def _make_passwords(self) -> None:
        passwd = needs("mosquitto_passwd", "mosquitto")
        (self.folder / "passwd").touch(mode=0o600)
        for user in USERS:
            run(passwd, "-b", self.folder / "passwd", user, f"password of {user}")

    def _make_certificates(self) -> None:
        """As in deploy/README.md: an authority, the broker, two nodes, and a forged cam1."""
        self.certs = self.folder / "certs"
        self.certs.mkdir()
        for authority in ("ca", "forger"):
            self._certificate(authority, "/CN=edgecc authority")
        self._certificate("broker", "/CN=127.0.0.1", "ca", "subjectAltName=IP:127.0.0.1")
        self._certificate("cam1", "/CN=cam1", "ca")
        self._certificate("operator", "/CN=operator", "ca")
        self._certificate("forged", "/CN=cam1", "forger")

    def _certificate(self, name: str, subject: str, ca: str = "", extension: str = "") -> None:
        command: list[str | Path] = [needs("openssl", "openssl"), "req", "-x509", "-noenc"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", subject]
        command += ["-keyout", self.certs / f"{name}.key", "-out", self.certs / f"{name}.crt"]
        if ca:
            command += ["-CA", self.certs / f"{ca}.crt", "-CAkey", self.certs / f"{ca}.key"]
            command += ["-extensions", "v3_req"]
        run(*command, *(["-addext", extension] if extension else []))

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.program, "-c", self.config], stderr=log)
        deadline = time.monotonic() + DEADLINE
        while not all(map(listens, (self.port, self.tls_port))):
            log_text = (self.folder / "log").read_text()
            assert self.process.poll() is None, f"mosquitto ended at once:\n{log_text}"
            assert time.monotonic() < deadline, f"mosquitto does not listen:\n{log_text}"

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(DEADLINE)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.1):
            return True
    except OSError:
        return False


class Client:
    """One connected client: publish waits for the broker's answer, `arrived` collects.

    `cert` chooses the TLS listener: a certificate by name, or "" to bring none.
    """

    def __init__(
        self,
        broker: Broker,
        user: str = "",
        *,
        password: str = "",
        cert: str | None = None,
        session: str = "",
    ) -> None:
        self.arrived: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        self._mqtt = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=session,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        self._mqtt.on_message = lambda _, __, message: self.arrived.put(
            (message.topic, bytes(message.payload))
        )
        self._mqtt.on_connect = lambda _, __, ___, code, ____: self._answers.put(code)
        self._mqtt.on_disconnect = lambda _, __, ___, code, ____: self._answers.put(code)
        self._mqtt.on_subscribe = lambda _, __, ___, codes, ____: self._answers.put(codes)
        if user:
            self._mqtt.username_pw_set(user, password or f"password of {user}")
        if cert is not None:
            tls = ssl.create_default_context(cafile=broker.certs / "ca.crt")
            if cert:
                tls.load_cert_chain(broker.certs / f"{cert}.crt", broker.certs / f"{cert}.key")
            self._mqtt.tls_set_context(tls)
        expiry = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        expiry.SessionExpiryInterval = 3600 if session else 0
        port = broker.port if cert is None else broker.tls_port
        try:
            self._mqtt.connect("127.0.0.1", port, clean_start=not session, properties=expiry)
        except (ssl.SSLError, ConnectionResetError) as error:
            raise ConnectionRefusedError(str(error)) from error
        self._mqtt.loop_start()
        code = self._answers.get(timeout=DEADLINE)
        if code != "Success" or not self._mqtt.is_connected():
            self.close()
            raise ConnectionRefusedError(str(code))

    def subscribe(self, topic: str) -> "Client":
        self._mqtt.subscribe(topic, qos=1)
        self._answers.get(timeout=DEADLINE)
        return self

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> "Client":
        self._mqtt.publish(topic, payload, qos=1, retain=retain).wait_for_publish(DEADLINE)
        return self

    def next(self) -> tuple[str, bytes]:
        return self.arrived.get(timeout=DEADLINE)

    def close(self) -> None:
        self._mqtt.disconnect()
        self._mqtt.loop_stop()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
            assert done.wait(DEADLINE)
        with Client(own_broker, "producer") as producer:
            producer.publish("edgecc/v1/cam1/in/door/sample", b"marker")
        assert node.next() == ("edgecc/v1/cam1/in/door/sample", b"marker")
