"""The broker: connect, last will, subscribe, publish, and ack what has been committed.

A network thread of our own runs paho's loop; its callbacks only put an event on a queue, and the
owner takes events from there. Every connection has a number, and an ack from an earlier
connection is dropped: its packet id might by now belong to another message. Where more bytes wait
to be taken than were planned for, the thread stops reading, and TCP holds the rest back.
"""

import logging
import queue
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgecc.config.schema import Mqtt
from edgecc.mqtt import tls
from edgecc.mqtt.backoff import Backoff
from edgecc.mqtt.connection_events import Connected, Disconnected, Event, Published, Subscribed
from edgecc.mqtt.paho_client import PahoClient
from edgecc.protocol.messages import Inbound

log = logging.getLogger(__name__)

_PACKET_OVERHEAD = 64 * 1024  # bytes of topic and properties beside the payload
_WINDOW = 64  # QoS 1 messages on their way to the broker at once, where it takes as many
_WILL_DELAY = 5  # seconds, so that a quick restart shows no flap
_SESSION_TAKEN_OVER, _PACKET_TOO_LARGE = 0x8E, 0x95
_REFUSALS = {0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, _SESSION_TAKEN_OVER}


class Link:
    """One MQTT 5 client. A persistent session unless `clean`."""

    def __init__(
        self, settings: Mqtt, *, client_id: str, receive_maximum: int = 64, hold: int = 16 * 2**20,
        clean: bool = False, will: tuple[str, bytes] | None = None,
    ) -> None:
        """hold: bytes not yet acked above which no more is read; will: its topic and payload."""
        self._settings, self._clean, self._will = settings, clean, will
        self._client_id, self._receive_maximum, self._hold = client_id, receive_maximum, hold
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._messages: deque[Inbound] = deque()
        self._stopping = threading.Event()
        self._changing = threading.Lock()  # held while `connection` changes or an ack is queued
        self.connection = self._answered = 0  # the newest, and the newest that the broker answered
        self.dropped = 0  # QoS 0 messages that arrived faster than they were taken
        self.rounds = 0  # of the network thread; it hangs where they do not increase
        self._received, self._acked = 0, 0  # bytes
        self._connected_at: float | None = None
        self._asked: deque[list[str]] = deque()  # filters of subscriptions not yet answered
        self._client = self._new_client()
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def _new_client(self) -> PahoClient:
        client = PahoClient(self._client_id, self._on_message, lambda: self.connection)
        settings, will = self._settings, self._will
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password)
        if settings.tls:
            client.tls_set_context(tls.context(settings))
        if will is not None:
            properties = _properties(PacketTypes.WILLMESSAGE)
            properties.WillDelayInterval = _WILL_DELAY
            client.will_set(*will, qos=1, retain=True, properties=properties)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish, client.on_subscribe = self._on_publish, self._on_subscribe
        return client

    def start(self) -> None:
        self._thread.start()

    def take(self, limit: int, timeout: float) -> list[Event]:
        """All connection events, then up to `limit` messages; waits `timeout` seconds for one."""
        events: list[Event] = []
        with suppress(queue.Empty):
            first = self._events.get(block=not self._messages and timeout > 0, timeout=timeout)
            while True:
                if first is not None:
                    events.append(first)
                first = self._events.get_nowait()
        return events + [self._messages.popleft() for _ in range(min(limit, len(self._messages)))]

    def wake(self) -> None:
        """Make a waiting `take` return."""
        self._events.put(None)

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False,
        expiry: int | None = None, **properties: Any,
    ) -> int:
        """Hand over one message; its packet id comes back in a Published event."""
        properties["MessageExpiryInterval"] = expiry
        given = {name: value for name, value in properties.items() if value is not None}
        packed = _properties(PacketTypes.PUBLISH) if given else None
        for name, value in given.items():
            setattr(packed, name, value)
        mid = self._client.publish(topic, payload, qos, retain, properties=packed).mid
        self._client.wake()
        return mid

    def ack(self, message: Inbound) -> bool:
        """`message` is dealt with; True where a PUBACK is queued: QoS 1, on the same connection."""
        self._acked += len(message.payload)
        with self._changing:
            if message.qos == 0 or message.connection != self.connection:
                return False
            self._client.ack(message.mid, message.qos)
        self._client.wake()
        return True

    def subscribe(self, filters: list[str]) -> None:
        self._asked.append(filters)
        self._client.subscribe([(name, SubscribeOptions(qos=1)) for name in filters])
        self._client.wake()

    def unsubscribe(self, filters: list[str]) -> None:
        self._client.unsubscribe(filters)
        self._client.wake()

    @property
    def alive(self) -> bool:
        """False once the network thread has died."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Send what is queued, disconnect and end the thread."""
        self._client.disconnect()
        self._stopping.set()
        self._client.wake()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._client = self._new_client()  # the old one goes, and with it its sockets

    def _run(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            self._connected_at = None
            try:
                self._connect()
                self._loop()
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                self._events.put(tls.explain(error, self._settings))
            except Exception as error:  # whatever a broker may send, the thread goes on
                log.debug("connection %d", self.connection, exc_info=True)
                self._events.put(Disconnected(f"{type(error).__name__}: {error}"))
            held = 0.0 if self._connected_at is None else time.monotonic() - self._connected_at
            self._wait(backoff.after(held))

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._stopping.wait(min(left, 1.0)):
            self.rounds += 1

    def _connect(self) -> None:
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0 if self._clean else self._settings.session_expiry
        properties.ReceiveMaximum = self._receive_maximum
        properties.MaximumPacketSize = self._settings.max_payload + _PACKET_OVERHEAD
        with self._changing:  # acks queued before this are cleared by connect()
            self.connection += 1
        self._client.connect(
            self._settings.host or "localhost", self._settings.port, self._settings.keepalive,
            clean_start=self._clean, properties=properties,
        )

    def _loop(self) -> None:
        while self._round() and not self._stopping.is_set():
            self.rounds += 1
        deadline = time.monotonic() + 5
        while self._client.want_write() and time.monotonic() < deadline and self._client.turn(0.1):
            pass

    def _round(self) -> bool:
        """Read and write, or only write; False once disconnected."""
        if self._received - self._acked <= self._hold:
            return self._client.turn(0.5)
        self._stopping.wait(0.01)
        return self._client.write()

    def _on_connect(
        self, _client: Client, _user: Any, flags: Any, reason: ReasonCode, broker: Any
    ) -> None:
        self._answered = self.connection
        if reason.is_failure:
            self._report_lost(reason)
            return
        self._connected_at = time.monotonic()
        self._asked.clear()
        window = min(getattr(broker, "ReceiveMaximum", _WINDOW), _WINDOW)
        packet = getattr(broker, "MaximumPacketSize", None)
        self._events.put(Connected(
            self.connection, flags.session_present, window, packet,
            self._client.limit(window, packet)))

    def _on_disconnect(
        self, _client: Client, _user: Any, flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._report_lost(reason)
        elif self._settings.tls and self._answered != self.connection:
            self._events.put(tls.ask_why(self._settings, str(reason)))
        else:
            self._events.put(Disconnected("the connection was lost"))

    def _report_lost(self, reason: ReasonCode) -> None:
        code = reason.value
        meaning = ": another client uses this id" if code == _SESSION_TAKEN_OVER else ""
        if code == _PACKET_TOO_LARGE:  # paho would send it again for ever
            self._client = self._new_client()
        self._events.put(Disconnected(
            f"{reason}{meaning}", refused=code in _REFUSALS, too_large=code == _PACKET_TOO_LARGE))

    def _on_message(self, message: Inbound) -> None:
        if message.qos == 0 and len(self._messages) > 4 * self._receive_maximum:
            self.dropped += 1
            return
        self._received += len(message.payload)
        self._messages.append(message)
        if len(self._messages) == 1:
            self.wake()

    def _on_publish(
        self, _client: Client, _user: Any, mid: int, reason: ReasonCode, _properties: Any
    ) -> None:
        failed = getattr(reason, "is_failure", False)
        self._events.put(Published(mid, str(reason) if failed else None))

    def _on_subscribe(
        self, _client: Client, _user: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        answers = zip(self._asked.popleft(), reasons, strict=True)
        self._events.put(Subscribed(
            [f"{name}: {reason}" for name, reason in answers if reason.is_failure]))


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]
