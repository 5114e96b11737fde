"""Ranges of local time, as in `22:00-06:00, 12:00-13:30`; one may cross midnight."""

import re
from dataclasses import dataclass
from typing import Any

from edgecc.errors import shown

_TIME = r"([01]\d|2[0-3]):([0-5]\d)"
_RANGE = re.compile(rf"\s*{_TIME}\s*-\s*{_TIME}\s*", re.ASCII)


@dataclass(frozen=True)
class Hours:
    """From `start` to before `end`, minutes since midnight."""

    start: int
    end: int

    def cover(self, minute: int) -> bool:
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    @property
    def until(self) -> str:
        return _clock(self.end)

    def __str__(self) -> str:
        return f"{_clock(self.start)}-{_clock(self.end)}"


def parse_hours(text: Any) -> tuple[Hours, ...]:
    """Ranges with commas between them; none in an empty text."""
    return tuple(_hours(part) for part in str(text).split(",")) if str(text).strip() else ()


def show_hours(ranges: tuple[Hours, ...]) -> str:
    return ", ".join(map(str, ranges))


def _hours(text: str) -> Hours:
    match = _RANGE.fullmatch(text)
    first, first_minute, last, last_minute = map(int, match.groups()) if match else (0, 0, 0, 0)
    hours = Hours(60 * first + first_minute, 60 * last + last_minute)
    if hours.start == hours.end:
        raise ValueError(f"{shown(text)} is not a range of hours: write 22:00-06:00, with "
                         "commas between several")
    return hours


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
