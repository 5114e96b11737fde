"""A mosquitto of a test's own: with rules, limits or plugins, stopped, killed and started again."""

import getpass
import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
from support.patience import exit_code, until
from support.peer import Peer

from edgecc.mqtt.local_broker import find_mosquitto, free_port

OPEN = "allow_anonymous true\n"
_CONF = """\
listener {port} 127.0.0.1
user {user}
set_tcp_nodelay true
max_queued_messages 100000
max_inflight_messages 100
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
log_dest file {folder}/mosquitto.log
{more}
"""


@dataclass
class Broker:
    """`more` is configuration for its next start, in which {folder} is where `write` writes."""

    folder: Path
    more: str = OPEN
    environ: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        binary = find_mosquitto()
        if binary is None:
            pytest.skip("mosquitto is missing: apt install mosquitto")
        self._binary, self.port = binary, free_port()
        self.folder.mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)

    def start(self) -> "Broker":
        more = self.more.format(folder=self.folder)
        self.write("conf", _CONF.format(
            port=self.port, user=getpass.getuser(), folder=self.folder, more=more))
        self.process = subprocess.Popen(
            [self._binary, "-c", str(self.folder / "conf")], stderr=subprocess.DEVNULL,
            env=self.environ)
        until(lambda: self._listens() or self._ended(), lambda: self.log)
        assert not self._ended(), self.log
        return self

    def restart(self, peer: Peer, more: str | None = None, *, end: int = SIGTERM) -> None:
        """End it and start it, from now on with `more`; returns once `peer` is back."""
        self.stop(end)
        until(lambda: not peer.granted.is_set(), "the peer has not noticed")
        self.more = self.more if more is None else more
        self.start()
        until(peer.granted.is_set, "the peer does not come back")

    @property
    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text()

    def await_saying(self, what: str) -> None:
        """Until its log has it."""
        until(lambda: what in self.log, f"it never says {what!r}")

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.stop(SIGKILL)

    def stop(self, number: int = SIGTERM) -> None:
        if self.process is not None:
            self.signal(number)
            exit_code(self.process)
            self.process = None

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
