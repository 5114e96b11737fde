"""systemd's watchdog, fed by progress of network, writer and learner, not by a timer."""

import time
from collections.abc import Callable

from edgecc.host.systemd import notify

_EVERY = 0.5  # seconds at least between two signs of life


class Watchdog:
    def __init__(self, *parts: Callable[[], object]) -> None:
        """Each of `parts` says how far it has got, or None where it has nothing to do."""
        self._parts = parts
        self._told: list[object] = [None] * len(parts)
        self._next = 0.0

    def feed(self) -> None:
        """The writer has got on; systemd is told once every part has, since it last was."""
        now = time.monotonic()
        if now < self._next:
            return
        said = [part() for part in self._parts]
        if all(new is None or new != old for new, old in zip(said, self._told, strict=True)):
            notify("WATCHDOG=1")
            self._told, self._next = said, now + _EVERY
