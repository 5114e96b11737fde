"""What the fault tests share; with --full they run in their full size and leave figures."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeNode
from live import Digits

from faults.broker import Broker
from faults.tally import Tally
from faults.trouble import Trouble

MakeTrouble = Callable[..., Trouble]
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
    made = Broker(tmp_path / "broker")
    yield made
    made.stop()


@pytest.fixture
def make_trouble(make_node: MakeNode, tally: Tally, digits: Digits) -> MakeTrouble:
    """make_trouble(port, ...): a node, not yet started, that is in for something."""
    def make(port: int, **changes: Any) -> Trouble:
        return Trouble(make_node(port, **changes), tally, digits)

    return make


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--full"):
        terminalreporter.section("faults")
        terminalreporter.write("\n".join(_tally.table()) + "\n")
        _tally.write()
