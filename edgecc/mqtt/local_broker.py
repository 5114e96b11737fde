"""A local broker for a first try: mosquitto where it is installed, else the embedded one."""

import getpass
import logging
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from edgecc.errors import BrokerError, ConfigError

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds for the broker to listen
_MOSQUITTO = """\
# Written by edgecc: a broker on loopback without access control. For one that others reach,
# start from deploy/mosquitto.conf.
listener {port} 127.0.0.1
allow_anonymous true
user {user}
persistence true
persistence_location {folder}/
{saving}
max_queued_messages 20000
max_queued_bytes 268435456
max_inflight_messages 100
set_tcp_nodelay true
log_dest file {folder}/mosquitto.log
log_type error
log_type warning
"""
_EMBEDDED = """\
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 10485760
max_inflight_count = 100
dynamic_filters = true
"""
EMBEDDED_WARNING = (
    "using the embedded broker: it keeps nothing over a restart and ignores receive limits; "
    "for the real thing: apt install mosquitto"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_mosquitto() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Mosquitto:
    """mosquitto as a child process."""

    name = "mosquitto"

    def __init__(
        self, binary: str, folder: Path, port: int, saving: str = "autosave_interval 60"
    ) -> None:
        path = folder / "mosquitto.conf"
        path.write_text(_MOSQUITTO.format(
            port=port, folder=folder.resolve(), user=getpass.getuser(), saving=saving))
        self._process = subprocess.Popen(
            [binary, "-c", str(path)], stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the daemon, which says goodbye through this broker
        )
        deadline = time.monotonic() + _PATIENCE
        while not _listens(port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BrokerError(f"mosquitto does not start: see {folder}/mosquitto.log")
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Embedded:
    """rumqttd from the package iotcore, where mosquitto is not installed."""

    name = "embedded"

    def __init__(self, folder: Path, port: int) -> None:
        try:
            from iotcore import Broker
        except ImportError as error:
            raise ConfigError(
                "no mosquitto and no embedded broker here: apt install mosquitto, "
                "or pip install 'edgecc[broker]' for a first try"
            ) from error
        log.warning(EMBEDDED_WARNING)
        path = folder / "embedded.toml"
        path.write_text(_EMBEDDED.format(port=port))
        self._broker: Any = Broker(config_path=str(path))
        try:
            self._broker.start(timeout=_PATIENCE)
        except (OSError, RuntimeError) as error:
            raise BrokerError(f"embedded broker on port {port}: {error}") from error

    def stop(self) -> None:
        self._broker.stop()


def start_local(
    folder: Path, port: int, saving: str = "autosave_interval 60"
) -> Mosquitto | Embedded:
    """A broker on loopback `port`, its files in `folder`; stop() ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    if _listens(port):
        raise BrokerError(f"port {port} is taken: set mqtt.port, or use the broker that is there")
    binary = find_mosquitto()
    return Mosquitto(binary, folder, port, saving) if binary else Embedded(folder, port)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
