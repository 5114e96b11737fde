"""The learner works for the share of the time that it is given, and pauses where it holds nothing.
"""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.datasets import Digits
from support.learner_jobs import labelled, supervisor
from support.patience import exit_code, until
from support.processor import await_rest, ran

from edgecc.plan.plan import BlockSize, Plan

BEGINS = """
import sys, time
from pathlib import Path
from edgecc.training.dataset import PausingReader
from edgecc.training.orders import Inbox
inbox = Inbox(sys.stdin.fileno(), lambda seconds: print(seconds, flush=True))
"""
SPINS = BEGINS + """
while True:
    inbox.pause()
    sum(range(10_000))
"""
READS = BEGINS + """
log = PausingReader(Path(sys.argv[1]), inbox.pause)
while True:
    rows = log.labelled(3)
    next(rows)
    time.sleep(0.03)
    rows.close()
    log.payload(1)
"""
LONG_STEP = BEGINS + """
while True:
    inbox.pause()
    time.sleep(0.6)
"""


@contextmanager
def running(script: str, *args: str | Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen([sys.executable, "-c", script, *args], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def give_share(process: "subprocess.Popen[str]", share: float) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"share": share}) + "\n")
    process.stdin.flush()


def used(pid: int, seconds: float) -> float:
    """The share of one processor that it has in the next `seconds`."""
    before, begun = ran(pid), time.monotonic()
    time.sleep(seconds)
    return (ran(pid) - before) / 1e9 / (time.monotonic() - begun)


def test_it_gets_its_share_of_the_time_and_no_more() -> None:
    with running(SPINS) as process:
        until(lambda: ran(process.pid) > 1e9, "it does not spin")
        give_share(process, 0.2)
        time.sleep(1.0)
        assert 0.02 < used(process.pid, 2.5) < 0.3
        give_share(process, 0.0)
        at_rest = await_rest(process.pid)
        assert used(process.pid, 0.6) == 0
        give_share(process, 1.0)
        until(lambda: ran(process.pid) > at_rest + 1e9, "it does not go on")


def test_a_pause_that_is_long_after_a_long_step_is_announced() -> None:
    with running(LONG_STEP) as process:
        assert process.stdout is not None
        give_share(process, 0.2)
        seconds = float(process.stdout.readline())
    assert 2.4 <= seconds < 12, "four times the step that came before"


def test_it_ends_when_the_daemon_hangs_up_even_while_it_pauses() -> None:
    with running(SPINS) as process:
        give_share(process, 0.0)
        until(lambda: ran(process.pid), "it does not begin")
        await_rest(process.pid)
        assert process.stdin is not None
        process.stdin.close()
        assert exit_code(process) == 0


def test_it_never_pauses_within_a_transaction_of_the_log(tmp_path: Path, digits: Digits) -> None:
    """It would keep the write-ahead file from being truncated."""
    images, labels = digits
    made = labelled(tmp_path, (images[:3], labels[:3]), Plan(8, 3, (), 32, 64, {}))
    log = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
    with running(READS, tmp_path / "log.sqlite") as process:
        for _ in range(12):
            give_share(process, 0.0)
            at_rest = await_rest(process.pid, 0.15)
            log.execute("INSERT INTO meta VALUES ('x', 1) ON CONFLICT DO UPDATE SET value = 2")
            assert log.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, "busy"
            assert ran(process.pid) == at_rest
            give_share(process, 1.0)
            until(lambda before=at_rest: ran(process.pid) > before, "it does not go on")
    log.close()
    made.store.close()


def test_a_learner_that_pauses_is_not_taken_for_one_that_hangs(
    tmp_path: Path, digits: Digits
) -> None:
    """The watchdog waits for it, whether it may not work now or works for little of the time."""
    images, labels = digits
    plan = Plan(8, 3, (BlockSize(16, 3, 1, 2),), 32, 64, {})
    made = labelled(tmp_path, (images[:40], labels[:40]), plan)
    learner, heard = supervisor(), []

    def trains() -> Any:
        while not learner.messages.empty():
            heard.append(learner.messages.get())
        return any(one and one.get("phase") == "training" for one in heard)

    try:
        learner.give(made.order("growth", epochs=1000.0))
        until(trains, "it does not train")
        assert learner.progress() is not None
        learner.allow(0.0)
        assert learner.pid is not None
        await_rest(learner.pid)
        assert learner.progress() is None
        learner.look()
        learner.allow(1.0)
        before = learner.progress()
        until(lambda: learner.progress() != before, "it does not go on")
    finally:
        learner.stop()
        made.store.close()
