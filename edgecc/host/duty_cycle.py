"""How much of the time a process may run: it is stopped and continued, and notices nothing.

Never while it reads from the log: stopped in the middle of that, it would keep SQLite from
beginning its write-ahead file anew for as long as it waits.
"""

import os
import signal
import threading
from pathlib import Path

_PERIOD = 0.5  # seconds
_AGAIN = 0.01  # seconds between two tries to stop it
# Bytes of the -shm file that SQLite locks within a transaction (sqlite.org/walformat.html, 2.3).
_FIRST, _LAST = 120, 127


class Pace:
    """`share` 1: always; 0: not now; between: that part of every half second."""

    def __init__(self) -> None:
        self.share = 1.0
        self._pid: int | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def set(self, share: float) -> None:
        with self._changed:
            if share != self.share:
                self.share = share
                self._heed()

    def follow(self, pid: int | None) -> None:
        """From now on this process, or none: the one before runs freely, and may be reaped."""
        with self._changed:
            if pid != self._pid:
                self._continue()
                self._pid = pid
                self._heed()

    def _heed(self) -> None:
        if self._limited and self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="pace", daemon=True)
            self._thread.start()
        elif not self._limited:
            self._continue()
        self._changed.notify()

    @property
    def _limited(self) -> bool:
        return self._pid is not None and self.share < 1

    def _beat(self) -> None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._limited)
                if self.share:
                    self._continue()
                    self._changed.wait(self.share * _PERIOD)
                while self._limited and not self._stopped:
                    self._stop()
                    if not self._stopped:
                        self._changed.wait(_AGAIN)
                self._changed.wait((1 - self.share) * _PERIOD if self.share else None)

    def _continue(self) -> None:
        if self._pid is not None and self._stopped:
            os.kill(self._pid, signal.SIGCONT)
            self._stopped = False

    def _stop(self) -> None:
        """It has stopped on return, unless it was reading or is no longer to stop."""
        assert self._pid is not None
        os.kill(self._pid, signal.SIGSTOP)
        self._stopped = True
        while self._stopped and _state(self._pid) not in "TZ":
            self._changed.wait(_AGAIN)
        if self._stopped and _reads(self._pid):
            self._continue()


def _state(pid: int) -> str:
    """T: stopped; Z: ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _reads(pid: int) -> bool:
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, *_, owner, _, first, last = line.replace("EOF", str(2**63)).split()
        if kind == "POSIX" and owner == str(pid) and int(first) <= _LAST and int(last) >= _FIRST:
            return True
    return False
