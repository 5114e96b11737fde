"""How much of the time a process may run: it is stopped and continued, and notices nothing."""

import os
import signal
import threading

_PERIOD = 0.5  # seconds


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
                self._settle()

    def follow(self, pid: int | None) -> None:
        """From now on this process, or none: the one before runs freely, and may be reaped."""
        with self._changed:
            if pid != self._pid:
                self._let_run(True)
                self._pid = pid
                self._settle()

    def _settle(self) -> None:
        if self._timed and self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="pace", daemon=True)
            self._thread.start()
        elif not self._timed:
            self._let_run(self.share > 0)
        self._changed.notify()

    def _beat(self) -> None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._timed)
                self._let_run(True)
                if not self._changed.wait(self.share * _PERIOD) and self._timed:
                    self._let_run(False)
                    self._changed.wait((1 - self.share) * _PERIOD)

    @property
    def _timed(self) -> bool:
        return self._pid is not None and 0 < self.share < 1

    def _let_run(self, run: bool) -> None:
        if self._pid is not None and run == self._stopped:
            os.kill(self._pid, signal.SIGCONT if run else signal.SIGSTOP)
            self._stopped = not run
