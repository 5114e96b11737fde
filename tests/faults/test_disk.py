"""The disk: full, read-only, failing to write or to sync; nothing receipted is lost by it."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.brokers import Broker
from support.patience import exit_code

from faults.trouble import MakeTrouble, Trouble

SIZE = 8 * 2**20  # bytes of the small disk


@pytest.fixture
def small_disk(broker: Broker, make_trouble: MakeTrouble) -> Iterator[Trouble]:
    """A node whose state has a tmpfs of its own."""
    trouble = make_trouble(broker.port)
    state = trouble.node.state
    state.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "faults", str(state)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here: needs root")
    yield trouble
    if trouble.node.process is not None:
        trouble.node.process.kill()
        trouble.node.process.wait()
    subprocess.run(["umount", "-l", str(state)], check=True)


def test_a_full_disk_loses_nothing_and_more_room_is_all_it_takes(
    small_disk: Trouble, full: bool
) -> None:
    trouble, ballast = small_disk, small_disk.node.state / "ballast"
    trouble.node.start()
    for _ in range(5 if full else 1):
        trouble.burst(50)
        trouble.checker.await_stored()
        fill(ballast)
        trouble.tally.faults["disk full"] += 1
        trouble.burst(200)
        endure(trouble)
        ballast.unlink()
        resume(trouble)
        trouble.checker.await_stored()
    trouble.settle()


def test_a_log_that_may_not_grow_loses_nothing(
    broker: Broker, make_trouble: MakeTrouble, full: bool
) -> None:
    """SQLite itself says that the disk is full: PRAGMA max_page_count."""
    trouble = make_trouble(broker.port)
    limit = trouble.node.folder / "pages"
    trouble.node.environ["MAX_PAGES"] = str(limit)
    trouble.node.start()
    for _ in range(5 if full else 1):
        trouble.burst(50)
        trouble.checker.await_stored()
        limit.write_text("1")  # no more than it has
        trouble.tally.faults["log may not grow"] += 1
        trouble.burst(400)
        endure(trouble)
        limit.write_text(str(2**30))
        resume(trouble)
        trouble.checker.await_stored()
    trouble.settle()


def test_a_read_only_disk_is_a_clear_error_and_loses_nothing(small_disk: Trouble) -> None:
    trouble = small_disk
    trouble.node.start()
    trouble.burst(50)
    trouble.checker.await_stored()
    assert trouble.node.stop() == 0
    remount(trouble, "ro")
    trouble.tally.faults["disk read-only at start"] += 1
    trouble.burst(50)
    assert exit_code(trouble.node.launch()) == 1
    assert "Traceback" not in trouble.node.output
    remount(trouble, "rw")
    trouble.node.start()
    trouble.settle()


@pytest.mark.parametrize(
    ("name", "fault"), [("fsync fails", "fsync 5"), ("writes fail: read-only", "write 30"),
                        ("writes fail: input/output error", "write 5")])
def test_a_failing_disk_loses_nothing(
    broker: Broker, make_trouble: MakeTrouble, faulty_disk: Path, full: bool, name: str, fault: str
) -> None:
    trouble = make_trouble(broker.port)
    told = trouble.node.folder / "disk"
    trouble.node.environ |= {"LD_PRELOAD": str(faulty_disk), "FAULTY_DISK": str(told)}
    trouble.node.start()
    for _ in range(5 if full else 1):
        trouble.burst(50)
        told.write_text(fault)
        trouble.tally.faults[f"disk: {name}"] += 1
        trouble.burst(50)
        endure(trouble)
        told.unlink()
        resume(trouble)
        trouble.checker.await_stored()
    trouble.settle()


@pytest.fixture
def faulty_disk(tmp_path: Path) -> Path:
    """disk.c, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: apt install gcc libc6-dev")
    made = tmp_path / "disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(made),
                    str(Path(__file__).parent / "disk.c"), "-ldl"], check=True)
    return made


def fill(path: Path) -> None:
    """Until nothing more goes in."""
    with path.open("wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def endure(trouble: Trouble) -> None:
    """A while with the fault: whether it dies or waits, it receipts nothing that is not stored."""
    trouble.wait(3.0)
    trouble.checker.look()


def resume(trouble: Trouble) -> None:
    """The fault is over; a daemon that has ended is started again, as systemd does."""
    if trouble.wait(0.0) is not None:
        trouble.node.launch()


def remount(trouble: Trouble, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(trouble.node.state)], check=True)
