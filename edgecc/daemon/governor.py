"""When blocks may train: not while the board is hot or slowed down, nor in quiet hours, and else
for their share of the time.

Predictions and labels never wait for it. A learner at work is stopped where it is and goes on to
the same bytes; where the board says nothing of its heat, heat governs nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc.config.schema import GovernorConfig
from edgecc.host.board import Reading, Sensors
from edgecc.store.reader import Growth

if TYPE_CHECKING:
    from edgecc.daemon.daemon import Daemon

log = logging.getLogger(__name__)

COOLER = 5.0  # degrees Celsius below the limit at which learning goes on
CALM = 30.0  # seconds after the board was last slowed down
_EVERY = 2.0  # seconds between two looks at the sensors


@dataclass(frozen=True)
class Wait:
    why: str  # heat, throttling or quiet-hours
    text: str


class Limits:
    """What forbids learning now; remembers what keeps it from flapping."""

    def __init__(self) -> None:
        self._hot, self._slowed = False, ""
        self._calm_at = 0.0

    def forbid(
        self, config: GovernorConfig, reading: Reading, *, now: float, minute: int
    ) -> Wait | None:
        """now: seconds of a clock that only goes on; minute: of the local day."""
        return (self._heat(config, reading.celsius) or self._throttling(config, reading, now)
                or _quiet(config, minute))

    def _heat(self, config: GovernorConfig, celsius: float | None) -> Wait | None:
        limit = config.max_celsius - (COOLER if self._hot else 0)
        self._hot = celsius is not None and celsius >= limit
        if celsius is None or not self._hot:
            return None
        return Wait("heat", f"too hot, {celsius:.1f} °C of {config.max_celsius:g}")

    def _throttling(self, config: GovernorConfig, reading: Reading, now: float) -> Wait | None:
        if reading.throttled:
            self._slowed, self._calm_at = reading.throttled, now + CALM
        if not config.heed_throttling or now >= self._calm_at:
            return None
        return Wait("throttling", f"throttled, as {self._slowed}")


def _quiet(config: GovernorConfig, minute: int) -> Wait | None:
    for hours in config.quiet_hours:
        if hours.cover(minute):
            return Wait("quiet-hours", f"quiet hours until {hours.until}")
    return None


class Governor:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon, self._limits = daemon, Limits()
        self._sensors = Sensors(Path(daemon.config.governor.sysfs))
        self._thread = threading.Thread(target=self._follow, name="sensors", daemon=True)
        self._newest: Reading | None = None  # None until the first is there
        self._forbidden: Wait | None = None
        self._waits: Wait | None = None  # what a growth waits for
        self._since = 0.0

    def start(self) -> None:
        self._thread.start()

    @property
    def reading(self) -> Reading:
        return self._newest or Reading()

    @property
    def allows(self) -> bool:
        """True where a growth may begin."""
        return self._newest is not None and self._forbidden is None

    @property
    def waits(self) -> dict[str, Any] | None:
        """What a growth that is due waits for."""
        if self._waits is None:
            return None
        return {"why": self._waits.why, "text": self._waits.text, "since": self._since}

    @property
    def energy(self) -> dict[str, Any] | None:
        """Since the start, of all that the board measures; None where it measures nothing."""
        joules, samples = self.reading.joules, self._daemon.ingest.taken["stored"]
        if joules is None:
            return None
        return {"of": self.reading.powered, "joules": round(joules, 3),
                "joules_per_sample": round(joules / samples, 4) if samples else None}

    def turn(self) -> None:
        """Stop the learner or let it go on, and say so."""
        if not self._thread.is_alive():
            raise RuntimeError("the sensors' thread has died")
        daemon, local = self._daemon, time.localtime()
        config = daemon.config.governor
        self._forbidden = self._limits.forbid(
            config, self.reading, now=time.monotonic(), minute=local.tm_hour * 60 + local.tm_min)
        daemon.supervisor.allow(config.cpu_share if self._forbidden is None else 0.0)
        due = daemon.store.open_growths() if self._forbidden else []
        waits = self._forbidden if due else None
        if (waits and waits.why) == (self._waits and self._waits.why):
            self._waits = waits
        else:
            self._change(waits, due)

    def _change(self, waits: Wait | None, due: list[Growth]) -> None:
        daemon, now = self._daemon, time.time()
        with daemon.store.transaction():
            if waits is None:
                daemon.announcer.event("learning-goes-on", "info", {
                    "waited": round(now - self._since, 1)})
            else:
                daemon.announcer.event("learning-waits", "info", {
                    "why": waits.why, "text": waits.text, "growth": due[0].number})
        log.info("learning %s", "goes on" if waits is None else f"waits: {waits.text}")
        self._since = self._since if waits and self._waits else now
        self._waits = waits
        idle = waits is not None and daemon.supervisor.order is None
        daemon.announcer.train({"phase": "due", "growth": due[0].number} if idle else None)
        daemon.announcer.health()

    def _follow(self) -> None:
        pause = threading.Event()  # never set
        while True:
            reading, first = self._sensors.read(), self._newest is None
            self._newest = reading
            if first and reading.celsius is None and reading.throttled is None:
                log.info("this board tells neither heat nor throttling: they govern nothing")
            pause.wait(_EVERY)
