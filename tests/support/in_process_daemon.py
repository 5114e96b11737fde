"""A daemon that no broker reaches, driven turn by turn inside the test's process."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.datasets import Digits, npy
from support.growths import manifests
from support.readouts import saved_sums

from edgecc.config.loading import load
from edgecc.daemon.daemon import Daemon
from edgecc.mqtt.local_broker import free_port
from edgecc.protocol.messages import Inbound

ROOT = "edgecc/v1/n"
MakeDaemon = Callable[..., Daemon]
Ids = list[str]


@pytest.fixture
def make_daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeDaemon]:
    """A daemon on a state folder, from its start up to its first turn."""
    made: list[Daemon] = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own

    def make(state: Path, **settings: str) -> Daemon:
        environ = {"EDGECC_NODE": "n", "EDGECC_STATE_DIR": str(state), "EDGECC_MQTT__HOST":
                   "127.0.0.1", "EDGECC_MQTT__PORT": str(free_port()), "EDGECC_GROW__BLOCKS": "0",
                   "EDGECC_INPUT__SHAPE": "[1, 8, 8]", "EDGECC_MEMORY_BUDGET": "100MiB", **settings}
        state.mkdir(exist_ok=True)
        daemon = Daemon(load(None, environ=environ), lambda: load(None, environ=environ))
        daemon.start()
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        leave(daemon)


def leave(daemon: Daemon) -> None:
    """As if it were killed: nothing is saved."""
    daemon.link.stop()
    daemon.store.close()


def take(daemon: Daemon, topic: str, payload: bytes, **user: str) -> None:
    for item in daemon.parts.ingest.batch([Inbound(f"{ROOT}/{topic}", payload, user=user)]):
        daemon._answer(item)


def teach(daemon: Daemon, digits: Digits, numbers: Any, source: str = "t") -> Ids:
    """Send these digits with their labels; their ids."""
    for n in numbers:
        take(daemon, f"in/{source}/sample", npy(digits[0][n]), id=f"d-{n}",
             label=str(digits[1][n]))
    return [f"d-{n}" for n in numbers]


def ask(daemon: Daemon, verb: str = "unlearn", id: str = "", **args: Any) -> None:
    take(daemon, f"command/{verb}", json.dumps({"id": id, "args": args}).encode())


def settle(daemon: Daemon) -> None:
    """Turn until nothing is under way."""
    for _ in range(500):
        daemon.turn()
        serving = daemon.parts.serving
        if not (daemon.store.requests.busy or serving.changing or serving.catch_up()):
            return
    raise AssertionError("it does not come to an end")


def evict(daemon: Daemon, ids: Ids) -> None:
    """As retention does it, once a saved readout covers them."""
    daemon.parts.serving.snapshot()
    with daemon.store.transaction():
        for identity in ids:
            row = daemon.store.known(identity).row
            assert row is not None
            daemon.store.remove_sample(row)


def event(daemon: Daemon) -> dict[str, Any]:
    """The newest `unlearnt` that waits for the broker."""
    bodies = [json.loads(payload) for _, topic, payload, _ in daemon.store.outbox(0, 10_000)
              if topic.endswith("/event")]
    newest: dict[str, Any] = [one["data"] for one in bodies if one["type"] == "unlearnt"][-1]
    return newest


def knows(daemon: Daemon) -> tuple[list[str], bytes, bytes]:
    """Classes, A and B of its live readout, as they are after a restart."""
    daemon.parts.serving.snapshot()
    [path] = daemon.config.state.live_readouts()
    classes, a, b = saved_sums(path)
    return classes, a.tobytes(), b.tobytes()


def digests(daemon: Daemon) -> list[str]:
    return [one.digest for one in manifests(daemon.parts.node.generations.folder)]


@pytest.fixture
def pure(make_daemon: MakeDaemon, tmp_path: Path, digits: Digits) -> Daemon:
    """It has learnt the digits 0 to 59 and 70 to 99."""
    daemon = make_daemon(tmp_path / "pure")
    teach(daemon, digits, [*range(60), *range(70, 100)])
    settle(daemon)
    return daemon


@pytest.fixture
def taught(make_daemon: MakeDaemon, tmp_path: Path, digits: Digits) -> tuple[Daemon, Ids]:
    """It has learnt 60 to 69 too, and saved its readout twice; the ids of these."""
    daemon = make_daemon(tmp_path / "taught")
    teach(daemon, digits, range(60))
    ids = teach(daemon, digits, range(60, 70), source="other")
    ask(daemon, "checkpoint")
    settle(daemon)
    teach(daemon, digits, range(70, 100))
    settle(daemon)
    return daemon, ids
