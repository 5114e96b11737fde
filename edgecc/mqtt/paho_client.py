"""paho's client, with the plain PUBLISH and PUBACK read in one step and many packets in one call.

To some 240 µs of the daemon's processor time a sample (`edgecc bench delivery`), paho's own
PUBLISH would add 55, its reading of single bytes 15, and its own PUBACK 11 to 15 for each of a
sample's two. Whatever is out of the ordinary still goes to paho's code. The private names used are
those of paho 2.2.
"""

import os
import select
import socket
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5, mqtt_ms_queued
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgecc.protocol.messages import Inbound

_AT_ONCE = 64 * 1024  # bytes read in one call
_LENGTH_AND_MID = 4  # bytes: the topic's length and the packet id
_SUCCESS = ReasonCode(PacketTypes.PUBACK)
_NONE = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]

_CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION, _USER = 0x03, 0x08, 0x09, 0x26
_SIZES = {0x01: 1, 0x02: 4}  # bytes of the payload's format, and of its expiry


class ReadAhead:
    """A socket, plain or TLS, read in large pieces: paho asks for a packet's length bytewise."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._read, self._at = inner, b"", 0

    def recv(self, size: int) -> bytes:
        if self._at == len(self._read):
            self._read, self._at = self._inner.recv(max(size, _AT_ONCE)), 0
        part = self._read[self._at : self._at + size]
        self._at += len(part)
        return part

    def pending(self) -> int:
        """Bytes that can be read although `select` does not see them."""
        decrypted = self._inner.pending() if hasattr(self._inner, "pending") else 0
        return len(self._read) - self._at + int(decrypted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class PahoClient(Client):
    """Delivers messages as `Inbound`, of the connection of that number. The owner calls `turn`."""

    def __init__(
        self, client_id: str, deliver: Callable[[Inbound], None], connection: Callable[[], int]
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5, manual_ack=True)
        self._deliver, self._connection = deliver, connection
        self._reader, self._waker = os.pipe()
        self._woken = False
        self.on_message = self._deliver_slowly
        # With this set, paho never writes from the thread that publishes; `turn` does.
        self.on_socket_register_write = lambda *_: None

    def __del__(self) -> None:
        super().__del__()
        os.close(self._reader)
        os.close(self._waker)

    def limit(self, window: int, largest: int | None) -> tuple[int, ...]:
        """Keep to what the broker, now connected, takes: QoS 1 messages at once, bytes of a packet.

        Called on CONNACK, before paho sends everything unacknowledged again. Messages beyond the
        window wait; those too large are dropped, as the broker would end the connection over each.
        Returns the packet ids of the dropped ones.
        """
        self._max_inflight_messages = window
        with self._out_message_mutex:
            too_large = [mid for mid, message in self._out_messages.items()
                         if largest is not None and _size(message) > largest]
            for mid in too_large:
                del self._out_messages[mid]
            for message in list(self._out_messages.values())[window:]:
                message.state = mqtt_ms_queued
        return tuple(too_large)

    def wake(self) -> None:
        """Have `turn`, in another thread, send what has been handed over."""
        if not self._woken:
            self._woken = True
            os.write(self._waker, b"\0")

    def turn(self, timeout: float) -> bool:
        """Read and write what there is, within `timeout` seconds; False once disconnected."""
        sock: Any = self.socket()
        if sock is None:
            return False
        ready, _, _ = select.select(
            [sock, self._reader], [sock] if self.want_write() else [], [],
            0.0 if sock.pending() else timeout)
        if self._reader in ready:
            os.read(self._reader, 1)
            self._woken = False  # before writing: whatever is handed over from now on wakes again
        if (sock in ready or sock.pending()) and self.loop_read():
            return False
        return self.write()

    def write(self) -> bool:
        """Send what the socket takes now; False once disconnected."""
        return not self.loop_write() and not self.loop_misc()

    def _create_socket(self) -> Any:
        sock: Any = super()._create_socket()
        # else small packets wait 40 ms for a delayed ACK
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return ReadAhead(sock)

    def _handle_publish(self) -> MQTTErrorCode:
        packet = self._in_packet
        message = publish_of(packet["command"], packet["packet"], self._connection())
        if message is None:
            return super()._handle_publish()
        self._deliver(message)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        plain = len(packet) in (2, 3) and packet[2:] < b"\x80"  # success, perhaps without takers
        if cmd != "PUBACK" or not plain:
            return super()._handle_pubackcomp(cmd)
        mid = int.from_bytes(packet[:2])
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, _SUCCESS, _NONE)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _deliver_slowly(self, _client: Client, _user: Any, message: MQTTMessage) -> None:
        given = message.properties
        self._deliver(Inbound(
            topic=message.topic, payload=bytes(message.payload), mid=message.mid,
            qos=message.qos, retain=message.retain, redelivered=message.dup,
            connection=self._connection(),
            content_type=getattr(given, "ContentType", None),
            response_topic=getattr(given, "ResponseTopic", None),
            correlation=getattr(given, "CorrelationData", None),
            user=dict(getattr(given, "UserProperty", [])),
        ))


def _size(message: MQTTMessage) -> int:
    """Bytes of its PUBLISH at QoS 1."""
    given: Any = message.properties
    properties = b"\0" if given is None else given.pack()
    rest = len(message.topic.encode()) + len(message.payload) + len(properties) + _LENGTH_AND_MID
    return 1 + -(-rest.bit_length() // 7) + rest


def publish_of(command: int, packet: bytearray, connection: int) -> Inbound | None:
    """A PUBLISH of MQTT 5; None where it is malformed, or not of the plain kind."""
    try:
        end, qos, mid = 2 + int.from_bytes(packet[:2]), command >> 1 & 3, 0
        topic = packet[2:end].decode()
        if qos:
            mid, end = int.from_bytes(packet[end : end + 2]), end + 2
        length, start = _length(packet, end)
        known, user = _properties(packet, start, start + length)
    except (IndexError, KeyError, UnicodeDecodeError):
        return None
    if qos == 2 or start + length > len(packet) or not _sound(topic):
        return None
    return Inbound(
        topic, bytes(memoryview(packet)[start + length :]), mid, qos, bool(command & 1),
        bool(command & 8), connection, known.get(_CONTENT_TYPE), known.get(_RESPONSE_TOPIC),
        known.get(_CORRELATION), user,
    )


def _properties(packet: bytearray, at: int, end: int) -> tuple[dict[int, Any], dict[str, str]]:
    """Those that an `Inbound` has, and user properties; KeyError for others, and for any twice."""
    known: dict[int, Any] = {}
    user: dict[str, str] = {}
    while at < end:
        kind, at = packet[at], at + 1
        if kind == _USER:
            name, at = _text(packet, at)
            user[name], at = _text(packet, at)
        elif kind in known:
            raise KeyError(kind)
        elif kind == _CORRELATION:
            known[kind], at = _binary(packet, at)
        elif kind in (_CONTENT_TYPE, _RESPONSE_TOPIC):
            known[kind], at = _text(packet, at)
        else:
            known[kind], at = None, at + _SIZES[kind]
    if at != end:
        raise IndexError(at)
    return known, user


def _text(packet: bytearray, at: int) -> tuple[str, int]:
    encoded, at = _binary(packet, at)
    text = encoded.decode()
    if not _sound(text):
        raise KeyError(text)
    return text, at


def _sound(text: str) -> bool:
    """False for what MQTT does not allow in a string; paho knows what to do then."""
    return "\0" not in text and "\ufeff" not in text


def _binary(packet: bytearray, at: int) -> tuple[bytes, int]:
    start = at + 2
    end = start + (packet[at] << 8 | packet[at + 1])
    return bytes(packet[start:end]), end


def _length(packet: bytearray, at: int) -> tuple[int, int]:
    """Of the properties, and where they start; KeyError beyond two bytes of length."""
    if packet[at] < 0x80:
        return packet[at], at + 1
    if packet[at + 1] >= 0x80:
        raise KeyError(at)
    return packet[at] - 0x80 + (packet[at + 1] << 7), at + 2
