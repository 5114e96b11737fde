"""What the fault tests share; with --full they run in their full size and leave figures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.brokers import OPEN, Broker
from support.datasets import Digits
from support.live_node import MakeNode

from faults.clock import LIBRARY, Clock
from faults.tally import Tally
from faults.trouble import MakeTrouble, Trouble

_tally = Tally()


@pytest.fixture
def tally() -> Tally:
    return _tally


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full"))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A mosquitto of this test alone, that keeps sessions over a restart."""
    made = Broker(tmp_path / "broker", f"{OPEN}autosave_interval 20").start()
    yield made
    made.stop()


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """Of the processes that are started with its `environ`."""
    if LIBRARY is None:
        pytest.skip("libfaketime is missing: apt install libfaketime")
    return Clock(tmp_path)


@pytest.fixture
def make_trouble(make_node: MakeNode, tally: Tally, digits: Digits) -> Iterator[MakeTrouble]:
    """make_trouble(port, ...): a node, not yet started, that is in for something."""
    made: list[Trouble] = []

    def make(port: int, **changes: Any) -> Trouble:
        made.append(Trouble(make_node(port, **changes), tally, digits))
        return made[-1]

    yield make
    for trouble in made:
        trouble.bury()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--full"):
        terminalreporter.section("faults")
        terminalreporter.write("\n".join(_tally.table()) + "\n")
        _tally.write()
