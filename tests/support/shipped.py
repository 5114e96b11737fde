"""The mosquitto that deploy/ ships, run with its configuration and ACL, and clients of it."""

import os
import queue
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support.patience import exit_code, run_command, taken, until
from support.peer import await_puback

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "edgecc.service"
USERS = ("cam1", "producer", "operator", "viewer", "cam2")
MARKER = ("edgecc/v1/cam1/command/ping", b"marker")


def needs(program: str, package: str) -> str:
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{program} is missing: sudo apt install {package}")
    return path


def run(*command: str | Path) -> str:
    done = run_command(command, stderr=subprocess.STDOUT)
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}"
    return done.stdout


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
        ports = self.port, self.tls_port
        until(lambda: all(map(listens, ports)) or self._ended(), self.log)
        assert not self._ended(), self.log()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            exit_code(self.process)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        exit_code(self.process)


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
        code = taken(self._answers)
        if code != "Success" or not self._mqtt.is_connected():
            self.close()
            raise ConnectionRefusedError(str(code))

    def subscribe(self, topic: str) -> "Client":
        self._mqtt.subscribe(topic, qos=1)
        taken(self._answers)
        return self

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> "Client":
        await_puback(self._mqtt.publish(topic, payload, qos=1, retain=retain), topic)
        return self

    def next(self) -> tuple[str, bytes]:
        return taken(self.arrived)

    def close(self) -> None:
        self._mqtt.disconnect()
        self._mqtt.loop_stop()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
