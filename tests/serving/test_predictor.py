"""What the trunk and the readout say of a sample, alone and among others."""

from dataclasses import replace

import numpy as np
import pytest

from edgecc.bench.learning.simulated_node import Device
from edgecc.bench.streams import split
from edgecc.learn.novelty import Novelty, light
from edgecc.learn.readout import Readout, scores
from edgecc.plan.plan import Plan
from edgecc.protocol.sample import Input
from edgecc.serving.predictor import TOP, Prediction
from edgecc.training.recipe import Recipe

DIGITS = split("digits", seed=0).mixed(seed=0)


def untimed(predictions: list[Prediction]) -> list[Prediction]:
    return [replace(one, seconds=0.0) for one in predictions]


@pytest.fixture(scope="module")
def device() -> Device:
    shape = DIGITS.images.shape[1:]
    device = Device(Input("image", shape), Plan(16, 3, (), 16, 64, {}), Recipe(seed=0), first=10**9)
    assert not device.predictor.predict(device.predictor.features_of(DIGITS.images[:1]), 0.0)[0].top
    for x, target in zip(DIGITS.images[:500], DIGITS.targets[:500], strict=True):
        device.learn(x, int(target))
    device.predictor.refresh()
    return device


@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_samples_together_are_predicted_to_the_last_bit_as_each_alone(
    device: Device, count: int
) -> None:
    predictor, samples = device.predictor, list(DIGITS.images[500 : 500 + count])
    features = predictor.features_of(samples)
    assert np.array_equal(features, [predictor.features(x) for x in samples])
    together = predictor.predict(features, 0.0, far=12.0)
    alone = [predictor.predict(f[None], 0.0, far=12.0)[0] for f in features]
    assert untimed(together) == untimed(alone)


@pytest.mark.parametrize("classes", [1, 2, 257, 300])
def test_scores_and_distances_are_the_same_alone_whatever_the_number_of_classes(
    classes: int
) -> None:
    draw, dim = np.random.default_rng(classes), 40
    readout = Readout(dim)
    for n, f in enumerate(draw.integers(0, 256, (3 * classes + 30, dim)).astype(np.float32)):
        readout.learn(f, str(n % classes))
    weights = readout.weights(1e-3)
    novelty, weights = Novelty.of(readout, weights), light(weights)
    asked = draw.integers(0, 256, (32, 1, dim)).astype(np.float32)
    together = scores(weights, asked)[:, 0]
    alone = np.array([scores(weights, one[None])[0, 0] for one in asked])
    assert np.array_equal(together, alone)
    named = together.argmax(axis=1)
    assert np.array_equal(novelty.distances(together, named), [
        novelty.distances(alone[n : n + 1], named[n : n + 1])[0] for n in range(32)])


def test_the_likeliest_classes_come_first_and_beyond_the_bound_is_unknown(device: Device) -> None:
    predictor, targets = device.predictor, DIGITS.targets[500:900]
    features = predictor.features_of(list(DIGITS.images[500:900]))
    predictions = predictor.predict(features, 0.0, far=12.0)
    assert np.mean([int(one.label or -1) for one in predictions] == targets) > 0.9
    for one in predictions:
        chances = [chance for _, chance in one.top]
        assert (len(chances), one.top[0]) == (TOP, (one.label, one.score))
        assert chances == sorted(chances, reverse=True)
        assert one.unknown == (one.distance > 12.0)
    assert 0 < sum(one.unknown for one in predictions) < len(predictions)
