"""The board's temperature, throttling and power.

They are read from the kernel's files below `sysfs`, and from `vcgencmd` where a Raspberry Pi has it
and lets this user run it. What the board cannot measure is None.
"""

import logging
import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

# Bits of get_throttled that tell what is true now. Bit 3, the soft limit (60 °C on a Pi 3B+), is
# left out: `max_celsius` limits heat.
_BITS = {0: "the supply's voltage is low", 1: "the clock is capped", 2: "the board is throttled"}
_SLOWED = re.compile(r"cpu|processor", re.IGNORECASE)  # cooling by a lower clock, not by a fan
_RAIL = r"(\w+)_([AV]) (?:current|volt)\(\d+\)=([\d.]+)[AV]"
_PATIENCE = 2.0  # seconds for vcgencmd


@dataclass(frozen=True)
class Reading:
    celsius: float | None = None  # of the hottest thermal zone
    throttled: str | None = None  # why the board is slow now; "" where it is not
    joules: float | None = None  # since the first reading
    powered: str = ""  # what the joules are of


class Sensors:
    """Reads the board. `read` may take as long as vcgencmd does: call it in a thread of its own."""

    def __init__(self, sysfs: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._sysfs, self._clock = sysfs, clock
        self._vcgencmd = shutil.which("vcgencmd")
        self._silent: set[str] = set()  # what vcgencmd cannot tell here
        self._joules, self._read_at = 0.0, math.inf  # seconds of the clock
        self._counters: dict[Path, int] = {}

    def read(self) -> Reading:
        return Reading(self._celsius(), self._throttled(), *self._power())

    def _celsius(self) -> float | None:
        zones = [zone / 1000 for _, zone in self._numbers("class/thermal/thermal_zone*/temp")]
        if not zones:
            zones = [float(celsius) for celsius, in self._ask("measure_temp", r"temp=([\d.]+)")]
        return max(zones, default=None)

    def _throttled(self) -> str | None:
        flags = self._flags()
        reasons = [] if flags is None else [why for bit, why in _BITS.items() if flags >> bit & 1]
        alarms = [n for path, n in self._numbers("class/hwmon/hwmon*/in0_lcrit_alarm")
                  if _text(path.with_name("name")) == "rpi_volt"]
        if any(alarms) and _BITS[0] not in reasons:
            reasons.append(_BITS[0])
        cooling = [n for path, n in self._numbers("class/thermal/cooling_device*/cur_state")
                   if _SLOWED.search(_text(path.with_name("type")))]
        if any(cooling):
            reasons.append("the kernel holds the clock down")
        return ", ".join(reasons) if reasons or alarms or cooling or flags is not None else None

    def _flags(self) -> int | None:
        """The firmware's flags from vcgencmd, or from the kernel, which logs a warning once."""
        values = [flags for flags, in self._ask("get_throttled", r"throttled=0x(\w+)")]
        if not values:
            files = self._sysfs.glob("devices/platform/soc*/*/get_throttled")
            values = [_text(path) for path in files]
        hexadecimal = [flags for flags in values if re.fullmatch(r"[\da-fA-F]+", flags)]
        return int(hexadecimal[0], 16) if hexadecimal else None

    def _power(self) -> tuple[float | None, str]:
        now = self._clock()
        watts, powered = self._watts()
        before, self._counters = self._counters, {
            path: n for path, n in self._numbers("class/powercap/*/energy_uj")
            if _text(path.with_name("name")).startswith("package")}
        if self._counters:
            powered = "processor packages (RAPL)"
            self._joules += sum(self._passed(path, n - before[path]) for path, n in
                                self._counters.items() if path in before)
        elif watts is not None:
            self._joules += watts * max(now - self._read_at, 0)
        self._read_at = now
        return (self._joules, powered) if powered else (None, "")

    def _passed(self, counter: Path, difference: int) -> float:
        """Joules; a counter begins again at its range."""
        if difference < 0:
            difference += _number(counter.with_name("max_energy_range_uj")) or 0
        return max(difference, 0) / 1e6

    def _watts(self) -> tuple[float | None, str]:
        """Of the one power meter that the kernel knows, or of a Pi 5's rails."""
        meters = list(self._numbers("class/hwmon/hwmon*/power1_input"))
        if len(meters) == 1:
            path, microwatts = meters[0]
            return microwatts / 1e6, f"what {_text(path.with_name('name'))} measures"
        rails: dict[str, dict[str, float]] = {}
        for rail, unit, value in self._ask("pmic_read_adc", _RAIL):
            rails.setdefault(rail, {})[unit] = float(value)
        watts = [rail["A"] * rail["V"] for rail in rails.values() if len(rail) == 2]
        return (sum(watts), "the rails of the board (PMIC), not USB") if watts else (None, "")

    def _numbers(self, pattern: str) -> Iterator[tuple[Path, int]]:
        for path in sorted(self._sysfs.glob(pattern)):
            number = _number(path)
            if number is not None:
                yield path, number

    def _ask(self, what: str, pattern: str) -> list[tuple[str, ...]]:
        """Matches of `pattern` in what vcgencmd prints; without any it is not asked again."""
        if self._vcgencmd is None or what in self._silent:
            return []
        try:
            done = subprocess.run([self._vcgencmd, what], capture_output=True, text=True,
                                  errors="replace", timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            return []
        output = done.stdout if done.returncode == 0 else ""
        values = [match.groups() for match in re.finditer(pattern, output)]
        if not values:
            self._silent.add(what)
            log.info("vcgencmd %s printed %r; it is not run again", what,
                     (done.stdout + done.stderr).strip()[:100])
        return values


def _text(path: Path) -> str:
    """The content of a one-line file; '' where it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None
