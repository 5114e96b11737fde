"""A mosquitto of a test's own: with rules, limits or plugins, stopped, killed and started again."""

import getpass
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

import pytest

from edgecc.broker import find_mosquitto, free_port

DEADLINE = 10.0

CONF = """\
listener {port} 127.0.0.1
user {user}
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
log_dest file {folder}/mosquitto.log
{more}
"""


@dataclass
class Broker:
    """`more` is configuration, in which {folder} is where `files` are written."""

    folder: Path
    more: str = "allow_anonymous true"

    def __post_init__(self) -> None:
        found = find_mosquitto()
        if found is None:
            pytest.skip("mosquitto is missing: apt install mosquitto")
        self._binary, self.port = found, free_port()
        self.folder.mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)

    def start(self) -> "Broker":
        more = self.more.format(folder=self.folder)
        self.write("conf", CONF.format(
            port=self.port, user=getpass.getuser(), folder=self.folder, more=more))
        self.process = subprocess.Popen(
            [self._binary, "-c", str(self.folder / "conf")], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", self.port)):
                assert self.process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
        return self

    @property
    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text()

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def stop(self, number: int = SIGTERM) -> None:
        if self.process is not None:
            self.signal(number)
            self.process.wait()
            self.process = None
