"""Trunks with random He weights, and pictures for them."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from edgecc.trunk.compile import Layer

Samples = NDArray[np.float32]  # (n, C, H, W), torch's order


def digits(count: int = 40) -> Samples:
    pictures: Samples = (load_digits().images[:count, None] / 16).astype(np.float32)
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
