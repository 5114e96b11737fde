"""A node under test: a real daemon with a configuration of its own, and a peer that hears it."""

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from numpy.typing import NDArray
from support.datasets import npy
from support.patience import DEADLINE, Clock, exit_code, run_command, until
from support.peer import Message, Peer


@dataclass
class Node:
    """One edgecc with a configuration of its own, and a peer that hears all it says."""

    folder: Path
    port: int
    name: str
    settings: dict[str, Any]
    peer: Peer
    process: subprocess.Popen[bytes] | None = None
    environ: dict[str, str] = field(default_factory=dict)  # beside this process's own
    python: str = sys.executable
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.config = self.folder / "edgecc.yaml"
        self.config.write_text(yaml.safe_dump(self.settings))
        self.peer.speaker = self

    def topic(self, rest: str) -> str:
        return f"edgecc/v1/{self.name}/{rest}"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def output(self) -> str:
        log = self.folder / "daemon.log"
        return log.read_text() if log.exists() else ""

    # --- its life ---

    def launch(self) -> subprocess.Popen[bytes]:
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, "-m", "edgecc", "--config", str(self.config), "start"],
                stdout=log, stderr=log, env=os.environ | self.environ,
            )
        return self.process

    def start(self) -> float:
        """Seconds of `Clock` until it said online."""
        heard, clock = len(self.peer.messages), Clock()
        self.launch()
        self.peer.wait(lambda m: m.topic == self.topic("status") and m.payload == b"online"
                       and not m.retain, after=heard)
        return clock()

    def kill(self, after: float = 0.0) -> None:
        """SIGKILL, once it has run for `after` more seconds."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(after)
            raise AssertionError(f"it ended by itself with {code}:\n{self.output}")
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        self.process.terminate()
        return exit_code(self.process)

    @property
    def failed(self) -> bool:
        """Whether it ended by itself, with an error."""
        return self.process is not None and (self.process.poll() or 0) > 0

    @property
    def learner(self) -> int | None:
        """Pid of its child process, where it has one."""
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task")
        children = " ".join((task / "children").read_text() for task in tasks.iterdir())
        return int(children.split()[0]) if children.split() else None

    def bury(self) -> None:
        if self.process is not None and self.process.poll() is None:
            learner = self.learner
            self.process.kill()
            self.process.wait()
            if learner is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(learner, signal.SIGKILL)
        self.peer.close()

    def run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """One edgecc command."""
        return run_command(
            [sys.executable, "-m", "edgecc", "--config", str(self.config), *arguments],
            cwd=cwd or self.folder)

    # --- what goes in ---

    def send(
        self, payload: bytes, *, id: str | None = None, label: str | None = None,
        source: str = "t", wait: bool = True,
    ) -> str:
        """Publish a sample; its id."""
        identity = id or f"{self.name}-{next(self._numbers)}"
        user = [("id", identity)] + ([("label", label)] if label is not None else [])
        self.peer.publish(self.topic(f"in/{source}/sample"), payload, wait=wait, UserProperty=user)
        return identity

    def stream(self, images: NDArray[Any], labels: Iterable[Any], prefix: str = "d") -> list[str]:
        """Publish labelled pictures in order, without waiting; their ids."""
        pairs = enumerate(zip(images, labels, strict=True))
        return [self.send(npy(image), id=f"{prefix}-{n}", label=str(label), wait=False)
                for n, (image, label) in pairs]

    def label(self, identity: str, label: str | None, source: str = "t") -> dict[str, Any]:
        """Publish a label; the node's receipt for it."""
        heard = len(self.peer.messages)
        self.peer.publish(
            self.topic(f"in/{source}/label"), json.dumps({"id": identity, "label": label})
        )
        return self.receipt(identity, after=heard, source=source, of_label=True)

    # --- what comes out ---

    def receipt(
        self, identity: str, *, after: int = 0, source: str = "t", timeout: float = DEADLINE,
        of_label: bool = False,
    ) -> dict[str, Any]:
        """The first receipt of a sample, or of its label, from message number `after` on."""
        def entries(message: Message) -> list[dict[str, Any]]:
            return [entry for entry in message.json
                    if entry["id"] == identity and ("label" in entry) == of_label]

        topic = self.topic(f"out/{source}/receipt")
        message = self.peer.wait(lambda m: m.topic == topic and bool(entries(m)), after=after,
                               timeout=timeout)
        return entries(message)[0]

    def await_receipts(self, ids: Iterable[str], *, after: int = 0) -> None:
        """Until every one of `ids` is receipted as stored or duplicate."""
        missing = set(ids)

        def complete(message: Message) -> bool:
            if message.topic.endswith("/receipt"):
                missing.difference_update(
                    entry["id"] for entry in message.json if entry["status"] != "rejected")
            return not missing

        self.peer.wait(complete, after=after, timeout=3 * DEADLINE)

    def receipts(self, after: int = 0) -> dict[str, Counter[str]]:
        """Every id with the statuses it was receipted with."""
        statuses: dict[str, Counter[str]] = {}
        for message in self.peer.messages[after:]:
            if message.topic.endswith("/receipt"):
                for entry in message.json:
                    statuses.setdefault(entry["id"], Counter())[entry["status"]] += 1
        return statuses

    def prediction(self, identity: str, source: str = "t", after: int = 0) -> dict[str, Any]:
        topic = self.topic(f"out/{source}/prediction")
        message = self.peer.wait(lambda m: m.topic == topic and m.json["sample_id"] == identity,
                               after=after)
        body: dict[str, Any] = message.json
        return body

    def ask(self, picture: NDArray[Any], *, generation: int = 0) -> dict[str, Any]:
        """What it thinks of a picture, knowing every label that is in its log by now.

        Not before `generation` serves.
        """
        known = self.rows("SELECT COALESCE(MAX(seq), 0) FROM label")[0][0]

        def answer() -> dict[str, Any] | None:
            body = self.prediction(self.send(npy(picture)))
            current = body["readout"] >= known and body["generation"] >= generation
            return body if current else None

        return until(answer, f"neither readout {known} nor generation {generation} answers")

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """A query of its log, on a connection that cannot write."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self.state}/log.sqlite?mode=ro", uri=True)
        ) as log:
            return log.execute(query, values).fetchall()


MakeNode = Callable[..., Node]  # what the fixture make_node is
