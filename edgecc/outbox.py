"""What leaves the node: durable messages until the broker has them, the rest oldest dropped first.

Receipts and events wait in the store until their PUBACK. What the node says of itself, retained,
waits in memory, the newest of each topic. Predictions, answers and chunks wait there too, bounded.
None goes beyond the broker's window.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from edgecc.link import Link, Published
from edgecc.store import Store

_WAITING = 2000  # volatile messages; the oldest are dropped beyond
_WAITING_BYTES = 8 * 2**20
_AHEAD = 256  # small messages handed to the link, which sends them as the window allows
_SMALL = 4096  # bytes
_MAX_TOPIC = 1024  # bytes


@dataclass
class Outbox:
    link: Link
    store: Store
    window: int = 0  # 0 while not connected
    max_payload: int | None = None
    dropped: int = 0
    _retained: dict[str, bytes] = field(default_factory=dict)  # by topic
    _volatile: deque[tuple[str, bytes, dict[str, Any]]] = field(default_factory=deque)
    _in_flight: dict[int, int] = field(default_factory=dict)  # packet id -> outbox row, 0: none
    _sent: int = 0  # newest outbox row handed to the link
    _arrived: list[int] = field(default_factory=list)  # rows to delete at the next commit
    _newest: int = 0
    _bytes: int = 0  # of the volatile payloads

    def put(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """A durable message; call inside a transaction of the store."""
        self._newest = self.store.put_outbox(topic, payload, retain=retain)

    def retain(self, topic: str, payload: bytes) -> None:
        """What is true of the node now; only something newer on the same topic replaces it."""
        self._retained.pop(topic, None)
        self._retained[topic] = payload

    def send(self, topic: str, payload: bytes, **options: Any) -> None:
        """A message that may be dropped when there are too many."""
        self._volatile.append((topic, payload, options))
        self._bytes += len(payload)
        while len(self._volatile) > _WAITING or self._bytes > _WAITING_BYTES:
            self._bytes -= len(self._volatile.popleft()[1])
            self.dropped += 1

    def drop_volatile(self) -> None:
        self._retained.clear()
        self._volatile.clear()
        self._bytes = 0

    def connected(self, window: int, max_payload: int | None) -> None:
        self.window, self._sent = window, 0  # what was refused is tried again
        self.max_payload = max_payload

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
        waiting = self._in_flight or self._retained or self._volatile
        return not waiting and self._sent >= self._newest

    def pump(self) -> None:
        """Hand over as much as the broker's window allows, durable messages first."""
        if not self.window:
            return
        room = max(0, self.window - len(self._in_flight))
        waiting = set(self._in_flight.values()) | set(self._arrived)
        for row, topic, payload, retain in self.store.outbox(self._sent, room):
            self._sent = row
            if row in waiting:
                continue
            if self._fits(topic, payload):
                self._in_flight[self.link.publish(topic, payload, retain=retain)] = row
            else:
                self._arrived.append(row)
                self.dropped += 1
        while self._retained and len(self._in_flight) < self.window:
            topic = next(iter(self._retained))
            payload = self._retained.pop(topic)
            if self._fits(topic, payload):
                self._in_flight[self.link.publish(topic, payload, retain=True)] = 0
        while self._volatile and self._takes(self._volatile[0][1]):
            topic, payload, options = self._volatile.popleft()
            self._bytes -= len(payload)
            if self._fits(topic, payload):
                self._in_flight[self.link.publish(topic, payload, **options)] = 0

    def _takes(self, payload: bytes) -> bool:
        """True where the link may have one more: it never has much that could be dropped."""
        ahead = _AHEAD if len(payload) <= _SMALL else 0
        return len(self._in_flight) < self.window + ahead

    def _fits(self, topic: str, payload: bytes) -> bool:
        """paho does not check the broker's MaximumPacketSize and would loop for ever."""
        sound = len(topic.encode()) <= _MAX_TOPIC and not {"+", "#", "\0"} & set(topic)
        return sound and (self.max_payload is None or len(payload) <= self.max_payload)
