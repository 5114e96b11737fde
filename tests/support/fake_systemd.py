"""The end of sd_notify(3) that systemd holds."""

import socket
import threading
import time
from pathlib import Path

from support.patience import until

OFTEN = 1.5  # seconds between two signs of life, at most; a node gives one each half second


class Systemd:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._fed = 0  # how often WATCHDOG=1 came
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
            mine.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()

    def assert_fed(self) -> None:
        """WATCHDOG=1 comes again and again."""
        for _ in range(4):
            before = self._fed
            until(lambda: self._fed > before, "the watchdog starves", seconds=OFTEN)  # noqa: B023

    def assert_starved(self) -> None:
        """No WATCHDOG=1 comes any more, but for what is under way."""
        time.sleep(0.7)
        before = self._fed
        time.sleep(OFTEN)
        assert self._fed == before, "the watchdog is fed"

    def _listen(self) -> None:
        while message := self._socket.recv(100):
            self._fed += message == b"WATCHDOG=1"
