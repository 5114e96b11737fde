"""How long tests wait: by a clock that stops while they wait for a processor.

A deadline parts a promise that is kept late from one that is broken. On a busy machine seconds on
the wall cannot: everything is late there. Linux counts for each thread how long it was ready to
run and had to queue (/proc/PID/task/TID/schedstat). What the test's own process and all that it
started queued in an interval is time in which the machine was busy with others, and does not count.
Whoever idles does not queue: something that never comes is given up after as many seconds as on an
idle machine. Something that spins is given up too, at the latest after LONGEST seconds on the wall.
"""

import contextlib
import os
import queue
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Items = queue.Queue[T] | queue.SimpleQueue[T]

DEADLINE = 30.0  # seconds of `Clock`
LONGEST = 900.0  # seconds on the wall, however busy the machine is
APART = 0.2  # seconds between two looks at the queues, at least


class Clock:
    """Seconds in which neither this process nor one that it started queued for a processor."""

    def __init__(self) -> None:
        self._seconds, self._looked, self._queued = 0.0, time.monotonic(), queued()

    def __call__(self) -> float:
        passed = time.monotonic() - self._looked
        if passed >= APART:
            before, self._queued = self._queued, queued()
            waited = sum(ns - before.get(thread, 0) for thread, ns in self._queued.items()) / 1e9
            self._seconds += max(0.0, passed - waited)
            self._looked += passed
        return self._seconds


class Patience:
    """Lasts for so many seconds of a clock."""

    def __init__(self, seconds: float = DEADLINE) -> None:
        self._clock, self._seconds = Clock(), seconds
        self._latest = time.monotonic() + LONGEST

    @property
    def lasts(self) -> bool:
        return self._clock() < self._seconds and time.monotonic() < self._latest


def until(
    ask: Callable[[], T], otherwise: str | Callable[[], str], *, seconds: float = DEADLINE,
    every: float = 0.02,
) -> T:
    """The first answer that is true, asking each `every` seconds; fails with `otherwise`."""
    patience = Patience(seconds)
    while not (answer := ask()):
        assert patience.lasts, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(every)
    return answer


def exit_code(process: subprocess.Popen[Any], seconds: float = DEADLINE) -> int:
    """Of a process that ends by itself."""
    until(lambda: process.poll() is not None, f"{process.args!r} does not end", seconds=seconds)
    return process.wait()


def taken(items: "Items[T]", otherwise: str = "nothing more comes") -> T:
    """The next item of a queue."""
    patience = Patience()
    while True:
        try:
            return items.get(timeout=APART)
        except queue.Empty:
            assert patience.lasts, otherwise


def accept(server: socket.socket) -> socket.socket:
    """The next connection; `server` is left as it is where nobody connects."""
    until(lambda: select.select([server], [], [], APART)[0], "nobody connects", every=0.0)
    return server.accept()[0]


def run_command(
    command: Sequence[str | Path], *, seconds: float = 2 * DEADLINE, input: str | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run does it with text and captured output."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    stdin = None if input is None else subprocess.PIPE
    patience = Patience(seconds)
    with subprocess.Popen(command, stdin=stdin, **options) as process:
        while True:
            try:
                out, err = process.communicate(input, timeout=APART)
            except subprocess.TimeoutExpired:
                input = None  # it is on its way
                if not patience.lasts:
                    process.kill()
                    raise
            else:
                return subprocess.CompletedProcess(command, process.returncode, out, err)


def queued() -> dict[Path, int]:
    """Nanoseconds that each thread of this process and of its descendants has queued so far.

    Nothing where the kernel does not count: there the clock is the wall's.
    """
    waited = {}
    for task in _tasks(os.getpid()):
        with contextlib.suppress(OSError):  # it has just ended
            waited[task] = int((task / "schedstat").read_text().split()[1])
    return waited


def _tasks(pid: int) -> Iterator[Path]:
    """/proc/PID/task/TID of each thread of a process and of its descendants."""
    with contextlib.suppress(OSError):  # the process has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield task
            with contextlib.suppress(OSError):
                for child in (task / "children").read_text().split():
                    yield from _tasks(int(child))
