"""The daemon's side of the learner: start it, give it orders, listen, restart it with backoff."""

import contextlib
import json
import logging
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from edgecc.host.memory import data_memory
from edgecc.training.learner import OUT_OF_MEMORY
from edgecc.training.orders import Order

log = logging.getLogger(__name__)
_BACKOFF = (0.5, 120.0)  # seconds, first and longest
_KILLED = -9
_NEXT_TO_NOTHING = 2**20  # bytes: Python's objects have no arena to grow into
_PATIENCE = 10.0  # seconds of CPU
_LOOK_EVERY = 0.5  # seconds
FRUGAL = {  # 4 MiB: few maps of a training step are larger, most matrices of a readout are
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
}
_MEMORY_CODES = (  # 127: glibc had no room for a thread's own data; libraries abort, or crash
    OUT_OF_MEMORY, 127, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
_GIVEN_UP = 1  # OpenBLAS, or safetensors in a panic; Python too, but before the limit is set
_OWN_FAULTS = (-signal.SIGILL, -signal.SIGFPE)

Ending = Literal["memory", "failed", "killed"]
Messages = queue.SimpleQueue[dict[str, Any] | None]


class Supervisor:
    """At most one learner. Its messages arrive on `messages`; None means that it ended."""

    def __init__(self, *, limit: int, idle: float, wake: Callable[[], None]) -> None:
        self._limit, self._idle, self._wake = limit, idle, wake
        self._process: subprocess.Popen[str] | None = None
        self._backoff, self._not_before = _BACKOFF[0], 0.0
        self.messages: Messages = queue.SimpleQueue()
        self.order: Order | None = None
        self._oom_kills, self._starved = 0, False
        self._silent_from, self._spoke = 0.0, False  # seconds of CPU
        self._next_look = 0.0
        self._share, self._pauses_until = 1.0, 0.0  # of the time; seconds of the monotonic clock
        self.peak = 0  # bytes, the largest VmHWM that any learner reported

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def progress(self) -> object:
        """Something that changes as long as the learner works; None where it has no order, or
        pauses as it was asked to."""
        pauses = self._share == 0 or time.monotonic() < self._pauses_until
        if self._process is None or self.order is None or pauses:
            return None
        return _cpu(self._process.pid)

    def look(self) -> None:
        """Kill a learner that works without a message while it has no memory left.

        Without room to unwind an exception CPython tries again for ever.
        """
        now = time.monotonic()
        if self._process is None or self.order is None or self._starved or now < self._next_look:
            return
        spent, self._next_look = _cpu(self._process.pid), now + _LOOK_EVERY
        if self._spoke or self._limit - data_memory(self._process.pid) >= _NEXT_TO_NOTHING:
            self._silent_from, self._spoke = spent, False
        elif spent - self._silent_from > _PATIENCE:
            self._starved = True
            self._process.kill()

    @property
    def ready(self) -> bool:
        """True where an order may be given."""
        return self.order is None and time.monotonic() >= self._not_before

    def give(self, order: Order) -> None:
        if self._process is None:
            self._start()
        self.order = order
        self._send({"share": self._share}, asdict(order))

    def allow(self, share: float) -> None:
        """Let the learner work for this share of the time, from 0 to 1, from its next sample on."""
        if share == self._share:
            return
        self._share = share
        if self.order is not None:
            self._send({"share": share})

    def done(self) -> None:
        """Note that the order is fulfilled."""
        self.order, self._backoff = None, _BACKOFF[0]

    def ended(self) -> Ending | None:
        """Reap a learner that ended: why it left its order unfulfilled, None where it had none."""
        assert self._process is not None
        fenced = _is_fenced(self._process.pid, self._limit)
        code = _reaped(self._process)
        unfinished, self._process = self.order, None
        self.order = None
        if unfinished is None:
            return None
        log.warning("learner ended with %s in growth %s; restart in %.1f s",
                    code, unfinished.growth, self._backoff)
        self._not_before = time.monotonic() + self._backoff
        self._backoff = min(2 * self._backoff, _BACKOFF[1])
        return self._why(code, fenced)

    def _why(self, code: int, fenced: bool) -> Ending:
        starved = self._starved or _oom_kills() > self._oom_kills
        if code in _MEMORY_CODES or (code == _KILLED and starved) or (code == _GIVEN_UP and fenced):
            return "memory"
        return "killed" if code < 0 and code not in _OWN_FAULTS else "failed"

    def stop(self) -> None:
        """End the learner, and drop the messages that were not read yet."""
        if self._process is not None:
            self._process.kill()
            _reaped(self._process)
        self._process, self.order, self.messages = None, None, queue.SimpleQueue()

    def _send(self, *messages: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.writelines(json.dumps(one) + "\n" for one in messages)
            self._process.stdin.flush()
        except BrokenPipeError:
            log.info("the learner has ended before it read this; it will be restarted")

    def _start(self) -> None:
        self._oom_kills, self._starved, self._silent_from = _oom_kills(), False, 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgecc.training.learner", str(self._limit), str(self._idle),
             str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | FRUGAL)
        threading.Thread(
            target=self._listen, args=(self._process, self.messages), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str], messages: Messages) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                try:
                    message = json.loads(line)
                except ValueError:
                    log.warning("unexpected line from the learner: %r", line[:200])
                    continue
                self.peak = max(self.peak, message.pop("peak", 0))
                self._spoke = True
                if message.get("type") == "pause":
                    self._pauses_until = time.monotonic() + message["seconds"]
                    continue
                messages.put(message)
                self._wake()
        messages.put(None)
        self._wake()


def _reaped(process: "subprocess.Popen[str]") -> int:
    """The exit code of a learner that has ended, its standard input closed."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # of an order that it never read
        process.stdin.close()
    return process.wait()


def _is_fenced(pid: int, limit: int) -> bool:
    """True if a process, alive or not yet reaped, may have at most `limit` bytes of data."""
    try:
        bound = resource.prlimit(pid, resource.RLIMIT_DATA)[0]
    except OSError:
        return False
    return bound != resource.RLIM_INFINITY and bound <= limit


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has had, for itself and in the kernel; 0 for one gone."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _oom_kills() -> int:
    """Processes that the kernel has killed for memory since it started."""
    try:
        counters = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in counters if line.startswith("oom_kill "))
