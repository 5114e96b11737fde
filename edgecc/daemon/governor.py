"""When blocks may train: in their share of the time, not on a hot board nor in quiet hours.

Predictions and labels never wait for it. A learner at work is stopped where it is, and goes on to
the same bytes. A board without sensors for heat or throttling has no such limits.
"""

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecc.config.schema import GovernorConfig
from edgecc.host.board import Reading, Sensors
from edgecc.mqtt.events import Events
from edgecc.protocol.health import Pause
from edgecc.store.writer import Store
from edgecc.training.supervisor import Supervisor

log = logging.getLogger(__name__)

COOLER = 5.0  # degrees Celsius below the limit at which training resumes
CALM = 30.0  # seconds without throttling after which training resumes
_EVERY = 2.0  # seconds between two looks at the sensors


class Limits:
    """What forbids training now, with the hysteresis that keeps it from flapping."""

    def __init__(self) -> None:
        self._hot, self._slowed = False, ""
        self._calm_at = 0.0

    def forbid(
        self, config: GovernorConfig, reading: Reading, *, now: float, minute: int
    ) -> Pause | None:
        """now: monotonic seconds; minute: of the local day."""
        return (self._heat(config, reading.celsius) or self._throttling(config, reading, now)
                or _quiet(config, minute))

    def _heat(self, config: GovernorConfig, celsius: float | None) -> Pause | None:
        limit = config.max_celsius - (COOLER if self._hot else 0)
        self._hot = celsius is not None and celsius >= limit
        if celsius is None or not self._hot:
            return None
        return Pause("heat", f"too hot, {celsius:.1f} °C of {config.max_celsius:g}", time.time())

    def _throttling(self, config: GovernorConfig, reading: Reading, now: float) -> Pause | None:
        if reading.throttled:
            self._slowed, self._calm_at = reading.throttled, now + CALM
        if not config.heed_throttling or now >= self._calm_at:
            return None
        return Pause("throttling", f"throttled, as {self._slowed}", time.time())


def _quiet(config: GovernorConfig, minute: int) -> Pause | None:
    for hours in config.quiet_hours:
        if hours.cover(minute):
            return Pause("quiet-hours", f"quiet hours until {hours.until}", time.time())
    return None


class Governor:
    def __init__(self, sysfs: Path, store: Store, events: Events, supervisor: Supervisor) -> None:
        self._store, self._events, self._supervisor = store, events, supervisor
        self._limits, self._sensors = Limits(), Sensors(sysfs)
        self._thread = threading.Thread(target=self._read_sensors, name="sensors", daemon=True)
        self._newest: Reading | None = None  # None until the first is there
        self._forbidden: Pause | None = None
        self.pause: Pause | None = None  # of a growth that is due
        self._due: int | None = None  # number of that growth
        self.stopped = False  # by an operator: no growth starts

    def start(self) -> None:
        self._thread.start()

    @property
    def reading(self) -> Reading:
        return self._newest or Reading()

    @property
    def allows(self) -> bool:
        """True if a growth may start."""
        return not self.stopped and self._newest is not None and self._forbidden is None

    def stop_growths(self, stop: bool) -> None:
        """With `stop`, start no growth; one that trains goes on."""
        self.stopped = stop

    def energy(self, samples: int) -> dict[str, Any] | None:
        """Joules since the start, for so many samples; None where the board measures none."""
        joules = self.reading.joules
        if joules is None:
            return None
        return {"of": self.reading.powered, "joules": round(joules, 3),
                "joules_per_sample": round(joules / samples, 4) if samples else None}

    def turn(self, config: GovernorConfig) -> bool:
        """Stop the learner or let it go on; True where a pause has begun or ended."""
        if not self._thread.is_alive():
            raise RuntimeError("the sensors' thread has died")
        local = time.localtime()
        self._forbidden = self._limits.forbid(
            config, self.reading, now=time.monotonic(), minute=local.tm_hour * 60 + local.tm_min)
        self._supervisor.allow(config.cpu_share if self._forbidden is None else 0.0)
        due = self._store.growths.unfinished() if self._forbidden else []
        self._due = due[0].number if due else None
        before, self.pause = self.pause, self._forbidden if due else None
        if before and self.pause:
            self.pause = replace(self.pause, since=before.since)
        if (before and before.reason) == (self.pause and self.pause.reason):
            return False
        self._report(before)
        return True

    @property
    def waiting(self) -> int | None:
        """Number of the growth that is due and may not start."""
        return self._due if self.pause and self._supervisor.order is None else None

    def _report(self, before: Pause | None) -> None:
        if self.pause is not None:
            log.info("training paused: %s", self.pause.text)
            self._events.note("training-paused", "info", {
                "reason": self.pause.reason, "text": self.pause.text, "growth": self._due})
        elif before is not None:
            log.info("training resumed")
            waited = round(time.time() - before.since, 1)
            self._events.note("training-resumed", "info", {"waited": waited})

    def _read_sensors(self) -> None:
        pause = threading.Event()  # never set
        while True:
            reading, first = self._sensors.read(), self._newest is None
            self._newest = reading
            if first and reading.celsius is None and reading.throttled is None:
                log.info("No temperature or throttling sensor; thermal limits are off")
            pause.wait(_EVERY)
