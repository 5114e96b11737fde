"""Held out by group: what stands together, and a figure that single samples would flatter."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecc.learn.readout import Features, Readout
from edgecc.training.groups import FOLDS, Groups

ALPHA, DIM = 1e-3, 40


def groups(targets: NDArray[np.int64], sources: NDArray[np.int64], step: float) -> Groups | None:
    return Groups.of(targets, sources, step * np.arange(len(targets)))


def test_sources_that_share_classes_stand_together() -> None:
    sources = np.repeat(np.arange(25), 8)
    made = groups(np.tile([0, 1], 100), sources, 1.0)
    assert made is not None
    assert made.by == "source"
    assert made.counted.all()
    assert len(np.unique(made.folds)) == FOLDS
    assert all(len(np.unique(made.folds[sources == source])) == 1 for source in range(25))


def test_a_class_that_one_source_alone_has_is_not_counted() -> None:
    sources, targets = np.repeat([0, 1, 2, 3], 20), np.repeat([0, 0, 0, 1], 20)
    made = groups(targets, sources, 1.0)
    assert made is not None
    assert made.by == "source"
    assert (made.counted == (targets == 0)).all()


def test_with_fewer_sources_runs_stand_together() -> None:
    targets = np.repeat([0, 1, 0, 1], 50)
    made = groups(targets, np.zeros(200, np.int64), 0.5)
    assert made is not None
    assert made.by == "run"
    assert made.folds.tolist() == [0] * 50 + [1] * 100 + [2] * 50
    assert made.counted.all()


def test_a_run_of_one_source_goes_on_while_another_sends() -> None:
    targets = np.tile([0, 1], 40)
    made = groups(targets, targets, 0.5)
    assert made is None  # one run of each class: neither can be held out
    made = Groups.of(targets, targets, np.where(np.arange(80) < 40, 0, 900) + np.arange(80) / 2)
    assert made is not None
    assert (made.folds == targets + (np.arange(80) >= 40)).all()


@pytest.mark.parametrize(("gap", "folds"), [(4.0, 1), (6.0, 2)])
def test_a_jump_in_time_ends_a_run(gap: float, folds: int) -> None:
    times = np.concatenate([np.arange(30.0), 29 + gap + np.arange(30.0)])
    made = Groups.of(np.zeros(60, np.int64), np.zeros(60, np.int64), times)
    assert (made is not None) == (folds == 2)
    assert made is None or made.folds.tolist() == [0] * 30 + [1] * 30


def test_an_endless_recording_is_several_runs() -> None:
    made = groups(np.zeros(500, np.int64), np.zeros(500, np.int64), 0.1)
    assert made is not None
    assert made.folds.tolist() == [0] * 200 + [1] * 200 + [2] * 100


def test_a_stream_in_random_order_has_no_groups() -> None:
    targets = np.random.default_rng(0).integers(10, size=1000)
    assert groups(targets, np.zeros(1000, np.int64), 0.1) is None
    assert groups(targets[:0], targets[:0], 0.1) is None


def persons(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features, classes and persons of 12, who differ more than the four classes do."""
    draw = np.random.default_rng(seed)
    classes = draw.normal(size=(4, DIM)) * 8
    own = draw.normal(size=(12, 4, DIM)) * 32
    person, target = np.repeat(np.arange(12), 60), np.tile(np.repeat(np.arange(4), 15), 12)
    noise = draw.normal(size=(720, DIM)) * 4
    return np.rint(classes[target] + own[person, target] + noise).astype(np.float32), target, person


def asked(
    x: NDArray[np.float32], targets: NDArray[np.int64]
) -> tuple[Readout, Callable[[int], Features], Callable[[int], str]]:
    readout = Readout(DIM)
    for features, target in zip(x, targets, strict=True):
        readout.learn(features, str(target))
    return readout, lambda row: x[row], lambda row: str(targets[row])


def test_the_figure_is_that_of_readouts_that_never_learnt_a_fold_and_leaves_no_trace() -> None:
    x, targets, person = persons(0)
    made = groups(targets, person, 1.0)
    assert made is not None
    readout, features, labels = asked(x, targets)
    before = [part.copy() for part in readout.sums()]
    figure = made.accuracy(readout, features, labels, ALPHA)
    assert all((a == b).all() for a, b in zip(before, readout.sums(), strict=True))
    right = 0
    for fold in range(FOLDS):
        out = made.folds == fold
        weights = asked(x[~out], targets[~out])[0].weights(ALPHA)
        right += int(((x[out] @ weights[:, 1:].T + weights[:, 0]).argmax(1) == targets[out]).sum())
    assert figure == pytest.approx(right / len(x), abs=2 / len(x))


def test_single_samples_flatter_where_persons_do_not() -> None:
    x, targets, person = persons(1)
    taught = person < 9
    x_taught, y_taught = x[taught], targets[taught]
    made = groups(y_taught, person[taught], 1.0)
    assert made is not None
    readout, features, labels = asked(x_taught, y_taught)
    by_source = made.accuracy(readout, features, labels, ALPHA)
    single = Groups("run", np.arange(len(y_taught)) % FOLDS, np.ones(len(y_taught), np.bool_))
    by_sample = single.accuracy(readout, features, labels, ALPHA)
    weights = readout.weights(ALPHA)
    others = np.mean((x[~taught] @ weights[:, 1:].T + weights[:, 0]).argmax(1) == targets[~taught])
    assert abs(by_source - others) < 0.15 < by_sample - others
