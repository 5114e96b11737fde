"""Does a trunk serve better? Its readout learns the training rows and answers the held-out ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgecc.learn.readout import (
    Features,
    Floats,
    Readout,
    best_alpha,
    best_temperature,
    least_alpha,
    scores,
    squared_errors,
    to_integers,
)
from edgecc.learn.readout_extension import Fit, confirmed_share, effective_rows, extend
from edgecc.training.dataset import Rows
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.trunk import Trunk

_REPORT_EVERY = 1000  # rows

# Few rows are held out where rows were evicted: their scores tell more than how many are right.
By = Literal["accuracy", "error"]


@dataclass(frozen=True)
class Answers:
    """What a readout says to the held-out rows, with the penalty that does best on them."""

    accuracy: float
    alpha: float
    temperature: float
    errors: Floats  # squared error of each row's scores (n,), before classes are corrected for

    @staticmethod
    def of(readout: Readout, held: Features, labels: Sequence[str], by: By) -> "Answers":
        best = best_alpha if by == "accuracy" else least_alpha
        alpha, accuracy, values = best(readout, held, labels)
        targets = np.array([readout.classes.index(label) for label in labels], np.int64)
        return Answers(
            accuracy, alpha, best_temperature(values, targets),
            squared_errors(readout, values, labels))

    def gain_over(self, other: "Answers") -> tuple[float, float]:
        """Mean squared error less than the other's, and the standard error of that."""
        gain = other.errors - self.errors
        if len(gain) < 2:
            return 0.0, float("inf")
        return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))


@dataclass(frozen=True)
class Judged:
    """What a trunk said to the held-out rows, and its readout once it has learnt those too."""

    answers: Answers
    readout: Readout
    before: Readout  # without the rows that judge
    held: NDArray[np.float32]  # features of the rows that judge (n, dim): whole, so exact
    labels: list[str]  # of the rows that judge
    by: By  # what is best

    def answers_of_first(self, dim: int) -> Answers:
        """Had the trunk only its first `dim` features."""
        return Answers.of(self.before.prefix(dim), self.held[:, :dim], self.labels, self.by)

    def first(self, dim: int) -> "Judged":
        """The same for a trunk that has only the first `dim` features."""
        if dim == self.readout.dim:
            return self
        return _judged(
            self.readout.prefix(dim), self.before.prefix(dim), self.held[:, :dim], self.labels,
            self.by)


def judge(trunk: Trunk, rows: Rows, report: Callable[[int], None]) -> Judged:
    """Learn the training rows, answer the held-out ones, then learn those as well."""
    readout, held = Readout(trunk.dim, list(rows.classes)), _held(trunk, rows)
    for features, position, judges in _features(trunk, rows, report):
        if judges is not None:
            held[judges] = features
        else:
            target = rows.targets[position]
            readout.learn(features, rows.classes[target], weight=rows.weights[target])
    before = readout.copy()
    for one, target in zip(held, rows.targets[rows.judging], strict=True):
        readout.learn(one, rows.classes[target], weight=rows.weights[target])
    return _judged(readout, before, held, rows.judges, "accuracy")


def judge_extended(
    trunk: Trunk, rows: Rows, sums: Readout, dim: int, report: Callable[[int], None]
) -> Judged:
    """The same where rows were evicted: `sums` knows all of them by the stem's `dim` features.

    Those are kept as they are; what the blocks make of an evicted row is estimated on the training
    rows, and believed as far as the held-out ones bear it out.
    """
    gone = sums.prefix(dim)
    gone.arrange(rows.classes)
    stored, sample = (Readout(trunk.dim, list(gone.classes)) for _ in range(2))
    weights, count = _standing_for(gone.counts, rows)
    held = _held(trunk, rows)
    for features, position, judges in _features(trunk, rows, report):
        target = rows.targets[position]
        label = rows.classes[target]
        gone.unlearn(features[:dim], label)
        if judges is not None:
            held[judges] = features
        else:
            stored.learn(features, label)
            sample.learn(features, label, weight=weights[target])
    fit = Fit.of(sample, dim, rows=count)
    del sample  # matrices, which memory is planned without
    signal = extend(stored, gone, fit)
    del fit
    share = confirmed_share(stored, signal, held, rows.judges)
    stored.B[:, dim + 1 :] += np.rint(share * signal)
    readout = stored.copy()
    for one, label in zip(held, rows.judges, strict=True):
        readout.learn(one, label)
    return _judged(readout, stored, held, rows.judges, "error")


def _standing_for(counts: Floats, rows: Rows) -> tuple[Floats, float]:
    """How many evicted rows each training row stands for, by class, where `counts` are known; and
    as how many rows of one weight they count."""
    size = len(rows.classes)
    training = np.bincount(np.delete(rows.targets, rows.judging), minlength=size)
    missing = counts[:size] - np.bincount(rows.targets, minlength=size)
    weights = np.maximum(missing, 0.0) / np.maximum(training, 1)
    return weights, effective_rows(weights, training)


def answers_of_known(trunk: Trunk, rows: Rows, sums: Readout) -> Answers:
    """Of `sums`, which know every row by this trunk's features, once without those that judge."""
    run, before, held = Interpreter(trunk.compile()).run, sums.copy(), _held(trunk, rows)
    for i, position in enumerate(rows.judging):
        held[i] = to_integers(run(trunk.scale(rows.read(int(position)))))
        before.unlearn(held[i], rows.judges[i])
    return Answers.of(before, held, rows.judges, "error")


def _held(trunk: Trunk, rows: Rows) -> NDArray[np.float32]:
    return np.zeros((len(rows.judging), trunk.dim), np.float32)


def _features(
    trunk: Trunk, rows: Rows, report: Callable[[int], None]
) -> Iterator[tuple[Features, int, int | None]]:
    """Whole-number features of each row, its position, and its place among those that judge."""
    run = Interpreter(trunk.compile()).run
    place = {int(position): i for i, position in enumerate(rows.judging)}
    for position in range(len(rows)):
        yield to_integers(run(trunk.scale(rows.read(position)))), position, place.get(position)
        if position % _REPORT_EVERY == 0:
            report(position)


def _judged(
    readout: Readout, before: Readout, held: NDArray[np.float32], labels: list[str], by: By
) -> Judged:
    return Judged(Answers.of(before, held, labels, by), readout, before, held, labels, by)


def int8_agreement(trunk: Trunk, rows: Rows, judged: Judged) -> float:
    """Share of held-out rows on which int8 and float32 features name the same class."""
    if not len(judged.held):
        return 1.0
    run = Interpreter(replace(trunk, ranges=None).compile()).run
    weights = judged.before.weights(judged.answers.alpha)
    same = 0
    for position, features in zip(rows.judging, judged.held, strict=True):
        exact = to_integers(run(trunk.scale(rows.read(int(position)))))
        same += scores(weights, exact).argmax() == scores(weights, features).argmax()
    return float(same / len(judged.held))
