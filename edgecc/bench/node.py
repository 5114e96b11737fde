"""A node for a bench: its own broker, a daemon as a user would start it, and a client."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from edgecc import broker, config
from edgecc.client import Client
from edgecc.config import Config
from edgecc.errors import EdgeccError

_CONFIG = """\
node: bench
state_dir: {state}
memory_budget: {budget}
mqtt: {{host: 127.0.0.1, port: {port}}}
input: {{kind: image, shape: {shape}}}
grow: {{first: {first}, mirror: {mirror}}}
"""


@dataclass
class Node:
    """A running daemon. Verdicts are printed as they come; all events are kept."""

    work: Path
    config: Config
    process: "subprocess.Popen[bytes]"
    client: Client
    ready: float  # seconds from the start of the process to `online` over MQTT
    events: list[dict[str, Any]] = field(default_factory=list)

    def command(self, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        """Run an edgecc command as a user would."""
        return subprocess.run(
            [sys.executable, "-m", "edgecc", "--log-level", "warning", "--config",
             str(self.work / "edgecc.yaml"), *arguments],
            check=True, stdout=subprocess.PIPE, **options,
        )

    def health(self) -> dict[str, Any]:
        """The next health message, verdicts and swaps noted on the way."""
        while True:
            message = self.client.next_message(30.0)
            if message is None:
                raise EdgeccError("the daemon has gone quiet; see daemon.log in the bench's folder")
            if message.topic.endswith("/event"):
                self._note(json.loads(message.payload))
            elif message.topic.endswith("/health"):
                health: dict[str, Any] = json.loads(message.payload)
                return health

    def idle(self, labels: int) -> dict[str, Any]:
        """Wait until everything is learnt and no block is due; the health message that says so."""
        while True:
            health = self.health()
            waiting = health["backlog"] + health["growths_open"] + health["swapping"]
            if not waiting and health["log"]["labels"] >= labels:
                return health

    def _note(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["type"] == "verdict":
            click.echo(_verdict(event["data"]))


@contextmanager
def running(work: Path, **settings: Any) -> Iterator[Node]:
    """A broker and a daemon in fresh folders below `work`; `settings` fill the configuration."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    port = broker.free_port()
    text = _CONFIG.format(state=(work / "state").resolve(), port=port, **settings)
    (work / "edgecc.yaml").write_text(text)
    found = config.load(work / "edgecc.yaml", environ={})
    local = broker.start_local(work / "broker", port)
    click.echo(f"{local.name} on 127.0.0.1:{port}")
    log = (work / "daemon.log").open("wb")
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgecc", "--config", str(work / "edgecc.yaml"), "start"],
        stdout=log, stderr=log,
    )
    try:
        with Client(found) as client:
            client.subscribe([found.topics / part for part in ("status", "health", "event")])
            ready = _await_online(client, process, started)
            yield Node(work, found, process, client, ready)
        process.send_signal(signal.SIGTERM)
        if process.wait(timeout=60) != 0:
            raise EdgeccError(f"the daemon ended with {process.returncode}; see {work}/daemon.log")
    finally:
        process.kill()
        local.stop()
        log.close()


def _await_online(client: Client, process: "subprocess.Popen[bytes]", started: float) -> float:
    while process.poll() is None:
        message = client.next_message(1.0)
        if message is not None and message.payload == b"online":
            return time.monotonic() - started
    raise EdgeccError("the daemon did not start; see daemon.log in the bench's folder")


def _verdict(verdict: dict[str, Any]) -> str:
    fate = "accepted" if verdict["accepted"] else (
        "kept growing on" if verdict["helps"] else "dropped")
    return (f"  growth {verdict['growth']} at {verdict['cursor']} labels, block "
            f"{verdict['block']} ({'int8' if verdict['int8'] else 'float32'}): held-out "
            f"{verdict['held_out']:.4f}, without it {verdict['held_out_without']:.4f}, serving "
            f"{verdict['held_out_serving']:.4f}: {fate}")
