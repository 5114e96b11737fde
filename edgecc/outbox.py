"""What leaves the node: durable messages until the broker has them, the rest oldest dropped first.

Receipts, events, manifests and status wait in the store until their PUBACK. Predictions, progress
and chunks wait in memory, bounded. Neither goes beyond the broker's window.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from edgecc.link import Link, Published
from edgecc.store import Store

_WAITING = 2000  # volatile messages; the oldest are dropped beyond
_PACKET_OVERHEAD = 1024  # bytes of topic and properties


@dataclass
class Outbox:
    link: Link
    store: Store
    window: int = 0  # 0 while not connected
    max_payload: int | None = None
    dropped: int = 0
    _volatile: deque[tuple[str, bytes, dict[str, Any]]] = field(default_factory=deque)
    _in_flight: dict[int, int] = field(default_factory=dict)  # packet id -> outbox row, 0: none
    _sent: int = 0  # newest outbox row handed to the link
    _arrived: list[int] = field(default_factory=list)  # rows to delete at the next commit
    _newest: int = 0

    def put(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """A durable message; call inside a transaction of the store."""
        self._newest = self.store.put_outbox(topic, payload, retain=retain)

    def send(self, topic: str, payload: bytes, **options: Any) -> None:
        """A message that may be dropped when there are too many."""
        self._volatile.append((topic, payload, options))
        if len(self._volatile) > _WAITING:
            self._volatile.popleft()
            self.dropped += 1

    def connected(self, window: int, max_packet: int | None) -> None:
        self.window = window
        self.max_payload = None if max_packet is None else max_packet - _PACKET_OVERHEAD

    def disconnected(self) -> None:
        """paho sends again what was in flight, once it is connected."""
        self.window = 0

    def published(self, event: Published) -> bool:
        """Note a PUBACK; a refused durable message is sent again later. True for a success."""
        row = self._in_flight.pop(event.mid, 0)
        if row and event.failure is None:
            self._arrived.append(row)
        return event.failure is None

    def settle(self) -> None:
        """Forget what has arrived; call inside a transaction of the store."""
        for row in self._arrived:
            self.store.drop_outbox(row)
        self._arrived.clear()

    @property
    def unsettled(self) -> int:
        return len(self._arrived)

    @property
    def idle(self) -> bool:
        """True when nothing waits or is in flight."""
        return not self._in_flight and not self._volatile and self._sent >= self._newest

    def pump(self) -> None:
        """Hand over as much as the broker's window allows, durable messages first."""
        room = self.window - len(self._in_flight)
        if room <= 0:
            return
        for row, topic, payload, retain in self.store.outbox(self._sent, room):
            self._sent = row
            if self._fits(payload):
                self._in_flight[self.link.publish(topic, payload, retain=retain)] = row
            else:
                self._arrived.append(row)
                self.dropped += 1
        while self._volatile and len(self._in_flight) < self.window:
            topic, payload, options = self._volatile.popleft()
            if self._fits(payload):
                self._in_flight[self.link.publish(topic, payload, **options)] = 0

    def _fits(self, payload: bytes) -> bool:
        """paho does not check the broker's MaximumPacketSize and would loop for ever."""
        return self.max_payload is None or len(payload) <= self.max_payload
