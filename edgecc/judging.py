"""Does a trunk serve better? Its readout learns the training rows and answers the held-out ones."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecc.interpreter import Interpreter
from edgecc.learn.readout import (
    Readout,
    best_alpha,
    best_temperature,
    scores,
    to_whole,
)
from edgecc.rows import Rows
from edgecc.trunk import Trunk

_REPORT_EVERY = 1000  # rows


@dataclass(frozen=True)
class Judged:
    """How a trunk did on the held-out rows, and its readout once it has learnt those too."""

    accuracy: float
    alpha: float
    temperature: float
    readout: Readout
    before: Readout  # without the rows that judge
    held: NDArray[np.float32]  # features of the rows that judge (n, dim): whole, so exact
    labels: list[str]  # of the rows that judge

    def accuracy_of_first(self, dim: int) -> float:
        """Had the trunk only its first `dim` features."""
        return best_alpha(self.before.prefix(dim), self.held[:, :dim], self.labels)[1]

    def first(self, dim: int) -> "Judged":
        """The same for a trunk that has only the first `dim` features."""
        if dim == self.readout.dim:
            return self
        return _judged(
            self.readout.prefix(dim), self.before.prefix(dim), self.held[:, :dim], self.labels)


def judge(trunk: Trunk, rows: Rows, report: Callable[[int], None]) -> Judged:
    """Learn the training rows, answer the held-out ones, then learn those as well."""
    run = Interpreter(trunk.compile()).run
    readout, judges = Readout(trunk.dim, list(rows.classes)), rows.judging
    held = np.zeros((len(judges), trunk.dim), np.float32)
    place = {int(position): i for i, position in enumerate(judges)}
    for position, target in enumerate(rows.targets):
        features = to_whole(run(trunk.scale(rows.read(position))))
        if position in place:
            held[place[position]] = features
        else:
            readout.learn(features, rows.classes[target], weight=rows.weights[target])
        if position % _REPORT_EVERY == 0:
            report(position)
    labels = [rows.classes[target] for target in rows.targets[judges]]
    before = readout.copy()
    for one, target in zip(held, rows.targets[judges], strict=True):
        readout.learn(one, rows.classes[target], weight=rows.weights[target])
    return _judged(readout, before, held, labels)


def _judged(
    readout: Readout, before: Readout, held: NDArray[np.float32], labels: list[str]
) -> Judged:
    alpha, accuracy, values = best_alpha(before, held, labels)
    targets = np.array([before.classes.index(label) for label in labels], np.int64)
    return Judged(
        accuracy, alpha, best_temperature(values, targets), readout, before, held, labels)


def int8_agreement(trunk: Trunk, rows: Rows, judged: Judged) -> float:
    """Share of held-out rows on which int8 and float32 features name the same class."""
    if not len(judged.held):
        return 1.0
    run = Interpreter(replace(trunk, ranges=None).compile()).run
    weights = judged.before.weights(judged.alpha)
    same = 0
    for position, features in zip(rows.judging, judged.held, strict=True):
        exact = to_whole(run(trunk.scale(rows.read(int(position)))))
        same += scores(weights, exact).argmax() == scores(weights, features).argmax()
    return float(same / len(judged.held))
