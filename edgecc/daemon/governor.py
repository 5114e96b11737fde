"""When blocks may train: not while the board is hot or throttled, nor in quiet hours, and else for
their share of the time.

Predictions and labels never wait for it. A learner at work is stopped where it is, and goes on to
the same bytes. A board without sensors for heat or throttling has no such limits.
"""

import logging
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecc.config.schema import GovernorConfig
from edgecc.host.board import Reading, Sensors
from edgecc.mqtt.events import Events
from edgecc.protocol.health import Pause, Reason
from edgecc.store.growth_log import Growth
from edgecc.store.writer import Store
from edgecc.training.supervisor import Supervisor

log = logging.getLogger(__name__)

COOLER = 5.0  # degrees Celsius below the limit at which training resumes
CALM = 30.0  # seconds without throttling after which training resumes
_EVERY = 2.0  # seconds between two looks at the sensors


@dataclass(frozen=True)
class Limit:
    """What forbids training now."""

    reason: Reason
    text: str


class Limits:
    """What forbids training now, with the hysteresis that keeps it from flapping."""

    def __init__(self) -> None:
        self._hot, self._slowed = False, ""
        self._calm_at = 0.0

    def forbid(
        self, config: GovernorConfig, reading: Reading, *, now: float, minute: int
    ) -> Limit | None:
        """now: monotonic seconds; minute: of the local day."""
        return (self._heat(config, reading.celsius) or self._throttling(config, reading, now)
                or _quiet(config, minute))

    def _heat(self, config: GovernorConfig, celsius: float | None) -> Limit | None:
        limit = config.max_celsius - (COOLER if self._hot else 0)
        self._hot = celsius is not None and celsius >= limit
        if celsius is None or not self._hot:
            return None
        return Limit("heat", f"too hot, {celsius:.1f} °C of {config.max_celsius:g}")

    def _throttling(self, config: GovernorConfig, reading: Reading, now: float) -> Limit | None:
        if reading.throttled:
            self._slowed, self._calm_at = reading.throttled, now + CALM
        if not config.heed_throttling or now >= self._calm_at:
            return None
        return Limit("throttling", f"throttled, as {self._slowed}")


def _quiet(config: GovernorConfig, minute: int) -> Limit | None:
    for hours in config.quiet_hours:
        if hours.cover(minute):
            return Limit("quiet-hours", f"quiet hours until {hours.until}")
    return None


class Governor:
    def __init__(
        self, sysfs: Path, store: Store, events: Events, supervisor: Supervisor
    ) -> None:
        self._store, self._events, self._supervisor = store, events, supervisor
        self._limits, self._sensors = Limits(), Sensors(sysfs)
        self._thread = threading.Thread(target=self._read_sensors, name="sensors", daemon=True)
        self._newest: Reading | None = None  # None until the first is there
        self._forbidden: Limit | None = None
        self.pause: Pause | None = None  # of a growth that is due
        self._due: int | None = None
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
        limit = self._forbidden if due else None
        if (limit and limit.reason) == (self.pause and self.pause.reason):
            if limit is not None and self.pause is not None:
                self.pause = replace(self.pause, text=limit.text)
            return False
        self._change(limit, due)
        return True

    @property
    def waiting(self) -> int | None:
        """Number of the growth that is due and may not start."""
        return self._due if self.pause and self._supervisor.order is None else None

    def _change(self, limit: Limit | None, due: list[Growth]) -> None:
        now, before = time.time(), self.pause
        with self._store.transaction():
            if limit is None:
                assert before is not None
                self._events.record(
                    "training-resumed", "info", {"waited": round(now - before.since, 1)})
            else:
                self._events.record("training-paused", "info", {
                    "reason": limit.reason, "text": limit.text, "growth": due[0].number})
        log.info("training %s", "resumed" if limit is None else f"paused: {limit.text}")
        self._due = due[0].number if due else None
        since = now if before is None else before.since
        self.pause = None if limit is None else Pause(limit.reason, limit.text, since)

    def _read_sensors(self) -> None:
        pause = threading.Event()  # never set
        while True:
            reading, first = self._sensors.read(), self._newest is None
            self._newest = reading
            if first and reading.celsius is None and reading.throttled is None:
                log.info("No temperature or throttling sensor; thermal limits are off")
            pause.wait(_EVERY)
