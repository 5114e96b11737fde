"""Notifications to systemd for a service of Type=notify; nothing is sent without systemd.

Its watchdog is fed by progress of network, writer and learner, not by a timer.
"""

import os
import socket
import time
from collections.abc import Callable

_EVERY = 0.5  # seconds at least between two notifications of the watchdog


def notify(state: str) -> None:
    """sd_notify(3): 'READY=1', 'WATCHDOG=1', 'STOPPING=1'."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(state.encode())


class Watchdog:
    def __init__(self, *parts: Callable[[], object]) -> None:
        """Each of `parts` returns its progress so far, or None where it has nothing to do."""
        self._parts = parts
        self._fed_at: list[object] = [None] * len(parts)
        self._next = 0.0

    def feed(self) -> None:
        """Called as the writer makes progress; feeds systemd's watchdog once every part has too."""
        now = time.monotonic()
        if now < self._next:
            return
        progress = [part() for part in self._parts]
        if all(new is None or new != old for new, old in zip(progress, self._fed_at, strict=True)):
            notify("WATCHDOG=1")
            self._fed_at, self._next = progress, now + _EVERY
