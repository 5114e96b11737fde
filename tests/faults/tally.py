"""Counts over the whole run of the suite, as a table for people and figures for machines."""

import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecc.bench import figures

FIGURES = Path("faults/figures.json")


@dataclass
class Tally:
    kills: Counter[str] = field(default_factory=Counter)  # by process and point
    faults: Counter[str] = field(default_factory=Counter)  # everything else, by kind
    messages: int = 0
    malformed: int = 0
    lost: int = 0
    duplicated: int = 0
    broken: int = 0
    generations: int = 0
    growth: float | None = None  # MiB by which the daemon grew under malformed messages
    recoveries: list[float] = field(default_factory=list)  # s, SIGKILL to the first prediction

    def figures(self) -> dict[str, Any]:
        return {
            "kills": self.kills.total(), "kills_by_point": dict(sorted(self.kills.items())),
            "faults": self.faults.total(), "faults_by_kind": dict(sorted(self.faults.items())),
            "messages": self.messages, "generations": self.generations,
            "lost": self.lost, "duplicated": self.duplicated, "broken": self.broken,
            "malformed": self.malformed, "growth_mib": self.growth,
            "recovery_s": max(self.recoveries, default=None),
            "recovery_median_s": statistics.median(self.recoveries) if self.recoveries else None,
        }

    def write(self) -> None:
        figures.write(FIGURES, "faults", self.figures())

    def table(self) -> list[str]:
        figures = self.figures()
        rows: list[tuple[str, Any]] = [("kills", figures["kills"])]
        rows += [(f"  {name}", count) for name, count in figures["kills_by_point"].items()]
        rows += [("faults", figures["faults"])]
        rows += [(f"  {name}", count) for name, count in figures["faults_by_kind"].items()]
        rows += [(name, figures[name]) for name in (
            "messages", "generations", "malformed", "lost", "duplicated", "broken", "growth_mib",
            "recovery_s", "recovery_median_s")]
        return [f"{name:<40}{_shown(value):>10}" for name, value in rows]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"
