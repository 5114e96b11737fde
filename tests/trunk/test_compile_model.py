"""The compiled model itself: its bytes, windows and ranges, and what makes none."""

import math
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.trunks import TRUNKS, digits, random_layer, three_layers

from edgecc.learn.geometry import pool_window
from edgecc.trunk.compile import Layer, compile_trunk, int8_range
from edgecc.trunk.interpreter import Interpreter


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
from edgecc.trunk.compile import Layer, compile_trunk
from edgecc.trunk.interpreter import Interpreter
layer = Layer((np.ones((2, 1, 3, 3), np.float32),), np.zeros(2, np.float32), (1, 1), (1, 1))
print(Interpreter(compile_trunk([layer], input_shape=(1, 3, 3))).run(np.ones((3, 3, 1), "f4")))
print(sorted({"torch", "tensorflow", "sklearn"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_map_that_blocks_grow_on_is_not_mirrored() -> None:
    once, twice = (
        compile_trunk(three_layers(), input_shape=(1, 8, 8), output="map", mirrored=mirrored)
        for mirrored in (False, True))
    assert once == twice
