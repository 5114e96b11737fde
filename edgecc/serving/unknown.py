"""Which samples are of no class learnt: those further out than right answers lie.

The bound is a quantile of the distances of the newest right answers, each predicted before its
label was learnt. It is there as soon as labels come, and belongs to one generation.
"""

from collections import deque

import numpy as np

WINDOW = 200  # newest right answers: while a readout is young, older ones lay further out
_ENOUGH = 50  # below which nothing is called unknown


class Unknown:
    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._generation = -1
        self._distances: deque[float] = deque(maxlen=WINDOW)
        self._far: float | None = None  # the bound; None: to be computed

    def note(self, generation: int, distance: float) -> None:
        """A prediction of the generation that serves turned out right."""
        if generation != self._generation:
            self._generation = generation
            self._distances.clear()
        self._distances.append(distance)
        self._far = None

    def far(self, generation: int) -> float:
        """The distance beyond which an answer is called unknown."""
        if generation != self._generation or len(self._distances) < _ENOUGH or not self._rate:
            return float("inf")
        if self._far is None:
            self._far = float(np.quantile(self._distances, 1 - self._rate))
        return self._far
