"""Has the world changed? ADWIN on the errors of predictions that were made before their labels.

A window of the past that shrinks when two parts of it differ by more than chance. Only a rise of
the error is a drift: a learner that improves is none.

Source: Bifet, Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007
(ADWIN2).
"""

import json
import math
from dataclasses import dataclass

_SAME_SIZE = 5  # buckets of one size; the paper's M
_LOOK_EVERY = 32  # labels
_SHORTEST = 5  # labels on either side of a split


@dataclass(frozen=True)
class Drift:
    """Error rates of the past that was dropped and of the window that was kept; their labels."""

    before: float
    after: float
    dropped: int
    kept: int


class Adwin:
    """Buckets [labels, errors], oldest first; sizes are powers of two, larger ones are older."""

    def __init__(self, *, delta: float, state: str | None = None) -> None:
        self._delta = delta
        self._seen, self._buckets = 0, list[list[int]]()
        if state is not None:
            self._seen, self._buckets = json.loads(state)

    def add(self, error: bool) -> Drift | None:
        """One more label; the drift, where the error has risen."""
        self._buckets.append([1, int(error)])
        self._merge()
        self._seen += 1
        return self._look() if self._seen % _LOOK_EVERY == 0 else None

    def state(self) -> str:
        return json.dumps([self._seen, self._buckets])

    def _merge(self) -> None:
        """Of a size with too many buckets, the two oldest become one."""
        end = len(self._buckets)
        while end > 0:
            size, start = self._buckets[end - 1][0], end
            while start > 0 and self._buckets[start - 1][0] == size:
                start -= 1
            if end - start <= _SAME_SIZE:
                return
            first, second = self._buckets[start : start + 2]
            self._buckets[start : start + 2] = [[2 * size, first[1] + second[1]]]
            end = start + 1

    def _look(self) -> Drift | None:
        gone, wrong = 0, 0
        while self._differs():
            size, errors = self._buckets.pop(0)
            gone, wrong = gone + size, wrong + errors
        kept, still = self._sums()
        if not gone or wrong / gone >= still / kept:
            return None
        return Drift(before=wrong / gone, after=still / kept, dropped=gone, kept=kept)

    def _sums(self) -> tuple[int, int]:
        return sum(size for size, _ in self._buckets), sum(errors for _, errors in self._buckets)

    def _differs(self) -> bool:
        """True where some split has means further apart than ε_cut."""
        n, errors = self._sums()
        variance, old, wrong = errors / n * (1 - errors / n), 0, 0
        likely = math.log(2 * math.log(max(n, 3)) / self._delta)
        for size, here in self._buckets[:-1]:
            old, wrong = old + size, wrong + here
            new = n - old
            if old < _SHORTEST or new < _SHORTEST:
                continue
            m = 1 / (1 / old + 1 / new)
            epsilon = math.sqrt(2 / m * variance * likely) + 2 / (3 * m) * likely
            if abs(wrong / old - (errors - wrong) / new) > epsilon:
                return True
        return False
