"""Compiled trunks against torch, on real pictures with random He weights."""

import gzip
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from edgecc.compile import Layer, compile_trunk, int8_range, pool_window
from edgecc.interpreter import Interpreter

FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
Samples = NDArray[np.float32]  # (n, C, H, W), torch's order


def digits(count: int = 40) -> Samples:
    pictures: Samples = (load_digits().images[:count, None] / 16).astype(np.float32)
    return pictures


def fashion(count: int = 40) -> Samples:
    if not FASHION.exists():
        pytest.skip(f"no {FASHION}: apt-get install dataset-fashion-mnist")
    with gzip.open(FASHION) as file:
        pixels = np.frombuffer(file.read(16 + count * 784)[16:], np.uint8)
    pictures: Samples = (pixels.reshape(count, 1, 28, 28) / 255).astype(np.float32)
    return pictures


def random_layer(
    shape: Sequence[int],
    *,
    pool: tuple[int, int] = (1, 1),
    grid: tuple[int, int] = (2, 2),
    dilations: int = 1,
    seed: int = 0,
) -> Layer:
    """shape (O, I, kh, kw) of each convolution, as torch has it."""
    rng = np.random.default_rng(seed)
    spread = math.sqrt(2 / math.prod(shape[1:]))
    convs = [rng.normal(0, spread, shape).astype(np.float32) for _ in range(dilations)]
    bias = rng.normal(0, 0.1, shape[0] * dilations).astype(np.float32)
    return Layer(tuple(convs), bias, pool, grid)


def three_layers() -> list[Layer]:
    return [
        random_layer((32, 1, 5, 5), pool=(2, 2), grid=(3, 3), seed=1),
        random_layer((64, 32, 3, 3), grid=(3, 3), seed=2),
        random_layer((64, 64, 3, 3), pool=(2, 2), grid=(2, 2), seed=3),
    ]


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


TRUNKS = {
    "one layer": [random_layer((8, 1, 3, 3), pool=(2, 2))],
    "three layers": three_layers(),
    "two dilations": [random_layer((8, 1, 3, 3), dilations=2, grid=(4, 4))],
    "four dilations, then plain": [
        random_layer((6, 1, 3, 3), dilations=4, pool=(2, 2)),
        random_layer((16, 24, 3, 3), seed=1),
    ],
    "odd pool and grid": [random_layer((8, 1, 3, 3), pool=(3, 2), grid=(2, 3))],
    "grid as fine as the map": [random_layer((8, 1, 3, 3), pool=(2, 2), grid=(4, 4))],
    "even kernel": [random_layer((8, 1, 2, 4))],
}
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_float32_trunk_agrees_with_torch_on_real_digits(trunk: str) -> None:
    assert_float32_agrees(TRUNKS[trunk], digits())


@pytest.mark.parametrize("trunk", TRUNKS)
def test_an_int8_trunk_agrees_with_torch_on_real_digits(trunk: str) -> None:
    assert_int8_agrees(TRUNKS[trunk], digits())


def test_a_float32_trunk_agrees_with_torch_on_fashion_mnist() -> None:
    assert_float32_agrees(three_layers(), fashion())


def test_an_int8_trunk_agrees_with_torch_on_fashion_mnist() -> None:
    assert_int8_agrees(three_layers(), fashion())


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


@pytest.mark.parametrize("int8", [False, True])
def test_the_same_layers_give_the_same_bytes(int8: bool) -> None:
    ranges = [(0.0, 1.0)] * 4 if int8 else None

    def written(output: Literal["features", "map"]) -> bytes:
        return compile_trunk(three_layers(), input_shape=(1, 8, 8), ranges=ranges, output=output)

    assert written("features") == written("features")
    assert written("features") != written("map")


def test_an_int8_model_is_a_third_of_a_float32_one() -> None:
    small = compile_trunk(three_layers(), input_shape=(1, 28, 28), ranges=[(0, 1)] * 4)
    assert 3 * len(small) < len(compile_trunk(three_layers(), input_shape=(1, 28, 28)))


def test_an_output_is_a_copy_that_the_next_run_leaves_alone() -> None:
    interpreter = Interpreter(compile_trunk(TRUNKS["one layer"], input_shape=(1, 8, 8)))
    first, second = (x.transpose(1, 2, 0) for x in digits(2))
    output = interpreter.run(first)
    before = output.copy()
    assert not np.array_equal(interpreter.run(second), before)
    assert np.array_equal(output, before)


def test_a_sample_of_another_shape_is_refused() -> None:
    interpreter = Interpreter(compile_trunk(TRUNKS["one layer"], input_shape=(1, 8, 8)))
    with pytest.raises(ValueError, match="Got 7 but expected 8"):
        interpreter.run(np.zeros((7, 8, 1), np.float32))


@pytest.mark.parametrize(("size", "grid"), [(8, 1), (8, 3), (7, 3), (28, 5), (3, 3), (10, 6)])
def test_pool_windows_cover_every_value_and_give_the_grid(size: int, grid: int) -> None:
    kernel, stride = pool_window(size, grid)
    starts = range(0, size - kernel + 1, stride)
    assert len(starts) == grid
    assert {i for start in starts for i in range(start, start + kernel)} == set(range(size))


def test_a_pool_window_is_adaptive_pooling_where_the_grid_divides() -> None:
    a = torch.from_numpy(digits())
    expected = F.adaptive_avg_pool2d(a, 4)
    assert torch.equal(F.avg_pool2d(a, *pool_window(8, 4)), expected)


@pytest.mark.parametrize(
    ("lo", "hi"), [(0.0, 1.0), (-3.0, 5.0), (0.2, 0.9), (-2.0, -1.0), (0.0, 0.0), (-1e-3, 1e3)]
)
def test_an_int8_range_holds_its_ends_and_zero_exactly(lo: float, hi: float) -> None:
    scale, zero_point = int8_range(lo, hi)
    assert -128 <= zero_point <= 127
    for end in (lo, hi):
        step = np.clip(round(end / scale) + zero_point, -128, 127)
        assert abs((step - zero_point) * scale - end) <= scale


@pytest.mark.parametrize(("lo", "hi"), [(1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)])
def test_a_range_that_is_none_is_refused(lo: float, hi: float) -> None:
    with pytest.raises(ValueError, match="no int8 range"):
        int8_range(lo, hi)


ONE = random_layer((8, 1, 3, 3), seed=5)


@pytest.mark.parametrize(
    ("layers", "ranges", "message"),
    [
        ([], None, "no layers"),
        ([ONE], [(0, 1)], "1 ranges for 1 layers"),
        ([ONE, ONE], None, r"kernels \(8, 1, 3, 3\) for a map \(1, 8, 8, 8\)"),
        ([Layer(ONE.convs, ONE.bias[:5], (1, 1), (2, 2))], None, r"bias \(5,\)"),
        ([Layer(ONE.convs, ONE.bias, (9, 1), (1, 1))], None, "map of 8x8 by 9x1"),
        ([Layer(ONE.convs, ONE.bias, (2, 2), (5, 1))], None, "4 values to a grid of 5"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_its_numbers(
    layers: list[Layer], ranges: list[tuple[float, float]] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compile_trunk(layers, input_shape=(1, 8, 8), ranges=ranges)


def test_compiling_and_running_load_no_torch() -> None:
    program = """
import sys
import numpy as np
from edgecc.compile import Layer, compile_trunk
from edgecc.interpreter import Interpreter
layer = Layer((np.ones((2, 1, 3, 3), np.float32),), np.zeros(2, np.float32), (1, 1), (1, 1))
print(Interpreter(compile_trunk([layer], input_shape=(1, 3, 3))).run(np.ones((3, 3, 1), "f4")))
print(sorted({"torch", "tensorflow", "sklearn"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


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


def test_the_map_that_blocks_grow_on_is_not_mirrored() -> None:
    once, twice = (
        compile_trunk(three_layers(), input_shape=(1, 8, 8), output="map", mirrored=mirrored)
        for mirrored in (False, True))
    assert once == twice
