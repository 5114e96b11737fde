"""A TCP proxy in front of the broker whose connections can be made to fail."""

import contextlib
import socket
import struct
import threading
import time

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST
_PIECE = 4096  # bytes


class Proxy:
    """Forwards `port` to the broker's; the attributes are faults, for all connections at once."""

    def __init__(self, broker: int) -> None:
        self.latency = 0.0  # seconds added to each piece, each way
        self.rate: float | None = None  # bytes a second, each way
        self.silent = False  # connections stay open, and nothing passes any more: half-open
        self.cut: int | None = None  # bytes to the node until the connection breaks, mid-packet
        self._broker = broker
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """RST on every connection."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.shutdown(socket.SHUT_RD)  # wakes the thread that reads from it
            self._close(each)

    def heal(self) -> None:
        """No more faults; connections that were silent are gone."""
        was_silent = self.silent
        self.latency, self.rate, self.silent, self.cut = 0.0, None, False, None
        if was_silent:
            self.reset()

    def close(self) -> None:
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                node, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._broker))
                self._open |= {node, broker}
                for source, sink, to_node in ((node, broker, False), (broker, node, True)):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(
                        target=self._forward, args=(source, sink, to_node), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, to_node: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                while self.silent:
                    time.sleep(0.05)
                time.sleep(self.latency + (len(piece) / self.rate if self.rate else 0.0))
                if to_node and self.cut is not None:
                    piece, self.cut = self._up_to_the_cut(piece, self.cut)
                sink.sendall(piece)
                if to_node and self.cut == 0:
                    self.cut = None
                    sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    break
        self._close(source)
        self._close(sink)

    def _up_to_the_cut(self, piece: bytes, left: int) -> tuple[bytes, int]:
        return piece[:left], max(0, left - len(piece))

    def _close(self, each: socket.socket) -> None:
        self._open.discard(each)
        each.close()
