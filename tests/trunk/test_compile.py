"""Compiled trunks against torch, on real pictures with random He weights."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.datasets import fashion
from support.trunks import TRUNKS, Samples, digits, random_layer, three_layers

from edgecc.learn.geometry import pool_window
from edgecc.trunk.compile import Layer, compile_trunk
from edgecc.trunk.interpreter import Interpreter

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def clothes(count: int = 40) -> Samples:
    pictures: Samples = (fashion("test")[0][:count, None] / 255).astype(np.float32)
    return pictures


def torch_maps(layers: Sequence[Layer], samples: Samples) -> list[torch.Tensor]:
    maps = [torch.from_numpy(samples)]
    for layer in layers:
        branches = [
            F.conv2d(maps[-1], torch.from_numpy(kernels), padding="same", dilation=i)
            for i, kernels in enumerate(layer.convs, start=1)
        ]
        drive = torch.cat(branches, 1) + torch.from_numpy(layer.bias)[:, None, None]
        maps.append(F.max_pool2d(drive.relu(), layer.pool))
    return maps[1:]


def torch_features(layers: Sequence[Layer], samples: Samples) -> Samples:
    parts = []
    for layer, a in zip(layers, torch_maps(layers, samples), strict=True):
        (kh, sh), (kw, sw) = (
            pool_window(n, g) for n, g in zip(a.shape[2:], layer.grid, strict=True)
        )
        pooled = F.avg_pool2d(a, (kh, kw), (sh, sw))
        parts.append(pooled.sqrt().permute(0, 2, 3, 1).flatten(1))
    return torch.cat(parts, 1).numpy()


def torch_ranges(layers: Sequence[Layer], samples: Samples) -> list[tuple[float, float]]:
    maps = [torch.from_numpy(samples), *torch_maps(layers, samples)]
    return [(float(a.min()), float(a.max())) for a in maps]


def compiled(
    layers: Sequence[Layer],
    samples: Samples,
    *,
    ranges: Sequence[tuple[float, float]] | None = None,
    output: Literal["features", "map"] = "features",
) -> Samples:
    shape = samples.shape[1:]
    model = compile_trunk(
        layers, input_shape=(shape[0], shape[1], shape[2]), ranges=ranges, output=output
    )
    interpreter = Interpreter(model)
    return np.stack([interpreter.run(x.transpose(1, 2, 0)) for x in samples])


def assert_float32_agrees(layers: Sequence[Layer], samples: Samples) -> None:
    expected = torch_features(layers, samples)
    assert expected.std() > 0.05
    np.testing.assert_allclose(compiled(layers, samples), expected, rtol=0, atol=1e-4)


def assert_int8_agrees(layers: Sequence[Layer], samples: Samples) -> None:
    expected = torch_features(layers, samples)
    actual = compiled(layers, samples, ranges=torch_ranges(layers, samples))
    assert cosine(actual, expected) > 0.998
    assert np.abs(actual - expected).mean() < 0.02 * expected.mean()
    assert not np.allclose(actual, expected, rtol=0, atol=1e-5), "this model is not int8"


def cosine(a: Samples, b: Samples) -> float:
    """The least over the samples."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).min())


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_float32_trunk_agrees_with_torch_on_real_digits(trunk: str) -> None:
    assert_float32_agrees(TRUNKS[trunk], digits())


@pytest.mark.parametrize("trunk", TRUNKS)
def test_an_int8_trunk_agrees_with_torch_on_real_digits(trunk: str) -> None:
    assert_int8_agrees(TRUNKS[trunk], digits())


def test_a_float32_trunk_agrees_with_torch_on_fashion_mnist() -> None:
    assert_float32_agrees(three_layers(), clothes())


def test_an_int8_trunk_agrees_with_torch_on_fashion_mnist() -> None:
    assert_int8_agrees(three_layers(), clothes())


def window_layers() -> list[Layer]:
    return [
        random_layer((16, 1, 1, 5), pool=(1, 2), grid=(1, 8), dilations=2),
        random_layer((32, 32, 1, 3), pool=(1, 3), grid=(1, 4), seed=1),
    ]


def test_a_sensor_window_goes_through_the_same_code() -> None:
    windows = digits().reshape(-1, 1, 1, 64)
    assert_float32_agrees(window_layers(), windows)
    assert_int8_agrees(window_layers(), windows)


def test_an_odd_map_keeps_its_last_row_and_column() -> None:
    odd = np.ascontiguousarray(digits()[:, :, 1:, :7])
    layers = [random_layer((8, 1, 3, 3), grid=(3, 3)), random_layer((8, 8, 3, 3), pool=(2, 2))]
    assert_float32_agrees(layers, odd)
    assert_int8_agrees(layers, odd)


def test_colour_goes_in_with_its_channels_last() -> None:
    colour = digits(120).reshape(40, 3, 8, 8)
    assert_float32_agrees([random_layer((8, 3, 3, 3))], colour)


@pytest.mark.parametrize("int8", [False, True])
def test_the_map_is_the_last_layers_after_its_pool(int8: bool) -> None:
    layers, samples = three_layers(), digits()
    expected = torch_maps(layers, samples)[-1].permute(0, 2, 3, 1).numpy()
    ranges = torch_ranges(layers, samples) if int8 else None
    actual = compiled(layers, samples, ranges=ranges, output="map")
    assert actual.shape == (40, 2, 2, 64)
    assert np.abs(actual - expected).max() < (0.1 * expected.max() if int8 else 1e-4)


def test_dead_channels_keep_their_bias_in_int8() -> None:
    layer, samples = random_layer((4, 1, 3, 3), grid=(1, 1)), digits()
    layer.convs[0][:3] = 0
    layer.bias[:3] = (1000, -1e6, 0)
    features = compiled([layer], samples, ranges=torch_ranges([layer], samples))
    np.testing.assert_allclose(features[:, 0], math.sqrt(1000), rtol=0.01)
    assert (features[:, 1:3] == 0).all()


def test_a_nearly_dead_map_still_loads_in_int8() -> None:
    layer = random_layer((4, 1, 3, 3))
    features = compiled([layer], digits(), ranges=[(0, 1), (0, 1e-9)])
    assert np.isfinite(features).all()
    assert (features < 0.1).all()


def test_an_all_zero_layer_gives_all_zero_features_in_int8() -> None:
    layer = Layer((np.zeros((4, 1, 3, 3), np.float32),), np.zeros(4, np.float32), (2, 2), (2, 2))
    assert not compiled([layer], digits(), ranges=[(0, 1), (0, 0)]).any()


def test_mirrored_features_are_those_of_the_mean_over_a_sample_and_its_mirror_image() -> None:
    layers = [replace(layer, root=False) for layer in three_layers()]
    x = np.random.default_rng(5).normal(size=(8, 8, 1)).astype(np.float32)
    for ranges in (None, [(-4.0, 4.0)] + [(0.0, 6.0)] * 3):
        plain = Interpreter(compile_trunk(layers, input_shape=(1, 8, 8), ranges=ranges))
        both = Interpreter(
            compile_trunk(layers, input_shape=(1, 8, 8), ranges=ranges, mirrored=True))
        mean = (plain.run(x) + plain.run(x[:, ::-1])) / 2
        np.testing.assert_allclose(both.run(x), mean, atol=1e-5)
        np.testing.assert_array_equal(both.run(x), both.run(np.ascontiguousarray(x[:, ::-1])))
        assert np.abs(plain.run(x) - mean).max() > 0.01
