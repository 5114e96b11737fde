"""The broker: connect, last will, subscribe, publish, and ack what has been committed.

A network thread of our own runs paho's loop; its callbacks only put an event on a queue, and the
owner takes events from there. Every connection has a number, and an ack from an earlier
connection is dropped: its packet id might by now belong to another message.
"""

import logging
import queue
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgecc.config import Mqtt
from edgecc.messages import Inbound
from edgecc.wire import Wire

log = logging.getLogger(__name__)

_BACKOFF = (1.0, 120.0)  # seconds: the first ceiling of the jitter, and the last
_STABLE = 60.0  # seconds connected after which backoff starts again from the first
BESIDE_PAYLOAD = 2048  # bytes of topic and properties in a packet that is sent
_PACKET_OVERHEAD = 64 * 1024  # bytes of topic and properties beside the payload
_WINDOW = 64  # QoS 1 messages on their way to the broker at once, where it takes as many
_SESSION_TAKEN_OVER = 0x8E
_AUTH_REASONS = {0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C}


@dataclass(frozen=True)
class Connected:
    connection: int
    session_present: bool
    window: int  # QoS 1 messages the broker takes at once
    max_packet: int | None  # bytes

    @property
    def max_payload(self) -> int | None:
        """Bytes that fit a packet with a topic and properties."""
        return None if self.max_packet is None else self.max_packet - BESIDE_PAYLOAD


@dataclass(frozen=True)
class Disconnected:
    reason: str
    refused: bool = False  # the broker said no to these credentials or this client


@dataclass(frozen=True)
class Subscribed:
    refused: list[str]  # reasons, for the filters that the broker did not grant


@dataclass(frozen=True)
class Published:
    mid: int
    failure: str | None


Event = Inbound | Connected | Disconnected | Subscribed | Published


@dataclass(frozen=True)
class Will:
    topic: str
    payload: bytes
    delay: int = 5  # seconds, so that a quick restart shows no flap


class Link:
    """One MQTT 5 client. A persistent session unless `clean`."""

    def __init__(
        self, settings: Mqtt, *, client_id: str, receive_maximum: int = 64, clean: bool = False,
        will: Will | None = None,
    ) -> None:
        self._settings, self._clean = settings, clean
        self._receive_maximum = receive_maximum
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._messages: deque[Inbound] = deque()
        self._stopping = threading.Event()
        self._changing = threading.Lock()  # held while `connection` changes or an ack is queued
        self.connection = 0
        self.dropped = 0  # QoS 0 messages that arrived faster than they were taken
        self._client = Wire(client_id, self._on_message, lambda: self.connection)
        self._prepare(will)
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def _prepare(self, will: Will | None) -> None:
        settings, client = self._settings, self._client
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password)
        if settings.tls:
            client.tls_set(settings.ca, settings.cert, settings.key,
                           tls_version=ssl.PROTOCOL_TLS_CLIENT)
        if will is not None:
            properties = _properties(PacketTypes.WILLMESSAGE)
            properties.WillDelayInterval = will.delay
            client.will_set(will.topic, will.payload, qos=1, retain=True, properties=properties)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish, client.on_subscribe = self._on_publish, self._on_subscribe

    # --- the owner's side ---

    def start(self) -> None:
        self._thread.start()

    def take(self, limit: int, timeout: float) -> list[Event]:
        """Up to `limit` messages, after all else; waits `timeout` seconds for the first."""
        events: list[Event] = []
        with suppress(queue.Empty):
            first = self._events.get(block=not self._messages and timeout > 0, timeout=timeout)
            while True:
                if first is not None:
                    events.append(first)
                first = self._events.get_nowait()
        while self._messages and limit > 0:
            events.append(self._messages.popleft())
            limit -= 1
        return events

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
        found = _properties(PacketTypes.PUBLISH) if given else None
        for name, value in given.items():
            setattr(found, name, value)
        mid = self._client.publish(topic, payload, qos, retain, properties=found).mid
        self._client.wake()
        return mid

    def ack(self, message: Inbound) -> bool:
        """True where a PUBACK was handed over: QoS 1, and still the same connection."""
        with self._changing:
            if message.qos == 0 or message.connection != self.connection:
                return False
            self._client.ack(message.mid, message.qos)
        self._client.wake()
        return True

    def subscribe(self, filters: Iterable[str]) -> None:
        options = SubscribeOptions(qos=1)
        self._client.subscribe([(name, options) for name in filters])
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

    # --- the network thread ---

    def _run(self) -> None:
        ceiling = _BACKOFF[0]
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self._connect()
                self._loop()
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                self._events.put(Disconnected(f"{type(error).__name__}: {error}"))
            if time.monotonic() - started > _STABLE:
                ceiling = _BACKOFF[0]
            self._stopping.wait(random.uniform(0, ceiling))
            ceiling = min(2 * ceiling, _BACKOFF[1])

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
        while self._client.turn(0.5) and not self._stopping.is_set():
            pass
        deadline = time.monotonic() + 5
        while self._client.unsent and time.monotonic() < deadline and self._client.turn(0.1):
            pass

    # --- callbacks: an event on the queue, nothing else ---

    def _on_connect(
        self, _client: Client, _user: Any, flags: Any, reason: ReasonCode, found: Any
    ) -> None:
        if reason.is_failure:
            self._events.put(Disconnected(str(reason), refused=reason.value in _AUTH_REASONS))
            return
        window = min(getattr(found, "ReceiveMaximum", _WINDOW), _WINDOW)
        packet = getattr(found, "MaximumPacketSize", None)
        self._client.keep_to(window)
        self._events.put(Connected(self.connection, flags.session_present, window, packet))

    def _on_disconnect(
        self, _client: Client, _user: Any, _flags: Any, reason: ReasonCode, _found: Any
    ) -> None:
        taken_over = reason.value == _SESSION_TAKEN_OVER
        text = f"{reason}: another client uses this id" if taken_over else str(reason)
        self._events.put(Disconnected(text, refused=taken_over))

    def _on_message(self, message: Inbound) -> None:
        if message.qos == 0 and len(self._messages) > 4 * self._receive_maximum:
            self.dropped += 1
            return
        self._messages.append(message)
        if len(self._messages) == 1:
            self.wake()

    def _on_publish(
        self, _client: Client, _user: Any, mid: int, reason: ReasonCode, _found: Any
    ) -> None:
        failed = getattr(reason, "is_failure", False)
        self._events.put(Published(mid, str(reason) if failed else None))

    def _on_subscribe(
        self, _client: Client, _user: Any, _mid: int, reasons: list[ReasonCode], _found: Any
    ) -> None:
        self._events.put(Subscribed([str(reason) for reason in reasons if reason.is_failure]))


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]
