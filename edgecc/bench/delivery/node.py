"""A node for a bench: its own broker, a daemon as a user would start it, and a client."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from edgecc.config.loading import load
from edgecc.config.schema import Config
from edgecc.errors import EdgeccError
from edgecc.mqtt import local_broker as broker
from edgecc.mqtt.client import Client
from edgecc.mqtt.local_broker import Embedded, Mosquitto

_CONFIG = """\
node: bench
state_dir: {state}
memory_budget: {budget}
max_classes: {classes}
mqtt: {{host: 127.0.0.1, port: {port}}}
input: {{kind: image, shape: {shape}}}
grow: {{first: {first}, mirror: {mirror}, backend: {backend}}}
governor: {{max_celsius: 150, heed_throttling: false}}
"""


@dataclass
class Node:
    """A daemon and its broker. Growths are printed as they end; all events are kept."""

    work: Path
    config: Config
    broker: Mosquitto | Embedded
    client: Client
    within: tuple[str, ...] = ()  # how the daemon's command line begins
    environ: dict[str, str] = field(default_factory=dict)  # beside this process's own
    ready: float = 0.0  # seconds from the first start of the process to `online` over MQTT
    events: list[dict[str, Any]] = field(default_factory=list)
    _printed: int = 0  # events up to here

    def launch(self, **environ: str) -> None:
        """Start the daemon, and do not wait for it."""
        with (self.work / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.within, sys.executable, "-m", "edgecc", "--log-format", "json", "--config",
                 str(self.work / "edgecc.yaml"), "start"],
                stdout=log, stderr=log, env=foreign() | self.environ | environ,
            )

    def start(self, **environ: str) -> float:
        """Start the daemon; seconds until it said `online` over MQTT."""
        while self.client.next_message(0.05) is not None:
            pass  # of an earlier life
        started = time.monotonic()
        self.launch(**environ)
        while self.process.poll() is None:
            message = self.client.next_message(1.0)
            if message is not None and message.payload == b"online" and not message.retain:
                return time.monotonic() - started
        raise EdgeccError("the daemon did not start; see daemon.log in the bench's folder")

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    @property
    def connected_at(self) -> float:
        """When the daemon last connected, seconds since 1970, by its log."""
        lines = (self.work / "daemon.log").read_text().splitlines()
        connects = (json.loads(line) for line in lines if "connected to the broker, " in line)
        return max(float(said["ts"]) for said in connects)

    def stop(self) -> None:
        """End the daemon as systemd would."""
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(timeout=60) != 0:
            raise EdgeccError(
                f"the daemon ended with {self.process.returncode}; see {self.work}/daemon.log")

    def command(self, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        """Run an edgecc command as a user would."""
        return subprocess.run(
            [sys.executable, "-m", "edgecc", "--log-level", "warning", "--config",
             str(self.work / "edgecc.yaml"), *arguments],
            check=True, stdout=subprocess.PIPE, env=foreign(), **options,
        )

    def health(self) -> dict[str, Any]:
        """The next health message; events on the way are kept."""
        while True:
            message = self.client.next_message(30.0)
            if message is None:
                raise EdgeccError("the daemon has gone quiet; see daemon.log in the bench's folder")
            if message.topic.endswith("/event"):
                self.events.append(json.loads(message.payload))
            elif message.topic.endswith("/health"):
                health: dict[str, Any] = json.loads(message.payload)
                if not health["growths_open"]:
                    self._print_growths()
                return health

    def idle(self, labels: int) -> dict[str, Any]:
        """Wait until all labels are learnt and no growth is open; the health message saying so."""
        while True:
            health = self.health()
            waiting = health["lag"] + health["growths_open"] + health["swapping"]
            if not waiting and health["log"]["labels"] >= labels:
                return health

    def _print_growths(self) -> None:
        """One line for each growth that has ended since the last call."""
        verdicts = [event["data"] for event in self.events[self._printed:]
                    if event["type"] == "verdict"]
        for _, growth in groupby(verdicts, key=itemgetter("growth")):
            click.echo(outcome([*growth]))
        self._printed = len(self.events)


@contextmanager
def running(
    work: Path, *, saving: str = "autosave_interval 60", within: tuple[str, ...] = (),
    environ: Mapping[str, str] = MappingProxyType({}), classes: int = 0, backend: str = "auto",
    past: Callable[[Config], None] = lambda _: None, **settings: Any
) -> Iterator[Node]:
    """As `serving`, with a configuration that `settings` fill."""

    def text(state: Path, port: int) -> str:
        return _CONFIG.format(state=state, port=port, classes=classes, backend=backend, **settings)

    with serving(
        work, text, saving=saving, within=within, environ=environ, past=past
    ) as node:
        click.echo(f"{node.broker.name} on 127.0.0.1:{node.config.mqtt.port}")
        yield node


@contextmanager
def serving(
    work: Path, configuration: Callable[[Path, int], str], *,
    saving: str = "autosave_interval 60", within: tuple[str, ...] = (),
    environ: Mapping[str, str] = MappingProxyType({}),
    past: Callable[[Config], None] = lambda _: None,
) -> Iterator[Node]:
    """A broker and a daemon in fresh folders below `work`.

    configuration: the edgecc.yaml for a state folder and a broker's port; saving: when mosquitto
    writes what it holds to disk, in its own words; within: how the daemon's command line begins;
    past: gives the node one, before its first start.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    port = broker.free_port()
    (work / "edgecc.yaml").write_text(configuration((work / "state").resolve(), port))
    loaded = load(work / "edgecc.yaml", environ={})
    past(loaded)
    local = broker.start_local(work / "broker", port, saving)
    node = None
    try:
        with Client(loaded) as client:
            client.subscribe([loaded.topics / part for part in ("status", "health", "event")])
            node = Node(work, loaded, local, client, within, dict(environ))
            node.ready = node.start()
            yield node
        node.stop()
    finally:
        if node is not None:
            node.process.kill()
        local.stop()


def foreign() -> dict[str, str]:
    """The environment, without a configuration of some other node."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EDGECC_")}


def outcome(verdicts: Sequence[dict[str, Any]]) -> str:
    """A growth in one line, by the verdicts on its blocks."""
    first, helpful = verdicts[0], [one for one in verdicts if one["helps"]]
    accuracy = helpful[-1]["held_out"] if helpful else first["held_out_without"]
    fate = "serves now" if any(one["accepted"] for one in verdicts) else "kept what serves"
    return (f"growth {first['growth']}: {len(helpful)} block{'s' * (len(helpful) != 1)} "
            f"{accuracy:.4f}, serving {first['held_out_serving']:.4f}: {fate}")
