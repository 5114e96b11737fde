"""Ranges of local time, as in `22:00-06:00, 12:00-13:30`; one may cross midnight."""

import re
from dataclasses import dataclass
from typing import Any

from edgecc.errors import shown

_RANGE = re.compile(r"\s*(\d\d):(\d\d)\s*-\s*(\d\d):(\d\d)\s*")


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
    start, end = (-1, -1) if match is None else (
        _minute(match[1], match[2]), _minute(match[3], match[4]))
    if start < 0 or end < 0 or start == end:
        raise ValueError(f"{shown(text)} is not a range of hours: write 22:00-06:00, with "
                         "commas between several")
    return Hours(start, end)


def _minute(hour: str, minute: str) -> int:
    """Minutes since midnight; -1 where the time does not exist."""
    return int(hour) * 60 + int(minute) if int(hour) < 24 and int(minute) < 60 else -1


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
