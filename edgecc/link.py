"""The broker: connect, last will, subscribe, publish, and ack what has been committed.

A network thread of our own runs paho's loop; its callbacks only put an event on a queue, and the
owner takes events from there. Every connection has a number, and an ack from an earlier
connection is dropped: its packet id might by now belong to another message.
"""

import logging
import queue
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgecc.config import Mqtt
from edgecc.messages import Inbound

log = logging.getLogger(__name__)

_BACKOFF = (1.0, 120.0)  # seconds: the first ceiling of the jitter, and the last
_STABLE = 60.0  # seconds connected after which backoff starts again from the first
BESIDE_PAYLOAD = 2048  # bytes of topic and properties in a packet that is sent
_PACKET_OVERHEAD = 64 * 1024  # bytes of topic and properties beside the payload
_DEFAULT_WINDOW = 20
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
        self._stopping = threading.Event()
        self._changing = threading.Lock()  # held while `connection` changes or an ack is queued
        self.connection = 0
        self.dropped = 0  # QoS 0 messages that arrived faster than they were taken
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5, manual_ack=True
        )
        self._client.max_inflight_messages_set(0)  # our outbox keeps to the broker's window
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
        client.on_message, client.on_publish = self._on_message, self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_socket_open = _send_at_once
        # With this set, paho never writes from the thread that publishes; the loop does.
        client.on_socket_register_write = lambda *_: None

    # --- the owner's side ---

    def start(self) -> None:
        self._thread.start()

    def take(self, limit: int, timeout: float) -> list[Event]:
        """Up to `limit` events; waits `timeout` seconds for the first."""
        events: list[Event] = []
        try:
            first = self._events.get(timeout=timeout) if timeout > 0 else self._events.get_nowait()
            while len(events) < limit:
                if first is not None:
                    events.append(first)
                first = self._events.get_nowait()
            if first is not None:
                events.append(first)
        except queue.Empty:
            pass
        return events

    def wake(self) -> None:
        """Make a waiting `take` return."""
        self._events.put(None)

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False,
        expiry: int | None = None, **properties: Any,
    ) -> int:
        """Hand over one message; its packet id comes back in a Published event."""
        found = _properties(PacketTypes.PUBLISH)
        if expiry is not None:
            found.MessageExpiryInterval = expiry
        for name, value in properties.items():
            if value is not None:
                setattr(found, name, value)
        return self._client.publish(topic, payload, qos, retain, properties=found).mid

    def ack(self, message: Inbound) -> bool:
        """True where a PUBACK was handed over: QoS 1, and still the same connection."""
        with self._changing:
            if message.qos == 0 or message.connection != self.connection:
                return False
            self._client.ack(message.mid, message.qos)
            return True

    def subscribe(self, filters: Iterable[str]) -> None:
        options = SubscribeOptions(qos=1)
        self._client.subscribe([(name, options) for name in filters])

    def unsubscribe(self, filters: list[str]) -> None:
        self._client.unsubscribe(filters)

    @property
    def alive(self) -> bool:
        """False once the network thread has died."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Send what is queued, disconnect and end the thread."""
        self._client.disconnect()
        self._stopping.set()
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
        while self._client.loop(timeout=0.5) == 0 and not self._stopping.is_set():
            pass
        deadline = time.monotonic() + 5
        while self._client.want_write() and time.monotonic() < deadline:
            if self._client.loop(timeout=0.1) != 0:
                return

    # --- callbacks: an event on the queue, nothing else ---

    def _on_connect(
        self, _client: Client, _user: Any, flags: Any, reason: ReasonCode, found: Any
    ) -> None:
        if reason.is_failure:
            self._events.put(Disconnected(str(reason), refused=reason.value in _AUTH_REASONS))
            return
        window = getattr(found, "ReceiveMaximum", _DEFAULT_WINDOW)
        packet = getattr(found, "MaximumPacketSize", None)
        self._events.put(
            Connected(self.connection, flags.session_present, min(window, _DEFAULT_WINDOW), packet)
        )

    def _on_disconnect(
        self, _client: Client, _user: Any, _flags: Any, reason: ReasonCode, _found: Any
    ) -> None:
        taken_over = reason.value == _SESSION_TAKEN_OVER
        text = f"{reason}: another client uses this id" if taken_over else str(reason)
        self._events.put(Disconnected(text, refused=taken_over))

    def _on_message(self, _client: Client, _user: Any, message: MQTTMessage) -> None:
        if message.qos == 0 and self._events.qsize() > 4 * self._receive_maximum:
            self.dropped += 1
            return
        found = message.properties
        self._events.put(
            Inbound(
                topic=message.topic, payload=bytes(message.payload), mid=message.mid,
                qos=message.qos, retain=message.retain, redelivered=message.dup,
                connection=self.connection,
                content_type=getattr(found, "ContentType", None),
                response_topic=getattr(found, "ResponseTopic", None),
                correlation=getattr(found, "CorrelationData", None),
                user=dict(getattr(found, "UserProperty", [])),
            )
        )

    def _on_publish(
        self, _client: Client, _user: Any, mid: int, reason: ReasonCode, _found: Any
    ) -> None:
        failed = getattr(reason, "is_failure", False)
        self._events.put(Published(mid, str(reason) if failed else None))

    def _on_subscribe(
        self, _client: Client, _user: Any, _mid: int, reasons: list[ReasonCode], _found: Any
    ) -> None:
        self._events.put(Subscribed([str(reason) for reason in reasons if reason.is_failure]))


def _send_at_once(_client: Client, _user: Any, connection: Any) -> None:
    """Without this, small packets wait up to 40 ms for the peer's delayed ACK."""
    if isinstance(connection, socket.socket):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]
