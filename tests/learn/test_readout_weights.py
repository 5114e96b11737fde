"""A readout's answers against an independent ridge, and on real digits."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.readouts import readout_of, same_bits

from edgecc.learn.readout import (
    FEATURE_MAX,
    Floats,
    Readout,
    best_alpha,
    best_temperature,
    probabilities,
    scores,
)


def pixels(digits: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> tuple[Floats, list[str]]:
    """Each digit's 64 pixels, at most 16320, as whole features; border pixels never move."""
    images, targets = digits
    return images.reshape(len(images), -1) * 64.0, [str(target) for target in targets]


def halves(digits: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> Any:
    """Every fourth digit held out: the last ones of the set are of other writers."""
    x, labels = pixels(digits)
    held = np.arange(len(x)) % 4 == 0
    names = np.array(labels)
    return x[~held], list(names[~held]), x[held], list(names[held])


def learnt(x: Floats, labels: list[str], names: Iterable[str] = ()) -> Readout:
    readout = Readout(x.shape[1], list(names))
    for f, label in zip(x, labels, strict=True):
        readout.learn(f, label)
    return readout


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 1.0])
def test_the_weights_are_those_of_an_independent_ridge(digits: Any, alpha: float) -> None:
    x, labels = pixels(digits)
    x, labels = x[:400], labels[:400]
    readout = learnt(x, labels)
    moving = x.std(0) > 0
    mean, deviation = x[:, moving].mean(0), x[:, moving].std(0)
    z = (x[:, moving] - mean) / deviation
    target = (np.array(labels)[:, None] == np.array(readout.classes)).astype(float)
    prior = target.mean(0)
    penalty = np.sqrt(alpha * len(x)) * np.eye(z.shape[1])
    slopes = np.linalg.lstsq(
        np.vstack([z, penalty]), np.vstack([target - prior, np.zeros((len(penalty), 10))])
    )[0]
    values = scores(readout.weights(alpha, prior_power=0), x)
    np.testing.assert_allclose(values, z @ slopes + prior, atol=1e-9)


def test_rare_classes_are_lifted_by_their_share_of_the_samples(digits: Any) -> None:
    x, labels = pixels(digits)
    readout = learnt(x[:200], ["rare" if label == "7" else "common" for label in labels[:200]])
    plain, lifted = (readout.weights(1e-2, prior_power=power) for power in (0, 0.5))
    share = readout.counts / 200
    np.testing.assert_allclose(lifted, plain / np.sqrt(share)[:, None])


def test_a_feature_that_never_moves_weighs_nothing(digits: Any) -> None:
    x, labels = pixels(digits)
    x = np.hstack([x[:300], np.full((300, 1), float(FEATURE_MAX))])
    dead = x.std(0) == 0
    assert dead.sum() > 1
    weights = learnt(x, labels[:300]).weights(1e-3)
    assert np.isfinite(weights).all()
    assert (weights[:, 1:][:, dead] == 0).all()
    assert (weights[:, 1:][:, ~dead] != 0).any(axis=0).all()


def test_fractional_weights_do_not_wake_a_dead_feature(digits: Any) -> None:
    """Their sums round, and what should be no variance at all is a little."""
    x, labels = pixels(digits)
    dead = np.arange(1.0, FEATURE_MAX, 81)
    readout = Readout(64 + len(dead))
    for f, label in zip(x[:300], labels, strict=False):
        readout.learn(np.append(f, dead), label, weight=1 + int(label) / 7)
    assert (readout.weights(1e-3)[:, 65:] == 0).all()


def test_a_weight_of_three_is_learning_three_times(digits: Any) -> None:
    x, _ = pixels(digits)
    once, thrice = Readout(64), Readout(64)
    once.learn(x[0], "a", weight=3)
    for _ in range(3):
        thrice.learn(x[0], "a")
    assert same_bits(once, thrice)


def test_with_one_class_every_sample_is_that_class(digits: Any) -> None:
    x, _ = pixels(digits)
    weights = learnt(x[:50], ["only"] * 50).weights(1e-3)
    np.testing.assert_allclose(scores(weights, x[50:60]), np.ones((10, 1)), atol=1e-9)


def test_an_empty_readout_has_no_opinion() -> None:
    assert Readout(3).weights(1e-3).shape == (0, 4)
    emptied = readout_of([([1, 2, 3, 4, 5], "a")])
    emptied.unlearn(np.array([1.0, 2, 3, 4, 5]), "a")
    assert (emptied.weights(1e-3) == 0).all()


def test_a_class_unlearnt_to_the_last_sample_is_never_the_answer(digits: Any) -> None:
    x, labels = pixels(digits)
    readout = learnt(x[:500], labels[:500])
    gone = [f for f, label in zip(x[:500], labels, strict=False) if label == "3"]
    for f in gone:
        readout.unlearn(f, "3")
    answers = scores(readout.weights(1e-3), x[500:]).argmax(1)
    assert readout.counts[readout.classes.index("3")] == 0
    assert readout.classes.index("3") not in answers


# --- probabilities ---


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.floats(0.5, 64.0)
)
def test_probabilities_are_a_distribution_in_the_order_of_the_scores(
    values: list[float], temperature: float
) -> None:
    chances = probabilities(np.array(values), temperature)
    assert chances.sum() == pytest.approx(1)
    assert (chances >= 0).all()
    assert chances[int(np.argmax(values))] == chances.max()


def test_the_best_temperature_is_the_most_likely_one(digits: Any) -> None:
    x, labels, held_x, held_labels = halves(digits)
    readout = learnt(x, labels)
    values = best_alpha(readout, held_x, held_labels)[2]
    targets = np.array([readout.classes.index(label) for label in held_labels])
    best = best_temperature(values, targets)

    def loss(temperature: float) -> float:
        chances = probabilities(values, temperature)[np.arange(len(targets)), targets]
        return float(-np.log(chances).mean())

    assert 1 < best < 64
    assert loss(best) < min(loss(best * 0.7), loss(best * 1.4), loss(1.0), loss(64.0))


# --- real digits ---


def test_digits_are_read_and_shuffled_labels_are_chance(digits: Any) -> None:
    x, labels, held_x, held_labels = halves(digits)
    readout = learnt(x, labels)
    alpha, accuracy, values = best_alpha(readout, held_x, held_labels)
    assert accuracy > 0.9
    assert (values == scores(readout.weights(alpha), held_x)).all()

    shuffled = list(np.random.default_rng(0).permutation(labels))
    by_chance = best_alpha(learnt(x, shuffled), held_x, held_labels)[1]
    assert by_chance < 0.2


def test_classes_that_arrive_one_after_the_other_are_not_forgotten(digits: Any) -> None:
    x, labels, held_x, held_labels = halves(digits)
    order = np.argsort(labels, kind="stable")
    by_class = learnt(x[order], [labels[i] for i in order])
    mixed = learnt(x, labels, by_class.classes)
    assert same_bits(by_class, mixed)
    right = scores(by_class.weights(1e-2), held_x).argmax(1) == [int(n) for n in held_labels]
    for digit in range(10):
        assert right[np.array(held_labels) == str(digit)].mean() > 0.7
