"""What the tests against a real broker share: mosquitto, nodes, digits; and --no-skips.

Whatever a test starts is dead when the test is over.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from support.brokers import Broker
from support.datasets import Digits, Seen, fashion
from support.fake_systemd import Systemd
from support.live_node import MakeNode, Node
from support.peer import Peer
from support.schemas import check_all

from edgecc.mqtt.local_broker import Mosquitto, find_mosquitto, free_port

_names = itertools.count()

# On a busy machine examples take long, and their time says nothing.
hypothesis.settings.register_profile(
    "edgecc", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("edgecc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails the run")
    parser.addoption("--full", action="store_true",
                     help="tests/faults in full size, with a table and faults/figures.json")


def _skipped(config: pytest.Config) -> list[Any]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    refused = config.getoption("--no-skips") and reporter is not None
    return list(reporter.stats.get("skipped", [])) if refused else []


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if skipped := _skipped(config):
        names = ", ".join(sorted({report.nodeid for report in skipped}))
        terminalreporter.write_line(f"--no-skips: {len(skipped)} skipped: {names}", red=True)


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a mosquitto on loopback."""
    binary = find_mosquitto()
    if binary is None:
        pytest.skip("mosquitto is missing: apt install mosquitto")
    port = free_port()
    broker = Mosquitto(binary, tmp_path_factory.mktemp("mosquitto"), port)
    yield port
    broker.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A mosquitto of the test's own, not yet started."""
    made = Broker(tmp_path / "broker")
    yield made
    made.stop()


@pytest.fixture
def make_node(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[MakeNode]:
    """A node not yet started: make_node(grow={...}, mqtt={...}, input={...}).

    Its budget has room for numpy, which grows narrow blocks soon; torch is there from 1GiB on.
    What the nodes have said is checked against the shipped schemas when the test is over.
    """
    made: list[Node] = []

    def make(port: int | None = None, **changes: Any) -> Node:
        port = request.getfixturevalue("mosquitto") if port is None else port
        name = f"n{os.getpid()}-{next(_names)}"
        folder = tmp_path / name
        folder.mkdir()
        settings: dict[str, Any] = {
            "node": name, "state_dir": str(folder / "state"), "memory_budget": "208MiB",
            "mqtt": {"host": "127.0.0.1", "port": port},
            "input": {"kind": "image", "shape": [1, 8, 8]},
            "grow": {"first": 100_000, "epochs": 1, "idle_exit": 2},
            "governor": {"sysfs": str(folder / "sys")},  # a board that tells nothing
        }
        for key, value in changes.items():
            if isinstance(value, dict):
                settings[key] = settings.get(key, {}) | value
            else:
                settings[key] = value
        root = f"edgecc/v1/{name}"
        peer = Peer(port, *(f"{root}/{rest}" for rest in (
            "out/#", "status", "event", "response/#", "train", "info", "health", "checkpoint/#")))
        made.append(Node(folder, port, name, settings, peer))
        return made[-1]

    yield make
    for node in made:
        node.bury()
    for node in made:
        check_all(f"edgecc/v1/{node.name}", [(m.topic, m.payload) for m in node.peer.messages])


@pytest.fixture
def node(make_node: MakeNode) -> Node:
    """A node that is online; the next growth is far away."""
    made = make_node()
    made.start()
    return made


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(made.path))
    yield made
    made.close()


@pytest.fixture(scope="session")
def digits() -> Digits:
    """1797 handwritten digits (n, 1, 8, 8), 0 to 255, and what they are."""
    from sklearn.datasets import load_digits

    pictures = load_digits()
    images = np.rint(pictures.images * 255 / 16).astype(np.uint8)
    return images[:, None], pictures.target.astype(np.int64)


@pytest.fixture(scope="session")
def stem_features() -> Seen:
    """The stem's features of 5000 pictures of Fashion-MNIST (n, dim), and what they are."""
    from edgecc.learn.readout import to_integers
    from edgecc.plan.planner import plan
    from edgecc.plan.stem_trunk import stem_trunk
    from edgecc.protocol.sample import Input
    from edgecc.trunk.interpreter import Interpreter

    images, labels = fashion()
    spec = Input("image", (1, 28, 28))
    trunk = stem_trunk(plan(512 * 2**20, spec, max_payload=2**20, blocks=2), spec, 0)
    run = Interpreter(trunk.compile()).run
    features = [to_integers(run(trunk.scale(image[None]))) for image in images[:5000]]
    return np.array(features), [str(label) for label in labels[:5000]]
