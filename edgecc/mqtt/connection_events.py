"""What a connection to the broker brings, besides messages: how it began and ended, and answers."""

from dataclasses import dataclass

from edgecc.protocol.messages import Inbound

BESIDE_PAYLOAD = 2048  # bytes of topic and properties in a packet that is sent


@dataclass(frozen=True)
class Connected:
    connection: int
    session_present: bool
    window: int  # QoS 1 messages the broker takes at once
    max_packet: int | None  # bytes
    too_large: tuple[int, ...] = ()  # ids of unacknowledged packets above that, dropped

    @property
    def max_payload(self) -> int | None:
        """Bytes that fit a packet with a topic and properties."""
        return None if self.max_packet is None else self.max_packet - BESIDE_PAYLOAD


@dataclass(frozen=True)
class Disconnected:
    reason: str
    refused: bool = False  # the broker said no to these credentials or this client
    too_large: bool = False  # it got a packet above its limit
    lasting: bool = False  # TLS fails until somebody changes something


@dataclass(frozen=True)
class Subscribed:
    refused: list[str]  # filters that the broker did not grant, each with its reason


@dataclass(frozen=True)
class Published:
    mid: int
    failure: str | None


LinkEvent = Connected | Disconnected | Subscribed | Published
Event = Inbound | LinkEvent
