"""Test-then-train accuracy: each prediction is scored when its label comes, before learning it."""

from collections import deque
from collections.abc import Iterable

WINDOW = 1000  # newest labelled predictions
FADING = 0.999  # weight of the past in the fading accuracy


class Prequential:
    """Cumulative, windowed and fading accuracy of predictions made before their labels."""

    def __init__(self, *, right: int = 0, total: int = 0, newest: Iterable[int] = ()) -> None:
        self._window = deque(newest, maxlen=WINDOW)
        self._right, self._total = right, total
        self._fading = [0.0, 0.0]
        for hit in self._window:
            self._fade(hit)

    def score(self, hit: bool) -> None:
        self._window.append(int(hit))
        self._right += hit
        self._total += 1
        self._fade(hit)

    def accuracies(self) -> dict[str, float | int]:
        """Fractions; nan-free: an empty history is left out."""
        if not self._total:
            return {"labelled_predictions": 0}
        return {
            "labelled_predictions": self._total,
            "cumulative": self._right / self._total,
            "window": sum(self._window) / len(self._window),
            "fading": self._fading[0] / self._fading[1],
        }

    def _fade(self, hit: int) -> None:
        self._fading[0] = FADING * self._fading[0] + hit
        self._fading[1] = FADING * self._fading[1] + 1
