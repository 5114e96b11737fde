"""What a sample costs the daemon: its processor time while it works off a full queue."""

import os
import signal
import time
from statistics import median
from typing import Any

from edgecc.bench.delivery.answers import Answers
from edgecc.bench.delivery.listener import Listener
from edgecc.bench.delivery.node import Node
from edgecc.bench.delivery.sender import Sender


def processor_time(
    node: Node, sender: Sender, listener: Listener, *, rounds: int, queued: int
) -> dict[str, Any]:
    """Microseconds of user and system time, over all threads, for each of `queued` samples.

    The daemon runs and is idle, so that nothing of its start counts. SIGSTOP holds it while the
    broker queues the samples; its clock is read before SIGCONT and after the last receipt and the
    last prediction. The figure is the median of the rounds.
    """
    spent = [_round(node, sender, listener, queued) for _ in range(rounds)]
    return {"daemon_us_per_sample": median(spent), "daemon_us_per_sample_rounds": spent}


def _round(node: Node, sender: Sender, listener: Listener, queued: int) -> float:
    listener.forget()
    pid = node.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        answers = Answers(sender.send(queued))
        before = _clock(pid)
    finally:
        os.kill(pid, signal.SIGCONT)
    listener.until(answers.complete, lambda: f"{answers}")
    return (_clock(pid) - before) / queued * 1e6


def _clock(pid: int) -> float:
    """Seconds of processor time of all threads: clock_getcpuclockid(3), which Python lacks."""
    return time.clock_gettime(~pid << 3 | 2)
