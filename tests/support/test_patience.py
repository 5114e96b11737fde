"""Tests wait for what is starved, and give up what idles, spins or has died."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from support import patience
from support.patience import exit_code, run_command, until

WORKS = "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass"
SECONDS = 0.5


def python(*arguments: str, nice: int = 0) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["nice", "-n", str(nice), sys.executable, "-c", *arguments])


@pytest.fixture
def one_processor() -> Iterator[None]:
    """For this process and all that it starts from now on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_a_starved_process_is_waited_for(one_processor: None) -> None:
    """It gets a quarter of a processor that another one uses: 0.4 s of work take more than one."""
    with python(WORKS, "600") as busy:
        started = time.monotonic()
        assert exit_code(python(WORKS, "0.4", nice=5), SECONDS) == 0
        took = time.monotonic() - started
        busy.kill()
    assert took > 2 * SECONDS, "it was not starved: nothing is shown"


def test_a_process_that_idles_is_given_up() -> None:
    with python("import time; time.sleep(600)") as idle:
        with pytest.raises(AssertionError, match="does not end"):
            exit_code(idle, SECONDS)
        idle.kill()


def test_a_process_that_spins_is_given_up_by_the_wall_at_the_latest(
    monkeypatch: pytest.MonkeyPatch, one_processor: None
) -> None:
    monkeypatch.setattr(patience, "LONGEST", 1.0)
    with python(WORKS, "600") as busy, python(WORKS, "600", nice=10) as spinning:
        with pytest.raises(AssertionError, match="does not end"):
            exit_code(spinning)
        busy.kill()
        spinning.kill()


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_command(["sleep", "600"], seconds=SECONDS)


def test_a_command_gives_what_it_prints_and_takes_what_it_reads() -> None:
    done = run_command(["sh", "-c", "cat; echo more >&2; exit 3"], input="text")
    assert (done.returncode, done.stdout, done.stderr) == (3, "text", "more\n")


def test_until_gives_the_first_answer_that_is_true() -> None:
    answers = iter([0, None, 7, 8])
    assert until(lambda: next(answers), "none") == 7
    with pytest.raises(AssertionError, match="last: none"):
        until(lambda: False, lambda: "last: none", seconds=0.0)
