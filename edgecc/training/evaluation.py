"""Evaluates a trunk: its readout learns the training rows and predicts the validation set."""

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
_INT8_AGREEMENT = 0.95  # share of held-out samples; below it the trunk stays float32

# Where rows were evicted the validation set is small: squared errors say more than accuracy.
By = Literal["accuracy", "error"]


@dataclass(frozen=True)
class Answers:
    """How a readout does on the validation set, with the ridge strength that does best there."""

    accuracy: float
    alpha: float
    temperature: float
    errors: Floats  # (n,) squared error of each row's scores, before the correction for priors

    @staticmethod
    def of(readout: Readout, held: Features, labels: Sequence[str], by: By) -> "Answers":
        best = best_alpha if by == "accuracy" else least_alpha
        alpha, accuracy, values = best(readout, held, labels)
        targets = np.array([readout.classes.index(label) for label in labels], np.int64)
        return Answers(
            accuracy, alpha, best_temperature(values, targets),
            squared_errors(readout, values, labels))

    def gain_over(self, other: "Answers") -> tuple[float, float]:
        """By how much the mean squared error is lower than the other's, and its standard error."""
        gain = other.errors - self.errors
        if len(gain) < 2:
            return 0.0, float("inf")
        return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))


@dataclass(frozen=True)
class Evaluation:
    """A trunk's answers on the validation set, and its readout with and without that set."""

    answers: Answers
    readout: Readout  # knows the validation set too
    before: Readout  # does not
    held: NDArray[np.float32]  # (n, dim) integer features of the validation set
    labels: list[str]  # of the validation set
    by: By  # what the best ridge strength is chosen by

    @staticmethod
    def of(
        readout: Readout, before: Readout, held: NDArray[np.float32], labels: list[str], by: By
    ) -> "Evaluation":
        return Evaluation(Answers.of(before, held, labels, by), readout, before, held, labels, by)

    def answers_of_first(self, dim: int) -> Answers:
        """The answers of a trunk that has only the first `dim` features."""
        return Answers.of(self.before.prefix(dim), self.held[:, :dim], self.labels, self.by)

    def first(self, dim: int) -> "Evaluation":
        """The evaluation of a trunk that has only the first `dim` features."""
        if dim == self.readout.dim:
            return self
        return Evaluation.of(
            self.readout.prefix(dim), self.before.prefix(dim), self.held[:, :dim], self.labels,
            self.by)


class Evaluator:
    """Evaluates trunks on the same rows, and compares them: by accuracy, or by squared errors where
    rows were evicted."""

    def __init__(self, rows: Rows, sums: Readout | None, report: Callable[..., None]) -> None:
        """sums: where rows were evicted, a readout of them all by the stem's features, and what
        serves by its own. report: called with the phase, `blocks`, and `step` of `steps`."""
        self._rows, self._sums, self._report = rows, sums, report

    def evaluate(self, trunk: Trunk) -> Evaluation:
        def report(row: int) -> None:
            self._report(
                "evaluating", blocks=len(trunk.layers) - 1, step=row, steps=len(self._rows))

        if self._sums is None:
            return evaluate(trunk, self._rows, report)
        return evaluate_extended(trunk, self._rows, self._sums, trunk.first(0).dim, report)

    def serving(self, trunk: Trunk) -> Answers:
        """The answers of what serves, on its `trunk`."""
        if self._sums is None:
            return self.evaluate(trunk).answers
        return answers_of_known(trunk, self._rows, self._sums)

    def in_int8(self, trunk: Trunk) -> tuple[Trunk, Evaluation, float]:
        """The trunk in int8, or in float32 where the two disagree too often; and the agreement.

        Where rows were evicted the trunk keeps the type of its stem, which cannot change any more.
        """
        evaluation, agreement = self.evaluate(trunk), 1.0
        if trunk.ranges is not None:
            agreement = int8_agreement(trunk, self._rows, evaluation)
        if agreement < _INT8_AGREEMENT and self._sums is None:
            trunk = replace(trunk, ranges=None)
            evaluation = self.evaluate(trunk)
        return trunk, evaluation, agreement

    def worth(self, answers: Answers) -> float:
        """What numbers of blocks are compared by."""
        return answers.accuracy if self._sums is None else -float(answers.errors.sum())

    def beats(self, answers: Answers, serving: Answers) -> bool:
        """Higher accuracy; where rows were evicted, a gain of more than two standard errors."""
        if self._sums is None:
            return answers.accuracy > serving.accuracy
        gain, error = answers.gain_over(serving)
        return gain > 2 * error

    def gain(self, answers: Answers, serving: Answers) -> dict[str, float]:
        """For the verdict, where rows were evicted: the gain and its standard error."""
        if self._sums is None:
            return {}
        gain, error = answers.gain_over(serving)
        return {"gain": gain, "gain_error": error}


def evaluate(trunk: Trunk, rows: Rows, report: Callable[[int], None]) -> Evaluation:
    """Learn the training rows, predict the validation set, then learn that as well."""
    readout, held = Readout(trunk.dim, list(rows.classes)), _held(trunk, rows)
    for features, position, place in _features(trunk, rows, report):
        if place is not None:
            held[place] = features
        else:
            target = rows.targets[position]
            readout.learn(features, rows.classes[target], weight=rows.weights[target])
    before = readout.copy()
    for one, target in zip(held, rows.targets[rows.validation], strict=True):
        readout.learn(one, rows.classes[target], weight=rows.weights[target])
    return Evaluation.of(readout, before, held, rows.validation_labels, "accuracy")


def evaluate_extended(
    trunk: Trunk, rows: Rows, sums: Readout, dim: int, report: Callable[[int], None]
) -> Evaluation:
    """Evaluate where rows were evicted: `sums` knows all rows by the stem's `dim` features.

    The sums of the stem's features stay as they are. What the blocks would make of an evicted row
    is estimated on the training rows, and used as far as the validation set confirms it.
    """
    gone = sums.prefix(dim)
    gone.arrange(rows.classes)
    stored, sample = (Readout(trunk.dim, list(gone.classes)) for _ in range(2))
    weights, count = _standing_for(gone.counts, rows)
    held = _held(trunk, rows)
    for features, position, place in _features(trunk, rows, report):
        target = rows.targets[position]
        label = rows.classes[target]
        gone.unlearn(features[:dim], label)
        if place is not None:
            held[place] = features
        else:
            stored.learn(features, label)
            sample.learn(features, label, weight=weights[target])
    fit = Fit.of(sample, dim, rows=count)
    del sample  # the memory plan has no room for its matrices beside the next ones
    signal = extend(stored, gone, fit)
    del fit
    share = confirmed_share(stored, signal, held, rows.validation_labels)
    stored.B[:, dim + 1 :] += np.rint(share * signal)
    readout = stored.copy()
    for one, label in zip(held, rows.validation_labels, strict=True):
        readout.learn(one, label)
    return Evaluation.of(readout, stored, held, rows.validation_labels, "error")


def _standing_for(counts: Floats, rows: Rows) -> tuple[Floats, float]:
    """How many evicted rows a training row of each class stands for, and the effective number of
    rows; `counts` are the samples ever learnt, by class."""
    size = len(rows.classes)
    training = np.bincount(np.delete(rows.targets, rows.validation), minlength=size)
    missing = counts[:size] - np.bincount(rows.targets, minlength=size)
    weights = np.maximum(missing, 0.0) / np.maximum(training, 1)
    return weights, effective_rows(weights, training)


def answers_of_known(trunk: Trunk, rows: Rows, sums: Readout) -> Answers:
    """The answers of `sums`, which knows every row by this trunk's features, without the
    validation set."""
    run, before, held = Interpreter(trunk.compile()).run, sums.copy(), _held(trunk, rows)
    for i, position in enumerate(rows.validation):
        held[i] = to_integers(run(trunk.scale(rows.read(int(position)))))
        before.unlearn(held[i], rows.validation_labels[i])
    return Answers.of(before, held, rows.validation_labels, "error")


def _held(trunk: Trunk, rows: Rows) -> NDArray[np.float32]:
    return np.zeros((len(rows.validation), trunk.dim), np.float32)


def _features(
    trunk: Trunk, rows: Rows, report: Callable[[int], None]
) -> Iterator[tuple[Features, int, int | None]]:
    """Integer features of each row, its position, and its place in the validation set or None."""
    run = Interpreter(trunk.compile()).run
    place = {int(position): i for i, position in enumerate(rows.validation)}
    for position in range(len(rows)):
        yield to_integers(run(trunk.scale(rows.read(position)))), position, place.get(position)
        if position % _REPORT_EVERY == 0:
            report(position)


def int8_agreement(trunk: Trunk, rows: Rows, evaluation: Evaluation) -> float:
    """Share of the validation set on which int8 and float32 features predict the same class."""
    if not len(evaluation.held):
        return 1.0
    run = Interpreter(replace(trunk, ranges=None).compile()).run
    weights = evaluation.before.weights(evaluation.answers.alpha)
    same = 0
    for position, features in zip(rows.validation, evaluation.held, strict=True):
        exact = to_integers(run(trunk.scale(rows.read(int(position)))))
        same += scores(weights, exact).argmax() == scores(weights, features).argmax()
    return float(same / len(evaluation.held))
