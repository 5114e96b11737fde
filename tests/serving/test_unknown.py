"""Answers are called unknown where they lie further out than right answers did."""

import numpy as np
import pytest
from support.datasets import Seen

from edgecc.learn.novelty import Novelty, light
from edgecc.learn.readout import Floats, Readout, scores, to_integers
from edgecc.serving.unknown import Unknown

RATE = 0.05


def _taught(features: Floats, labels: list[str]) -> Readout:
    readout = Readout(features.shape[1])
    for one, label in zip(features, labels, strict=True):
        readout.learn(one, label)
    return readout


def _flagged(stem_features: Seen, unseen: str) -> tuple[float, float]:
    """Share called unknown of the classes learnt, and of the one never seen."""
    features, labels = stem_features
    learnt = [n for n in range(3500) if labels[n] != unseen]
    readout = _taught(features[learnt], [labels[n] for n in learnt])
    weights = readout.weights(3e-3)
    novelty, unknown = Novelty.of(readout, weights), Unknown(RATE)

    def answer(n: int) -> tuple[str, float]:
        values = scores(weights, features[n : n + 1])
        named = values.argmax(axis=1)
        return readout.classes[named[0]], float(novelty.distances(values, named)[0])

    held, asked = range(3500, 4200), range(4200, 5000)
    for n in held:
        label, distance = answer(n)
        if label == labels[n]:
            unknown.note(0, distance)
    far = unknown.far(0)
    seen = [answer(n)[1] > far for n in asked if labels[n] != unseen]
    new = [answer(n)[1] > far for n in asked if labels[n] == unseen]
    return float(np.mean(seen)), float(np.mean(new))


def test_a_class_never_seen_is_called_unknown_far_more_often_than_the_others(
    stem_features: Seen
) -> None:
    flagged = {unseen: _flagged(stem_features, unseen) for unseen in "0158"}
    print(flagged)
    assert all(seen < 2.5 * RATE for seen, _ in flagged.values()), flagged
    assert np.mean([new for _, new in flagged.values()]) > 4 * RATE, flagged
    assert all(new > seen for seen, new in flagged.values()), flagged


def test_the_distance_is_mahalanobis_in_the_space_of_scores() -> None:
    draw = np.random.default_rng(0)
    features = to_integers(draw.random((300, 12)).astype(np.float32))
    labels = [str(n % 3) for n in range(300)]
    readout = _taught(features, labels)
    weights = readout.weights(1e-2)
    values = scores(weights, features)
    means = np.array([values[np.array(labels) == name].mean(axis=0) for name in "012"])
    away = values - means[np.arange(300) % 3]
    inverse = np.linalg.pinv(away.T @ away / 300, rcond=1e-9)
    novelty = Novelty.of(readout, weights)
    assert novelty.means == pytest.approx(means)
    inside = away[5] @ inverse @ away[5]
    assert novelty.distances(values, np.arange(300) % 3)[5] == pytest.approx(inside, rel=1e-2)


def test_of_many_classes_float32_says_what_float64_says() -> None:
    draw = np.random.default_rng(0)
    centres = draw.integers(0, 200, (300, 144))
    noisy = np.rint(centres[np.arange(1500) % 300] + draw.normal(0, 9, (1500, 144)))
    features = np.clip(noisy, 0, 255)
    readout = _taught(features, [str(n % 300) for n in range(1500)])
    weights = readout.weights(1e-3)
    novelty, values = Novelty.of(readout, weights), scores(weights, features[:50])
    assert novelty.factor.dtype == light(weights).dtype == np.float32
    (a, b), counts = readout.sums(), readout.counts[:, None]
    means = (b / counts) @ weights.T
    within = (weights @ a @ weights.T - (means * counts).T @ means) / len(features)
    within.flat[::301] += 1e-6 * np.trace(within) / 300
    away = values - means[:50]
    wanted = (away @ np.linalg.inv(within) * away).sum(1)
    lighter = scores(light(weights), features[:50].astype(np.float32))
    assert novelty.distances(lighter, np.arange(50)) == pytest.approx(wanted, rel=1e-3)


def test_sums_that_no_samples_make_have_distances_too() -> None:
    draw = np.random.default_rng(0)
    readout = _taught(draw.integers(0, 99, (60, 12)).astype(float), [str(n % 3) for n in range(60)])
    weights = readout.weights(1e-2)
    readout.A[1:, 1:] -= 0.9 * np.diag(np.diag(readout.A)[1:])  # as an estimate may be
    assert np.linalg.eigvalsh(readout.A).min() < 0
    assert np.isfinite(Novelty.of(readout, weights).distances(np.ones((1, 3)), np.zeros(1, int)))


def test_nothing_is_unknown_before_enough_answers_were_right() -> None:
    unknown = Unknown(0.1)
    for distance in range(49):
        unknown.note(1, float(distance))
    assert unknown.far(1) == float("inf")
    unknown.note(1, 49.0)
    assert unknown.far(1) == pytest.approx(np.quantile(range(50), 0.9))


def test_another_generation_has_a_bound_of_its_own() -> None:
    unknown = Unknown(0.1)
    for distance in range(100):
        unknown.note(1, float(distance))
    assert unknown.far(2) == float("inf")
    unknown.note(2, 1.0)
    assert unknown.far(1) == unknown.far(2) == float("inf")


def test_a_rate_of_zero_calls_nothing_unknown() -> None:
    unknown = Unknown(0.0)
    for distance in range(100):
        unknown.note(1, float(distance))
    assert unknown.far(1) == float("inf")
