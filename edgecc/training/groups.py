"""Accuracy where what belongs together is held out together: whole sources in turn, or runs of one.

Overlapping windows and consecutive frames resemble each other, so samples that are held out one by
one are answered better than those of a new person or another day. Only the readout learns without
a group here; blocks were trained on all of them. Sums are integers, so it comes back bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecc.learn.readout import Features, Readout, scores

FOLDS = 10  # groups are dealt to so many, and a fold is held out at a time
_SOURCES = 3  # at least: from fewer, what is left would be too little to learn from
_RUN_ROWS = 200  # at most, so that one endless recording is not one run
_RUN_GAP = 5.0  # a run ends where `ts` jumps by so many times its usual step ...
_RUN_PAUSE = 1.0  # ... and by so many seconds
_ROWS_A_RUN = 4.0  # on average; where runs are shorter, samples stand alone

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Which labelled rows are held out together."""

    by: Literal["source", "run"]
    folds: Integers  # (n,) 0 to FOLDS - 1
    counted: NDArray[np.bool_]  # (n,) rows whose class other folds have too

    @staticmethod
    def of(targets: Integers, sources: Integers, times: NDArray[Any]) -> "Groups | None":
        """Of rows in order of arrival: their classes, numbers of their sources, `ts` in seconds.

        By source, where at least three have classes in common; else by run; None where neither
        says more than single samples do.
        """
        folds = sources % FOLDS
        counted = _shared(folds, targets)
        if len(np.unique(sources[counted])) >= _SOURCES:
            return Groups("source", folds, counted)
        folds, runs = _runs(targets, sources, times)
        counted = _shared(folds, targets)
        if len(targets) < _ROWS_A_RUN * runs or not counted.any():
            return None
        return Groups("run", folds, counted)

    def accuracy(
        self, readout: Readout, features: Callable[[int], Features], labels: Callable[[int], str],
        alpha: float,
    ) -> float:
        """The share of counted rows that `readout`, which knows all rows, gets right while it has
        unlearnt their fold. features, labels: of the row at a position."""
        right = 0
        for fold in range(FOLDS):
            rows = np.flatnonzero(self.folds == fold).tolist()
            if not self.counted[rows].any():
                continue
            for row in rows:
                readout.unlearn(features(row), labels(row))
            weights = readout.weights(alpha)
            for row in rows:
                f, label = features(row), labels(row)
                named = readout.classes[int(scores(weights, f).argmax())]
                right += bool(self.counted[row]) and named == label
                readout.learn(f, label)
        return right / int(self.counted.sum())


def _shared(folds: Integers, targets: Integers) -> NDArray[np.bool_]:
    """Rows whose class is in more than one fold."""
    pairs = np.unique(targets * FOLDS + folds)
    return np.asarray(np.bincount(pairs // FOLDS)[targets] > 1)


@dataclass
class _Run:
    fold: int
    target: int
    first: float
    last: float
    rows: int = 1

    def takes(self, target: int, ts: float) -> bool:
        if target != self.target or self.rows == _RUN_ROWS:
            return False
        usual = (self.last - self.first) / max(1, self.rows - 1)
        return self.rows == 1 or abs(ts - self.last) <= max(_RUN_GAP * usual, _RUN_PAUSE)

    def add(self, ts: float) -> None:
        self.last, self.rows = ts, self.rows + 1


def _runs(
    targets: Integers, sources: Integers, times: NDArray[Any]
) -> tuple[Integers, int]:
    """Folds of rows, and how many runs there are.

    A class's runs are dealt to the folds in turn, each class from another fold on: then most
    classes keep most of their runs while a fold is held out.
    """
    folds, dealt, newest = np.zeros_like(targets), dict[int, int](), dict[int, _Run]()
    for row, (target, source, ts) in enumerate(
            zip(targets.tolist(), sources.tolist(), times.tolist(), strict=True)):
        run = newest.get(source)
        if run is not None and run.takes(target, ts):
            run.add(ts)
        else:
            dealt[target] = dealt.get(target, -1) + 1
            run = newest[source] = _Run((dealt[target] + target) % FOLDS, target, ts, ts)
        folds[row] = run.fold
    return folds, sum(dealt.values()) + len(dealt)
