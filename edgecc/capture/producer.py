"""A producer that keeps its copy until the node's receipt: a broker's PUBACK is not storage.

Samples have deterministic ids, and a bounded number waits for receipts. Those that wait too long
are sent again; after a crash the stream resumes after the last item that has a receipt.
"""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecc.capture.item import Item
from edgecc.errors import ConfigError, NotRunning
from edgecc.mqtt.client import Client
from edgecc.protocol.messages import Inbound
from edgecc.protocol.topics import Topics

log = logging.getLogger(__name__)

AHEAD = 512  # samples sent but not yet receipted
_RESEND = 10.0  # seconds without any receipt before sending again
_TRIES = 6


@dataclass
class Stream:
    """Sends items as `source` and counts what the node did with them."""

    client: Client
    topics: Topics
    source: str
    journal: Path | None = None
    ahead: int = AHEAD
    rate: float | None = None  # samples a second; None: as fast as receipts come
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    _open: dict[str, tuple[int, Item]] = field(default_factory=dict)  # not yet receipted
    _mids: set[int] = field(default_factory=set)

    def run(self, items: Iterator[Item], progress: Callable[[int], None]) -> None:
        """Send all items; returns once every one has its receipt."""
        self.client.subscribe([self.topics.out(self.source, "receipt")])
        skip, started = self._resume(), time.monotonic()
        for number, item in enumerate(items):
            if number < skip[0]:
                self.counts["resumed"] += 1
                progress(1)
                continue
            while len(self._open) >= self.ahead:
                self._receipts(progress)
            if number == skip[0] and number and item.id != skip[1]:
                raise ConfigError("the source has changed since this stream was interrupted; "
                                  f"remove {self.journal} to send it from the start")
            self._pace(started, number - skip[0])
            self._open[item.id] = (number, item)
            self._send(item)
            self.counts["sent"] += 1
            while (message := self.client.next_message(0.0)) is not None:
                self._settle(message, progress)
        while self._open:
            self._receipts(progress)
        if self.journal is not None:
            self.journal.unlink(missing_ok=True)

    def _send(self, item: Item) -> None:
        user = [("id", item.id)]
        if item.label is not None:
            user.append(("label", item.label))
        if item.ts is not None:
            user.append(("ts", repr(item.ts)))
        self._mids = {mid for mid in self._mids if not self.client.arrived(mid)}
        while len(self._mids) >= self.client.window:
            self.client.wait(0.05)
            self._mids = {mid for mid in self._mids if not self.client.arrived(mid)}
        self._mids.add(self.client.publish(
            self.topics.sample(self.source), item.payload,
            ContentType=item.content_type, UserProperty=user,
        ))

    def _receipts(self, progress: Callable[[int], None]) -> None:
        """Take in one batch of receipts; without any for too long, send again."""
        for _ in range(_TRIES):
            message = self.client.next_message(_RESEND)
            if message is not None:
                self._settle(message, progress)
                return
            log.warning("no receipts from %s for %.0f s; sending %d samples again",
                        self.topics.root, _RESEND, len(self._open))
            self.counts["resent"] += len(self._open)
            for _, item in list(self._open.values()):
                self._send(item)
        raise NotRunning(
            f"{self.topics.root} sends no receipts; is `edgecc start` running? "
            "The same command resumes this stream")

    def _settle(self, message: Inbound, progress: Callable[[int], None]) -> None:
        if message.topic != self.topics.out(self.source, "receipt"):
            return  # as the status of a node that has just come online
        for receipt in json.loads(message.payload):
            if self._open.pop(receipt["id"], None) is None:
                continue
            self.counts[receipt["status"]] += 1
            progress(1)
            if receipt["status"] == "rejected":
                self.reasons[receipt["reason"]] += 1
        if self.journal is not None and self._open:
            done, item = min(self._open.values(), key=lambda waiting: waiting[0])
            self.journal.write_text(json.dumps({"receipted": done, "next": item.id}))

    def _resume(self) -> tuple[int, str]:
        """How many items have receipts from an interrupted run, and the id of the next item."""
        if self.journal is None or not self.journal.exists():
            return 0, ""
        try:
            kept = json.loads(self.journal.read_text())
            return int(kept["receipted"]), str(kept["next"])
        except (ValueError, KeyError, TypeError):
            return 0, ""  # a torn journal costs duplicates, nothing else

    def _pace(self, started: float, sent: int) -> None:
        if self.rate is not None:
            due = started + sent / self.rate
            while (left := due - time.monotonic()) > 0:
                self.client.wait(left)


def journal_for(state: Path, *parts: Any) -> Path:
    """The file that records how far this stream to this node has come."""
    name = hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]
    state.mkdir(parents=True, exist_ok=True)
    return state / f"{name}.json"
