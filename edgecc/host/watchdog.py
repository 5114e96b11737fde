"""systemd's watchdog, fed by progress of network, writer and learner, not by a timer."""

import time
from collections.abc import Callable

from edgecc.host.systemd import notify

_EVERY = 0.5  # seconds at least between two notifications


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
