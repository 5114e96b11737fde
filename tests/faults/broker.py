"""A mosquitto of the test's own, that may be killed, started again and configured anew."""

import getpass
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from live import DEADLINE, Peer

from edgecc.broker import find_mosquitto, free_port

_BASE = """\
listener {port} 127.0.0.1
user {user}
set_tcp_nodelay true
max_queued_messages 100000
max_inflight_messages 100
"""
KEEPING = ("persistence true", "autosave_on_changes true", "autosave_interval 20")
OPEN = ("allow_anonymous true",)


class Broker:
    """Its configuration is `lines`; what it keeps over a restart lies in `folder`."""

    def __init__(
        self, folder: Path, *lines: str, environ: Mapping[str, str] | None = None
    ) -> None:
        binary = find_mosquitto()
        if binary is None:
            pytest.skip("mosquitto is missing: apt install mosquitto")
        folder.mkdir(exist_ok=True)
        self.port, self._folder, self._environ = free_port(), folder, environ
        self._conf = folder / "mosquitto.conf"
        self._command = [binary, "-c", str(self._conf)]
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(*lines)
        self.start()

    def restart(self, peer: Peer, *lines: str, how: int = signal.SIGTERM) -> None:
        """End it, configure it anew where there are lines, and start it; `peer` is back then."""
        self._end(how)
        deadline = time.monotonic() + DEADLINE
        while peer.granted.is_set():
            assert time.monotonic() < deadline, "the peer has not noticed"
            time.sleep(0.01)
        if lines:
            self.configure(*lines)
        self.start()
        assert peer.granted.wait(DEADLINE), "the peer does not come back"

    def configure(self, *lines: str) -> None:
        """For the next start."""
        place = f"persistence_location {self._folder}/"
        base = _BASE.format(port=self.port, user=getpass.getuser())
        self._conf.write_text(base + "\n".join([place, *(lines or (*OPEN, *KEEPING))]) + "\n")

    def start(self) -> None:
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log, env=self._environ)
        deadline = time.monotonic() + DEADLINE
        while not _listens(self.port):
            assert self._process.poll() is None, "mosquitto ended; see its log"
            assert time.monotonic() < deadline, "mosquitto does not listen"
            time.sleep(0.02)

    def await_saying(self, what: str) -> None:
        """Until its log has it."""
        deadline = time.monotonic() + DEADLINE
        while what not in (self._folder / "mosquitto.log").read_text():
            assert time.monotonic() < deadline, f"it never says {what!r}"
            time.sleep(0.05)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: int) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(DEADLINE)
            self._process = None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
