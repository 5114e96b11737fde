"""What is read past paho is what paho reads, and no more is sent than the broker takes."""

import socket
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import MQTTException
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support.patience import APART, until
from support.peer import BRIEF

from edgecc.config.schema import Mqtt
from edgecc.mqtt.connection import Link
from edgecc.mqtt.connection_events import Connected
from edgecc.mqtt.paho_client import PahoClient, publish_of
from edgecc.protocol.messages import Inbound

CONNACK_FOR_THREE = b"\x20\x06\x00\x00\x03\x21\x00\x03"  # its ReceiveMaximum is 3
texts = st.text(max_size=40).filter(lambda text: not {"\0", "\ufeff"} & set(text))
properties = st.fixed_dictionaries({}, optional={
    "ContentType": texts, "ResponseTopic": texts, "CorrelationData": st.binary(max_size=40),
    "MessageExpiryInterval": st.integers(0, 2**32 - 1), "PayloadFormatIndicator": st.just(1),
    "UserProperty": st.lists(st.tuples(texts, texts), min_size=1, max_size=5),
})


def packet_of(
    topic: str, payload: bytes, given: dict[str, Any], *, qos: int, retain: bool = False
) -> tuple[int, bytearray]:
    """First byte and rest of a PUBLISH, as paho writes it."""
    packed = Properties(PacketTypes.PUBLISH)
    for name, value in given.items():
        setattr(packed, name, value)
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    written: list[bytearray] = []
    client._packet_queue = lambda _c, packet, *_: written.append(packet)  # type: ignore
    with socket.socket() as client._sock:
        client._send_publish(7, topic.encode(), payload, qos, retain, properties=packed)
    packet, start = written[0], 1
    while packet[start] & 0x80:
        start += 1
    return packet[0], packet[start + 1 :]


def by_paho(command: int, packet: bytearray) -> Inbound | None:
    """The same packet through paho's own code; None where it is malformed."""
    heard: list[Inbound] = []
    client = PahoClient("", heard.append, lambda: 3)
    client._in_packet = client._in_packet | {"command": command, "packet": packet}
    try:
        Client._handle_publish(client)
    except (MQTTException, UnicodeDecodeError):
        return None
    return heard[0]


@given(topic=texts.filter(bool), payload=st.binary(max_size=300), given=properties,
       qos=st.sampled_from([0, 1]), retain=st.booleans())
def test_a_publish_is_read_as_paho_reads_it(
    topic: str, payload: bytes, given: dict[str, Any], qos: int, retain: bool
) -> None:
    command, packet = packet_of(topic, payload, given, qos=qos, retain=retain)
    message = publish_of(command, packet, 3)
    assert message is not None
    assert message == by_paho(command, packet)


@given(data=st.data(), given=properties, qos=st.sampled_from([0, 1]))
def test_of_a_broken_publish_nothing_is_read_that_paho_would_not_read(
    data: st.DataObject, given: dict[str, Any], qos: int
) -> None:
    command, packet = packet_of("a/b", b"payload", given, qos=qos)
    at = data.draw(st.integers(0, len(packet) - 1))
    packet[at] = data.draw(st.integers(0, 255))
    del packet[data.draw(st.integers(0, len(packet))) :]
    message = publish_of(command, packet, 3)
    assert message is None or message == by_paho(command, packet)


@pytest.mark.parametrize("length", [126, 127, 128, 129, 16_383, 16_384])
def test_properties_of_any_length(length: int) -> None:
    command, packet = packet_of("a", b"x", {"CorrelationData": b"c" * (length - 3)}, qos=1)
    message = publish_of(command, packet, 3)
    assert message is None if length > 16_383 else message == by_paho(command, packet)
    assert by_paho(command, packet) is not None


def received(peer: socket.socket, most: int) -> list[bytes]:
    """Packets, each shorter than 128 bytes, until `most` of them or silence."""
    packets, data = [], b""
    peer.settimeout(BRIEF)
    with suppress(TimeoutError):
        while len(packets) < most:
            data += peer.recv(4096)
            while len(data) > 1 and len(data) >= 2 + data[1]:
                packets.append(data[: 2 + data[1]])
                data = data[2 + data[1] :]
    return packets


def test_no_more_is_sent_than_the_broker_takes_until_it_has_acked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        link = Link(Mqtt("127.0.0.1", listening.getsockname()[1]), client_id="a")
        link.start()
        peer, _ = listening.accept()
        with peer:
            received(peer, 1)
            peer.sendall(CONNACK_FOR_THREE)
            (connected,) = until(lambda: link.take(1, APART), "no CONNACK")
            assert isinstance(connected, Connected)
            assert connected.window == 3
            mids = [link.publish("a", b"%d" % n) for n in range(10)]
            assert [packet[-1:] for packet in received(peer, 10)] == [b"0", b"1", b"2"]
            peer.sendall(b"".join(b"\x40\x02" + mid.to_bytes(2) for mid in mids[:2]))
            assert [packet[-1:] for packet in received(peer, 10)] == [b"3", b"4"]
        peer, _ = listening.accept()
        with peer:
            received(peer, 1)
            peer.sendall(CONNACK_FOR_THREE)
            assert [packet[-1:] for packet in received(peer, 10)] == [b"2", b"3", b"4"]
            peer.sendall(b"".join(b"\x40\x02" + mid.to_bytes(2) for mid in mids[2:4]))
            assert [packet[-1:] for packet in received(peer, 10)] == [b"5", b"6"]
            link.stop()
