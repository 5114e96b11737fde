"""Sizes and rates as people write them: `512MiB`, `600/min`."""

import re
from dataclasses import dataclass
from typing import Any

from edgecc.errors import shown

_SIZES = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_INTERVALS = {"s": 1, "min": 60, "h": 3600, "day": 86400}
_RATE = re.compile(r"(\d{1,9})/(s|min|h|day)")


def parse_size(text: str | int) -> int:
    """Bytes of '512MiB', '4 GiB' or a plain number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]iB|B|)\s*", str(text))
    if not match:
        raise ValueError(f"{shown(text)} is not a size: write bytes or 512KiB, 512MiB, 4GiB")
    return int(float(match[1]) * _SIZES[match[2]])


def format_size(size: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= _SIZES[unit]:
            return f"{size / _SIZES[unit]:.4g}{unit}"
    return f"{size}B"


@dataclass(frozen=True)
class Rate:
    """So many messages per unit of time (s, min, h or day)."""

    count: int
    unit: str

    @property
    def per_second(self) -> float:
        return self.count / _INTERVALS[self.unit]

    def __str__(self) -> str:
        return f"{self.count}/{self.unit}"


def parse_rate(text: Any) -> Rate:
    match = _RATE.fullmatch(str(text))
    if not match or not int(match[1]):
        raise ValueError(f"{shown(text)} is not a rate: write 10/s, 600/min, 1000/h or 5000/day")
    return Rate(int(match[1]), match[2])
