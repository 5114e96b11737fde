"""Evaluates a trunk: its readout learns the training rows and predicts the validation set.

Where rows were evicted the validation set is small. There trunks are compared by squared errors,
which say more than accuracy does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgecc.learn.readout import (
    By,
    Features,
    Floats,
    Readout,
    best_alpha,
    best_temperature,
    scores,
    squared_errors,
)
from edgecc.learn.readout_extension import Fit, confirmed_share, effective_rows, extend
from edgecc.training.dataset import Rows
from edgecc.trunk.trunk import Trunk

_REPORT_EVERY = 1000  # rows
_INT8_AGREEMENT = 0.95  # share of held-out samples; below it the trunk stays float32


@dataclass(frozen=True)
class Answers:
    """How a readout does on the validation set, with the ridge strength that does best there."""

    accuracy: float
    alpha: float
    temperature: float
    errors: Floats  # (n,) squared error of each row's scores, before the correction for priors

    def gain_over(self, other: "Answers") -> tuple[float, float]:
        """By how much the mean squared error is lower than the other's, and its standard error."""
        gain = other.errors - self.errors
        if len(gain) < 2:
            return 0.0, float("inf")
        return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))


@dataclass(frozen=True)
class Evaluation:
    """A trunk's readout of the training rows, and the validation set that it answers."""

    before: Readout  # does not know the validation set
    held: NDArray[np.float32]  # (n, dim) integer features of the validation set
    labels: list[str]  # of the validation set
    weights: Floats  # (n,) with which the validation set is learnt
    by: By  # what the best ridge strength is chosen by

    @cached_property
    def answers(self) -> Answers:
        alpha, accuracy, values = best_alpha(self.before, self.held, self.labels, by=self.by)
        targets = np.array([self.before.classes.index(label) for label in self.labels], np.int64)
        errors = squared_errors(self.before, values, self.labels)
        return Answers(accuracy, alpha, best_temperature(values, targets), errors)

    @cached_property
    def readout(self) -> Readout:
        """The readout that serves: it knows the validation set too."""
        readout = self.before.copy()
        for features, label, weight in zip(self.held, self.labels, self.weights, strict=True):
            readout.learn(features, label, weight=weight)
        return readout

    def first(self, dim: int) -> "Evaluation":
        """The evaluation of a trunk that has only the first `dim` features."""
        if dim == self.before.dim:
            return self
        return replace(self, before=self.before.prefix(dim), held=self.held[:, :dim])


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
        return evaluate_known(trunk, self._rows, self._sums).answers

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

    def by_group(self, trunk: Trunk, readout: Readout | None, alpha: float) -> dict[str, float]:
        """The accuracy of `trunk` where whole groups are held out, by the name of its kind; empty
        without groups, or where rows were evicted. readout: of all rows, where it is at hand."""
        rows = self._rows
        if rows.groups is None or self._sums is not None or (rows.weights != 1).any():
            return {}
        if readout is None:
            readout = self.evaluate(trunk).readout
        accuracy = rows.groups.accuracy(
            readout, rows.features(trunk), lambda row: rows.classes[rows.targets[row]], alpha)
        return {f"held_out_by_{rows.groups.by}": accuracy}

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
    """Learn the training rows; the validation set is left for the answers."""
    readout, held = Readout(trunk.dim, list(rows.classes)), _held(trunk, rows)
    for features, target, place in _features(trunk, rows, report):
        if place is None:
            readout.learn(features, rows.classes[target], weight=rows.weights[target])
        else:
            held[place] = features
    weights = rows.weights[rows.targets[rows.validation]]
    return Evaluation(readout, held, rows.validation_labels, weights, "accuracy")


def evaluate_extended(
    trunk: Trunk, rows: Rows, sums: Readout, dim: int, report: Callable[[int], None]
) -> Evaluation:
    """Evaluate where rows were evicted: `sums` knows all rows by the stem's `dim` features.

    The sums of the stem's features stay as they are. What the blocks would make of an evicted row
    is estimated on the training rows, and used as far as the validation set confirms it.
    """
    evicted, held = sums.prefix(dim), _held(trunk, rows)
    evicted.arrange(rows.classes)
    stored, sample = (Readout(trunk.dim, list(evicted.classes)) for _ in range(2))
    weights, count = _standing_for(evicted.counts, rows)
    for features, target, place in _features(trunk, rows, report):
        label = rows.classes[target]
        evicted.unlearn(features[:dim], label)
        if place is None:
            stored.learn(features, label)
            sample.learn(features, label, weight=weights[target])
        else:
            held[place] = features
    fit = Fit.of(sample, dim, rows=count)
    del sample  # the memory plan has no room for its matrices beside the next ones
    signal = extend(stored, evicted, fit)
    del fit
    share = confirmed_share(stored, signal, held, rows.validation_labels)
    stored.B[:, dim + 1 :] += np.rint(share * signal)
    return Evaluation(stored, held, rows.validation_labels, np.ones(len(held)), "error")


def _standing_for(counts: Floats, rows: Rows) -> tuple[Floats, float]:
    """How many evicted rows a training row of each class stands for, and the effective number of
    rows; `counts` are the samples ever learnt, by class."""
    size = len(rows.classes)
    training = np.bincount(np.delete(rows.targets, rows.validation), minlength=size)
    missing = counts[:size] - np.bincount(rows.targets, minlength=size)
    weights = np.maximum(missing, 0.0) / np.maximum(training, 1)
    return weights, effective_rows(weights, training)


def evaluate_known(trunk: Trunk, rows: Rows, sums: Readout) -> Evaluation:
    """Evaluate what serves where rows were evicted: `sums` knows every row by its features."""
    features, before, held = rows.features(trunk), sums.copy(), _held(trunk, rows)
    for place, (position, label) in enumerate(
            zip(rows.validation, rows.validation_labels, strict=True)):
        held[place] = features(position)
        before.unlearn(held[place], label)
    return Evaluation(before, held, rows.validation_labels, np.ones(len(held)), "error")


def _held(trunk: Trunk, rows: Rows) -> NDArray[np.float32]:
    return np.zeros((len(rows.validation), trunk.dim), np.float32)


def _features(
    trunk: Trunk, rows: Rows, report: Callable[[int], None]
) -> Iterator[tuple[Features, int, int | None]]:
    """Integer features of each row, its class, and its place in the validation set or None."""
    features = rows.features(trunk)
    places = {int(position): place for place, position in enumerate(rows.validation)}
    for position, target in enumerate(rows.targets):
        yield features(position), target, places.get(position)
        if position % _REPORT_EVERY == 0:
            report(position)


def int8_agreement(trunk: Trunk, rows: Rows, evaluation: Evaluation) -> float:
    """Share of the validation set on which int8 and float32 features predict the same class."""
    if not len(evaluation.held):
        return 1.0
    exact = rows.features(replace(trunk, ranges=None))
    weights = evaluation.before.weights(evaluation.answers.alpha)
    return float(np.mean([
        scores(weights, exact(position)).argmax() == scores(weights, features).argmax()
        for position, features in zip(rows.validation, evaluation.held, strict=True)]))
