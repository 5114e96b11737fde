"""Events: what operators should hear of once, on the topic `event`."""

import os
import time
from typing import Any, Literal

from edgecc.mqtt.outbox import Outbox
from edgecc.protocol.messages import to_json
from edgecc.protocol.topics import Topics

Severity = Literal["info", "warning", "error"]


class Events:
    def __init__(self, outbox: Outbox, topics: Topics) -> None:
        self._outbox, self._topic = outbox, topics / "event"

    def record(self, kind: str, severity: Severity, data: dict[str, Any]) -> None:
        """Send a durable event; call inside a transaction of the store."""
        self._outbox.put(self._topic, _body(kind, severity, data))

    def note(self, kind: str, severity: Severity, data: dict[str, Any]) -> None:
        """Send a durable event, in a transaction of its own."""
        with self._outbox.store.transaction():
            self.record(kind, severity, data)

    def alert(self, kind: str, severity: Severity, data: dict[str, Any]) -> None:
        """Send an event that cannot be stored, or need not be: it may be dropped."""
        self._outbox.send(self._topic, _body(kind, severity, data))


def _body(kind: str, severity: Severity, data: dict[str, Any]) -> bytes:
    return to_json({"type": kind, "severity": severity, "ts": time.time(),
                    "id": os.urandom(8).hex(), "data": data})
