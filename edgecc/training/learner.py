"""The learner, a child process of the daemon: only it imports torch, if the plan's backend is.

It follows orders from standard input, grows the trunk that each asks for, writes progress and
verdicts as JSON lines to standard output, and exits when idle. It reads the log and writes only
into the growth's own folder; signing and swapping are the daemon's.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecc.errors import EdgeccError
from edgecc.host import allocator
from edgecc.host.memory import data_memory, peak_memory
from edgecc.plan.plan import Plan
from edgecc.training.orders import KNOWN, Inbox, Order

OUT_OF_MEMORY, FAILED = 12, 70  # exit codes; within its limit, 1 is OpenBLAS giving up
_NO_MEMORY = ("allocate", "bad_alloc", "could not create a primitive", "failed to map segment")
_LITTLE = 16 * 2**20  # bytes: two stacks of threads
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Follow orders until standard input ends or nothing comes for `idle` seconds."""
    limit, idle, parent = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    _fence(limit, parent)
    inbox = Inbox(sys.stdin.fileno(), lambda seconds: _say({"type": "pause", "seconds": seconds}))
    try:
        for order in inbox.orders(idle):
            with ExitStack() as start:  # ends with the first step, or where there is none to take
                start.enter_context(allocator.releasing_code())
                _grow(order, inbox.pause, start.close)
    except Exception as error:
        if isinstance(error, EdgeccError):
            _say({"type": "failed", "reason": str(error)})
        else:
            traceback.print_exc()
        return OUT_OF_MEMORY if _of_memory(error, limit) else FAILED
    return 0


def _grow(order: Order, pause: Callable[[], None], started: Callable[[], None]) -> None:
    from nacl.signing import VerifyKey

    from edgecc.checkpoint import generation
    from edgecc.learn import backends
    from edgecc.learn.readout import Readout
    from edgecc.protocol.sample import Input
    from edgecc.serving import catch_up
    from edgecc.store.growth_log import Growth
    from edgecc.training.dataset import PausingReader, Rows
    from edgecc.training.growth import Grower

    plan = Plan.restored(order.plan)
    backends.named(plan.backend).prepare(order.threads)
    spec = Input(order.input["kind"], tuple(order.input["shape"]))
    store = PausingReader(Path(order.log), pause)
    trusted = [VerifyKey(bytes.fromhex(key)) for key in order.keys]
    parent = generation.load(Path(order.parent), trusted, spec)
    Path(order.folder).mkdir(parents=True, exist_ok=True)
    path, sums = Path(order.folder) / KNOWN, None
    if path.exists():
        sums = catch_up.moved(path, parent, store, spec, to=order.cursor)
    parent = replace(parent, readout=sums or Readout(parent.readout.dim))  # its own is not needed
    grower = Grower(
        Growth(order.growth, order.cursor, order.recipe), parent,
        Rows.at(store, spec, order.cursor), plan=plan, folder=Path(order.folder),
        report=_reports(started), sums=sums)
    for verdict in grower.run():
        _say({"type": "verdict", **verdict})
    _say({"type": "done", "growth": order.growth})
    store.close()


def _reports(started: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """Reports a growth's progress, and releases the memory that each phase leaves behind.

    started: called once training has begun.
    """
    allocator.release_memory()
    phase = ""

    def report(progress: dict[str, Any]) -> None:
        nonlocal phase
        if progress["phase"] == "training":
            started()
        if progress["phase"] != phase:
            allocator.release_memory()
            phase = progress["phase"]
        _say({"type": "train", **progress})

    return report


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message | {"peak": peak_memory()}), flush=True)


def _of_memory(error: Exception, limit: int) -> bool:
    """True where too little memory caused the error. Libraries say so in many ways, or fail
    elsewhere because they did not check; then hardly any memory is left."""
    return (isinstance(error, (MemoryError, SystemError))
            or any(words in str(error) for words in _NO_MEMORY)
            or limit - data_memory() < _LITTLE)


def _fence(limit: int, parent: int) -> None:
    """Die with the daemon, give it priority, and never take more than `limit` bytes of data."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the daemon is gone")
    os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    np.ones((64, 64)) @ np.ones((64, 64))  # OpenBLAS takes its buffers; later it would exit with 1
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
