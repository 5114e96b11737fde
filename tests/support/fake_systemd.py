"""The end of sd_notify(3) that systemd holds."""

import itertools
import socket
import threading
import time
from pathlib import Path


class Systemd:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._fed: list[float] = []  # when WATCHDOG=1 came
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
            mine.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()

    def quiet_for(self, seconds: float) -> float:
        """The longest time without a WATCHDOG=1 in the next `seconds`."""
        begin = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()
        moments = [begin, *(fed for fed in list(self._fed) if begin < fed < end), end]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))

    def _listen(self) -> None:
        while said := self._socket.recv(100):
            if said == b"WATCHDOG=1":
                self._fed.append(time.monotonic())
