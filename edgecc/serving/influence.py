"""What the samples of a request had a part in: growths, readouts, the scale of a sensor's input.

A generation's trunk was trained on rows labelled where its growth started, held-out rows among
them judged it and set penalty and temperature, and its readout has learnt up to its own cursor.
"""

import math
from collections.abc import Iterator
from typing import Any

from edgecc.checkpoint import generation
from edgecc.checkpoint.manifest import Manifest
from edgecc.serving.generations import SCALED_ON, Serving
from edgecc.store import meta
from edgecc.store.writer import Store

Plan = dict[str, Any]


class Influence:
    def __init__(self, store: Store, serving: Serving, *, sensor: bool) -> None:
        self._store, self._serving, self._sensor = store, serving, sensor

    def generations(self) -> Iterator[Manifest]:
        """All on disk that can be read, oldest first."""
        for number in generation.numbers(self._serving.folder):
            manifest = generation.unsigned(self._serving.path(number))
            if manifest is not None:
                yield manifest

    def of(self, number: int, *, deep: bool) -> Plan:
        """Of request `number`: where its samples were learnt first, and what was scaled on them."""
        erasure = self._store.erasure
        row = erasure.first_row(number, deep=deep)
        return {
            "first": erasure.first(number, deep=deep), "mark": self._store.last_label(),
            "scaled": None if row is None else self._scaled(row), "deep": deep,
        }

    def _scaled(self, row: int) -> int | None:
        """The least number of first windows, with `row` among them, that the scale was taken of."""
        through = {count: self._store.meta(meta.scaled_on(count)) for count in SCALED_ON}
        return next((n for n in SCALED_ON if self._sensor and row <= through[n]), None)

    def parts(self, number: int, plan: Plan) -> dict[str, list[int]]:
        """Generations on disk by the part that the samples had in them."""
        found: dict[str, list[int]] = {"trained": [], "judged": [], "readout": [], "scaled": []}
        for manifest in self.generations():
            start = self._store.growth_cursor(manifest.growth)
            trained, judged = self._drawn(number, start, plan) if manifest.growth else (0, 0)
            parts = {
                "trained": trained, "judged": judged,
                "readout": sum(self._drawn(number, manifest.cursor, plan)),
                "scaled": _scaled_with(manifest, plan["scaled"]),
            }
            for part, count in parts.items():
                if count:
                    found[part].append(manifest.number)
        return found

    def _drawn(self, number: int, cursor: int, plan: Plan) -> tuple[int, int]:
        return self._store.erasure.drawn(number, cursor, deep=plan["deep"])


def untouched(manifest: Manifest, plan: Plan) -> bool:
    """True for a generation that none of the samples had a part in, not even in judging it."""
    first = math.inf if plan["first"] is None else plan["first"]
    return manifest.cursor < first and not _scaled_with(manifest, plan["scaled"])


def _scaled_with(manifest: Manifest, count: int | None) -> bool:
    """True where the scale of its input may have been taken of `count` windows or more."""
    if count is None:
        return False
    return bool(manifest.growth) or int(manifest.recipe["scaled_on"]) >= count
