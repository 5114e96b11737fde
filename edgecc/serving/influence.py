"""Where the samples of a request left traces: growths, readouts, the scale of a sensor's input.

A generation's trunk was trained on rows labelled where its growth started; held-out rows among
them evaluated it and set ridge strength and temperature; its readout has learnt up to its cursor.
"""

import math
from collections.abc import Iterator
from functools import partial

from edgecc.checkpoint.manifest import Manifest
from edgecc.serving.generations import Generations
from edgecc.serving.stems import SCALED_ON
from edgecc.store import meta
from edgecc.store.requests import Traces, Uses
from edgecc.store.writer import Store


class Influence:
    def __init__(self, store: Store, generations: Generations, *, sensor: bool) -> None:
        self._store, self._generations, self._sensor = store, generations, sensor

    def of(self, number: int, *, deep: bool) -> Traces:
        """Of request `number`: where its samples were learnt first, and what was scaled on them."""
        erasure = self._store.erasure
        row = erasure.first_row(number, deep=deep)
        return Traces(
            first=erasure.first(number, deep=deep), mark=self._store.last_label(),
            scaled=None if row is None else self._scaled(row), deep=deep)

    def _scaled(self, row: int) -> int | None:
        """The least of SCALED_ON whose windows include `row`."""
        through = {count: self._store.meta(meta.scaled_on(count)) for count in SCALED_ON}
        return next((n for n in SCALED_ON if self._sensor and row <= through[n]), None)

    def uses(self, number: int, traces: Traces) -> Uses:
        """Generations on disk by what they used the samples of request `number` for."""
        uses, drawn = Uses(), partial(self._store.erasure.drawn, number, deep=traces.deep)
        for manifest in self._generations.manifests():
            start = self._store.growths.cursor(manifest.growth)
            trained, evaluated = drawn(start) if manifest.growth else (0, 0)
            for used, generations in (
                (trained, uses.trained), (evaluated, uses.evaluated),
                (sum(drawn(manifest.cursor)), uses.readout),
                (_scaled_on(manifest, traces), uses.scaled),
            ):
                if used:
                    generations.append(manifest.number)
        return uses

    def untouched(self, traces: Traces) -> Iterator[Manifest]:
        """Generations on disk that used none of the samples."""
        return (one for one in self._generations.manifests() if not _touched(one, traces))

    def touched(self, traces: Traces) -> set[int]:
        """Numbers of the generations on disk that used some of them."""
        return {one.number for one in self._generations.manifests() if _touched(one, traces)}


def _touched(manifest: Manifest, traces: Traces) -> bool:
    first = math.inf if traces.first is None else traces.first
    return manifest.cursor >= first or _scaled_on(manifest, traces)


def _scaled_on(manifest: Manifest, traces: Traces) -> bool:
    """True if the input's scale may have been measured on one of the samples."""
    if traces.scaled is None:
        return False
    return bool(manifest.growth) or int(manifest.recipe["scaled_on"]) >= traces.scaled
