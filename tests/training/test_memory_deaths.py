"""A learner that memory runs out for ends in many ways, or not at all: the daemon knows each."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.datasets import Digits
from support.learner_jobs import Log, labelled, supervisor
from support.patience import until

from edgecc.plan.costs import MIB
from edgecc.plan.plan import BlockSize, Plan
from edgecc.training import supervisor as supervision

BEGINS = """
import mmap, os, sys
taken = []
def take():
    for size in (2**20, 2**16, 2**12):
        try:
            while True:
                taken.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE))
        except OSError:
            pass
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "{module}":
            {does}
if "edgecc.training.learner" in sys.orig_argv:
    sys.meta_path.insert(0, Finder)
"""
CIRCLES = """
            while True: pass
"""
WORKS = """
            end = sum(os.times()[:2]) + 2.0
            while sum(os.times()[:2]) < end:
                sum(range(100_000))
            os._exit(70)
"""
SPEAKS = WORKS.replace("sum(range(100_000))", "os.write(1, b'{}\\n'); sum(range(100_000))")
LIMIT = 200 * MIB
PLAN = Plan(8, 3, (BlockSize(16, 3, 1, 2),), 32, 64, {})


@pytest.fixture
def log(tmp_path: Path, digits: Digits) -> Iterator[Log]:
    images, labels = digits
    made = labelled(tmp_path, (images[:20], labels[:20]), PLAN)
    yield made
    made.store.close()


def ending(
    log: Log, monkeypatch: pytest.MonkeyPatch, *, does: str, module: str = "torch"
) -> str | None:
    """How a learner ends that does this when `module` is imported."""
    hook = log.folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(BEGINS.format(does=does, module=module))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hook), *sys.path]))
    learner = supervisor(LIMIT)
    learner.give(log.order("starved", epochs=1.0))


    def over() -> bool:
        learner.look()
        while not learner.messages.empty():
            if learner.messages.get() is None:
                return True
        return False

    until(over, "it does not end")
    return learner.ended()


def test_one_that_turns_in_circles_with_no_memory_left_is_out_of_memory(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_PATIENCE", 0.2)
    assert ending(log, monkeypatch, does="take()" + CIRCLES) == "memory"


def test_one_with_memory_left_may_work_for_long_without_a_word(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_PATIENCE", 0.2)
    assert ending(log, monkeypatch, does=WORKS) == "failed"


def test_one_with_no_memory_left_that_gets_on_is_left_alone(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_PATIENCE", 0.2)
    assert ending(log, monkeypatch, does="take()" + SPEAKS) == "failed"


@pytest.mark.parametrize(("code", "why"), [
    (1, "memory"),  # OpenBLAS: "Memory allocation still failed after 10 retries, giving up."
    (12, "memory"), (127, "memory"), (70, "failed"), (78, "failed")])
def test_the_exit_code_says_why(
    log: Log, monkeypatch: pytest.MonkeyPatch, code: int, why: str
) -> None:
    assert ending(log, monkeypatch, does=f"os._exit({code})") == why


def test_a_panic_without_memory_is_out_of_memory_under_a_lower_limit_too(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**20, 2**20)); os._exit(1)"
    assert ending(log, monkeypatch, does=lower) == "memory"


def test_one_that_cannot_begin_is_not_out_of_memory(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = ending(log, monkeypatch, does="raise ImportError", module="edgecc.host.allocator")
    assert why == "failed"


@pytest.mark.parametrize(("before", "error", "why"), [
    ("take()", "RuntimeError('RandomnessType: Unable to create type object!')", "memory"),
    ("take()", "AttributeError('of a module that is half there')", "memory"),
    ("pass", "OSError(12, 'Cannot allocate memory')", "memory"),
    ("pass", "MemoryError", "memory"),
    ("from edgecc.errors import Corrupt",
     "Corrupt('SafetensorError: Cannot allocate memory (os error 12)')", "memory"),
    ("pass", "ImportError('libm.so: failed to map segment from shared object')", "memory"),
    ("pass", "OSError(28, 'No space left on device')", "failed"),
    ("pass", "AttributeError('a mistake')", "failed"),
])
def test_an_error_is_of_memory_by_what_it_says_or_where_next_to_nothing_is_left(
    log: Log, monkeypatch: pytest.MonkeyPatch, before: str, error: str, why: str
) -> None:
    assert ending(log, monkeypatch, does=f"{before}; raise {error}") == why
