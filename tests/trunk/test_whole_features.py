"""What is measured of a whole window, or of readings, is what the formulas say."""

from dataclasses import replace

import numpy as np
import pytest

from edgecc.plan.plan import readout_dim
from edgecc.plan.planner import plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.tflite_writer import Graph
from edgecc.trunk.value_features import ValueFeatures, value_features
from edgecc.trunk.window_features import THRESHOLDS, WindowFeatures, window_features

Features = WindowFeatures | ValueFeatures


def computed(features: Features, x: np.ndarray) -> np.ndarray:
    """(dim,) of a window (1, T, C)."""
    graph = Graph()
    first = graph.tensor((1, *x.shape))
    return Interpreter(graph.finish(first, features.append(graph, first))).run(x)


def windows(channels: int, time: int, count: int = 12) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, 1, time, channels), np.float32).cumsum(2) / 4


def output(kernel: np.ndarray, dilation: int, x: np.ndarray) -> np.ndarray:
    """(T,) of one kernel (C, 1, 9) over a window (1, T, C)."""
    padded = np.pad(x[0], ((4 * dilation, 4 * dilation), (0, 0)))
    return np.array([
        sum(kernel[:, 0, tap] @ padded[t + tap * dilation] for tap in range(9))
        for t in range(x.shape[1])])


def test_proportions_are_how_long_kernels_lie_above_their_thresholds() -> None:
    made = windows(3, 60)
    features = window_features(3, 60, kernels=24, seed=1).calibrated(made)
    x, kernels = made[0], [
        (kernel, 2**i) for i, group in enumerate(features.kernels) for kernel in group]
    assert len(kernels) == 24
    assert {dilation for _, dilation in kernels} == {1, 2, 4}
    z = np.array([output(kernel, dilation, x) for kernel, dilation in kernels])
    wanted = [np.clip(z - row[:, None], -1, 1).mean(1) for row in features.thresholds]
    got = computed(features, x)[: 24 * THRESHOLDS]
    np.testing.assert_allclose(got, np.concatenate(wanted), atol=2e-3)
    np.testing.assert_array_less(np.abs(got), 1.0001)
    assert got.std() > 0.2


def test_intervals_and_bands_are_what_numpy_computes() -> None:
    x = windows(2, 64)[3]
    got = computed(window_features(2, 64, kernels=16, seed=0), x)[16 * THRESHOLDS :]
    levels = [np.split(x[0], parts) for parts in (1, 2, 4, 8)]
    change = np.abs(np.diff(x[0], axis=0))
    np.testing.assert_allclose(got[:2], x[0].mean(0), atol=1e-4)
    np.testing.assert_allclose(got[2:4], x[0].std(0), atol=1e-3)
    np.testing.assert_allclose(got[4:6], x[0].max(0), atol=1e-5)
    np.testing.assert_allclose(got[6:8], -x[0].min(0), atol=1e-5)
    np.testing.assert_allclose(got[8:10], change.mean(0), atol=1e-4)
    halves = np.array([part.mean(0) for part in levels[1]]).reshape(-1)
    np.testing.assert_allclose(got[10:14], halves, atol=1e-4)
    time = np.arange(64)
    for frequency in (3, 20):
        wave = np.zeros((1, 64, 2), np.float32)
        wave[0, :, 0] = 5 + np.sin(2 * np.pi * frequency * time / 64)
        bands = computed(window_features(2, 64, kernels=16, seed=0), wave)[-24:].reshape(2, 12)
        assert bands[0].max() > -3 > bands[1].max()  # the other channel is silent
        strongest = bands[0].argmax()
        assert (strongest < 6) == (frequency == 3)


@pytest.mark.parametrize("shape", [
    (1, 2), (1, 24), (6, 128), (3, 700), (64, 3), (40, 50), (300, 4), (1, 1), (18, 1), (400, 1)])
@pytest.mark.parametrize("blocks", [0, 2])
def test_windows_of_any_shape_have_as_many_finite_features_as_planned(
    shape: tuple[int, int], blocks: int
) -> None:
    spec = Input("sensor", shape)
    chosen = plan(2**30, spec, max_payload=2**20, blocks=blocks, whole=True)
    trunk = stem_trunk(chosen, spec, 3)
    assert trunk.whole is not None
    alone = replace(chosen, blocks=())
    assert blocks or trunk.dim == readout_dim(alone, spec)
    run = Interpreter(trunk.compile()).run
    for x in (np.zeros((1, shape[1], shape[0]), np.float32), windows(*shape)[0]):
        features = run(x)
        assert features.shape == (trunk.dim,)
        assert np.isfinite(features).all()
    assert trunk.compile() == stem_trunk(chosen, spec, 3).compile()
    assert trunk.compile() != stem_trunk(chosen, spec, 4).compile()


def test_a_window_that_never_changes_is_measured_too() -> None:
    flat = np.full((5, 1, 30, 2), 7, np.float32)
    features = window_features(2, 30, kernels=16, seed=0).calibrated(flat)
    assert np.isfinite(computed(features, flat[0])).all()


def test_a_reading_has_the_features_whose_conditions_all_hold() -> None:
    readings = np.random.default_rng(2).gamma(1.0, 9.0, (200, 1, 1, 3)).astype(np.float32)
    features = value_features(3, features=50, seed=0).calibrated(readings)
    quantiles = len(features.thresholds)
    x = next(one for one in readings if np.abs(
        one[0, 0] - features.thresholds).min() > features.widths.max())  # no step is half way
    wanted = []
    for conditions in features.conditions:
        holds = []
        for code in conditions[conditions != 0]:
            q, c = divmod(abs(int(code)) - 1, 3)
            assert q < quantiles
            holds.append((x[0, 0, c] - features.thresholds[q, c]) * np.sign(code) > 0)
        assert 1 <= len(holds) <= 3
        wanted.append(all(holds))
    got = computed(features, x)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert 0 < sum(wanted) < 50


def test_readings_of_other_units_have_the_same_features() -> None:
    readings = np.random.default_rng(2).standard_normal((64, 1, 1, 4)).astype(np.float32)
    plain = value_features(4, features=40, seed=0).calibrated(readings)
    larger = value_features(4, features=40, seed=0).calibrated(readings * 32)
    np.testing.assert_allclose(
        computed(plain, readings[5]), computed(larger, readings[5] * 32), atol=1e-4)


def test_a_window_of_one_time_step_has_no_course() -> None:
    with pytest.raises(ValueError, match="1 time step"):
        window_features(3, 1, kernels=16, seed=0)
