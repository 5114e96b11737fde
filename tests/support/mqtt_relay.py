"""What really goes over the wire: a TCP relay before a broker that notes every MQTT packet."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

CONNECT, PUBLISH, PUBACK, SUBSCRIBE, UNSUBSCRIBE = 1, 3, 4, 8, 10


@dataclass(frozen=True)
class Packet:
    connection: int  # of the relay, from 1
    outward: bool  # from the node to the broker
    kind: int
    flags: int
    body: bytes  # after the fixed header
    size: int  # all of it

    @property
    def mid(self) -> int:
        """Of a PUBACK, or of a PUBLISH at QoS 1."""
        at = 2 + len(self.topic.encode()) if self.kind == PUBLISH else 0
        return int.from_bytes(self.body[at : at + 2], "big")

    @property
    def topic(self) -> str:
        return self.body[2 : 2 + int.from_bytes(self.body[:2], "big")].decode()

    @property
    def payload(self) -> bytes:
        """Of a PUBLISH at QoS 1 with less than 128 bytes of properties."""
        at = 4 + len(self.topic.encode())
        return self.body[at + 1 + self.body[at] :]

    @property
    def client(self) -> tuple[int, Properties, str]:
        """Of a CONNECT: its flags, properties and client id."""
        properties = Properties(PacketTypes.CONNECT)
        _, length = properties.unpack(self.body[10:])
        name = self.body[10 + length :]
        return self.body[7], properties, name[2 : 2 + int.from_bytes(name[:2], "big")].decode()


@dataclass
class Relay:
    """Between nodes and the broker on `port`; `look` sees each packet before it goes on."""

    port: int
    look: Callable[[Packet], None] = lambda _packet: None
    packets: list[Packet] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()[1]
        self.connections = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, as a router would that restarts."""
        while self._open:
            with suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`, as closing does not
        self._listener.close()
        self.cut()

    def sent(self, kind: int, *, outward: bool = True, connection: int | None = None
             ) -> list[Packet]:
        return [p for p in list(self.packets) if (p.kind, p.outward) == (kind, outward)
                and connection in (None, p.connection)]

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.port))
            except OSError:  # no broker there
                near.close()
                continue
            self.connections += 1
            self._open += [near, far]
            for ends, outward in (((near, far), True), ((far, near), False)):
                threading.Thread(
                    target=self._pass_on, args=(*ends, self.connections, outward), daemon=True
                ).start()

    def _pass_on(
        self, here: socket.socket, there: socket.socket, connection: int, outward: bool
    ) -> None:
        with suppress(OSError):  # one side is gone: so is the other
            for head, body in packets(here):
                packet = Packet(connection, outward, head[0] >> 4, head[0] & 15, body,
                               len(head) + len(body))
                self.look(packet)
                self.packets.append(packet)
                there.sendall(head + body)
        for end in (here, there):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def packets(connection: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """(fixed header, rest) of each packet that arrives, until the connection ends."""
    with connection.makefile("rb") as file:
        while first := file.read(1):
            head, length = first, 0
            while True:
                digit = file.read(1)
                length |= (digit[0] & 127) << 7 * (len(head) - 1)
                head += digit
                if digit[0] < 128:
                    break
            yield head, file.read(length)
