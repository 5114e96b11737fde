"""What leaves the node: durable messages until the broker has them, the rest oldest dropped first.

Receipts and events wait in the store until a PUBACK without an error. Retained messages about the
node wait in memory, the newest of each topic; so do predictions, answers and chunks, of which the
oldest are dropped. Never more is in flight than the broker's window, nor larger than it takes.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edgecc.mqtt.connection import Link
from edgecc.mqtt.connection_events import Published
from edgecc.store.writer import Store

_WAITING = 8000  # volatile messages; the oldest are dropped beyond
_WAITING_BYTES = 8 * 2**20
_AHEAD = 256  # messages handed to the link, which sends them as the window allows
_AHEAD_BYTES = 2 * 2**20
_MAX_TOPIC = 1024  # bytes
_BESIDE = 32  # bytes of a PUBLISH beside topic, payload and the values of its properties
_VOLATILE, _RETAINED = 0, -1  # in place of a row


@dataclass(frozen=True)
class Packet:
    topic: str
    payload: bytes
    options: dict[str, Any]
    row: int = _VOLATILE  # of the store's outbox

    @property
    def size(self) -> int:
        """Bytes on the wire, at most."""
        values = sum(len(value) for value in self.options.values() if isinstance(value, bytes))
        return len(self.topic.encode()) + len(self.payload) + values + _BESIDE

    @property
    def sound(self) -> bool:
        return len(self.topic.encode()) <= _MAX_TOPIC and not {"+", "#", "\0"} & set(self.topic)


@dataclass
class Outbox:
    link: Link
    store: Store
    window: int = 0  # 0 while not connected
    limit: int | None = None  # bytes of a packet
    dropped: int = 0  # predictions, answers and chunks
    too_large: int = 0  # messages above the limit, never sent
    denied: bool = False  # the broker refused a message that must arrive; see `retry_refused`
    _retained: dict[str, bytes] = field(default_factory=dict)  # by topic
    _refused: dict[str, bytes] = field(default_factory=dict)  # the same, denied by the broker
    _volatile: deque[Packet] = field(default_factory=deque)
    _in_flight: dict[int, Packet] = field(default_factory=dict)  # by packet id
    _sent: int = 0  # newest outbox row handed to the link
    _arrived: list[int] = field(default_factory=list)  # rows to delete at the next commit
    _bytes: int = 0  # of the volatile payloads
    _flying: int = 0  # bytes of the payloads in flight

    def put(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """A durable message; call inside a transaction of the store."""
        self.store.put_outbox(topic, payload, retain=retain)

    def retain(self, topic: str, payload: bytes) -> None:
        """A retained message about the node; only a newer one on the same topic replaces it."""
        self._retained.pop(topic, None)
        self._refused.pop(topic, None)
        self._retained[topic] = payload

    def send(self, topic: str, payload: bytes, **options: Any) -> None:
        """A message that may be dropped when there are too many."""
        self._volatile.append(Packet(topic, payload, options))
        self._bytes += len(payload)
        while len(self._volatile) > _WAITING or self._bytes > _WAITING_BYTES:
            self._bytes -= len(self._volatile.popleft().payload)
            self.dropped += 1

    def drop_volatile(self) -> None:
        self._retained.clear()
        self._volatile.clear()
        self._bytes = 0

    def connected(self, window: int, max_packet: int | None, too_large: Iterable[int] = ()) -> None:
        """too_large: ids of packets that were in flight and are above `max_packet`."""
        self.window = window
        self.limit = max_packet or self.limit
        self._take_back([self._in_flight.pop(mid) for mid in too_large if mid in self._in_flight])
        self.retry_refused()

    def disconnected(self) -> None:
        """paho sends again what was in flight, once it is connected."""
        self.window = 0

    def refused_as_too_large(self) -> int | None:
        """The broker ended the connection over a packet: assume it was the largest in flight.

        Returns the limit from now on; None where nothing was in flight.
        """
        packets = sorted(self._in_flight.values(), key=lambda packet: packet.size)
        self._in_flight.clear()
        if not packets:
            return None
        self.limit = packets[-1].size - 1
        self._take_back(packets)
        return self.limit

    def _take_back(self, packets: list[Packet]) -> None:
        """Have packets that were in flight wait again; `pump` drops what is above the limit."""
        for packet in reversed(packets):
            self._flying -= len(packet.payload)
            if packet.row == _VOLATILE:
                self._volatile.appendleft(packet)
                self._bytes += len(packet.payload)
            elif packet.row == _RETAINED:
                self._retained.setdefault(packet.topic, packet.payload)

    def published(self, event: Published) -> bool:
        """Note a PUBACK; refused durable messages wait for `retry_refused`. True for a success."""
        packet = self._in_flight.pop(event.mid, None)
        if packet is None:
            return event.failure is None
        self._flying -= len(packet.payload)
        if event.failure is not None:
            self._note_refused(packet)
        elif packet.row > 0:
            self._arrived.append(packet.row)
        return event.failure is None

    def _note_refused(self, packet: Packet) -> None:
        if packet.row == _VOLATILE:
            self.dropped += 1
            return
        self.denied = True
        if packet.row == _RETAINED and packet.topic not in self._retained:
            self._refused[packet.topic] = packet.payload

    def retry_refused(self) -> None:
        """Send again what the broker refused."""
        self._sent, self.denied = 0, False
        self._retained = self._refused | self._retained
        self._refused = {}

    def settle(self) -> None:
        """Delete from the store what has arrived; call inside a transaction of the store."""
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
        return not waiting and not self.store.outbox(self._sent, 1)

    def pump(self) -> None:
        """Hand over as much as the broker's window allows, durable messages first."""
        if not self.window:
            return
        waiting = {packet.row for packet in self._in_flight.values()} | set(self._arrived)
        room = max(0, self.window + _AHEAD - len(self._in_flight))
        for row, topic, payload, retain in self.store.outbox(self._sent, room):
            packet = Packet(topic, payload, {"retain": retain}, row)
            if not self._takes(packet):
                return
            self._sent = row
            if row not in waiting and not self._hand_over(packet):
                self._arrived.append(row)
        while self._retained:
            topic, payload = next(iter(self._retained.items()))
            packet = Packet(topic, payload, {"retain": True}, _RETAINED)
            if not self._takes(packet):
                return
            del self._retained[topic]
            self._hand_over(packet)
        while self._volatile and self._takes(self._volatile[0]):
            packet = self._volatile.popleft()
            self._bytes -= len(packet.payload)
            self._hand_over(packet)

    def _takes(self, packet: Packet) -> bool:
        """True where the link may have one more: beyond the window, some megabytes at most."""
        beyond = len(self._in_flight) - self.window
        return beyond < 0 or (
            beyond < _AHEAD and self._flying + len(packet.payload) <= _AHEAD_BYTES)

    def _hand_over(self, packet: Packet) -> bool:
        """False for one above the broker's limit: paho does not check, and would loop for ever."""
        if not packet.sound or (self.limit is not None and packet.size > self.limit):
            self.too_large += 1
            return False
        mid = self.link.publish(packet.topic, packet.payload, **packet.options)
        self._in_flight[mid] = packet
        self._flying += len(packet.payload)
        return True
