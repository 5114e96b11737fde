"""The default stem: random filters on whitened patches, so that it needs no data and no training.

A pure function of input shape and seed: the first label is enough for a prediction, and devices
with the same configuration have the same stem. Whitening takes neighbouring values to correlate as
exp(-distance / 8), like those of natural signals. A filter is a random direction of such a patch.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgecc.learn import geometry
from edgecc.trunk.compile import Layer, compile_trunk
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.synthetic import synthetic_samples

_CORRELATION_LENGTH = 8.0  # pixels or time steps
_CHANNEL_CORRELATION = 0.9
_SYNTHETIC = 128  # samples
_COARSER = 1 / 3  # of the gain of mixtures: coarser rounding saves bytes; docs/experiments.md
_CELLS = 49  # of the grid that this holds for: frequencies grow with the root of the cells
_GAIN = 9.0  # of the filters, so that features of pictures fit eight bits of the readout's steps
_NOISE = 0.1  # share of the mean variance; keeps the highest frequencies from dominating


def make_stem(
    shape: tuple[int, int, int], *, filters: int, grid: int, seed: int, pooled: bool = True,
    mixed: int = 0, waves: int = 0, pixels: bool = True,
) -> Layer:
    """2·`filters` channels (each filter and its negative) for inputs (C, H, W) or (C, 1, T).

    pooled: max-pool to a small map, for blocks on top; without blocks, averages of the whole map
    are better features. mixed: keep this many principal components of the channels, measured on
    synthetic samples (pixels, or sensor windows); 0 keeps the channels. waves: keep this many
    spatial frequencies of the grid; 0 keeps its cells.
    """
    channels, height, width = shape
    pool = geometry.stem_pool((height, width)) if pooled else (1, 1)
    kernel = min(5, height - 1 + height % 2), min(5, width - 1 + width % 2)
    whiten = _whitening(channels, kernel)
    directions = np.random.default_rng(seed).standard_normal((filters, len(whiten)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weight = _GAIN * (directions @ whiten).reshape(filters, channels, *kernel).astype(np.float32)
    layer = Layer(
        convs=(np.concatenate([weight, -weight]),), bias=np.zeros(2 * filters, np.float32),
        pool=pool, grid=geometry.fitted(grid, geometry.pooled((height, width), pool)),
    )
    waves = min(waves, math.prod(layer.grid))
    gain = _COARSER * math.sqrt(_CELLS / math.prod(layer.grid)) if waves else _COARSER
    mix = _mixture(layer, shape, mixed, pixels) * np.float32(gain) if mixed else None
    return replace(layer, mix=mix, waves=waves)


def _whitening(channels: int, kernel: tuple[int, int]) -> NDArray[np.float64]:
    """Symmetric inverse square root of the assumed patch covariance."""
    y, x = np.mgrid[: kernel[0], : kernel[1]].reshape(2, -1)
    distance = np.hypot(y[:, None] - y, x[:, None] - x)
    between = np.full((channels, channels), _CHANNEL_CORRELATION)
    np.fill_diagonal(between, 1.0)
    values, vectors = np.linalg.eigh(np.kron(between, np.exp(-distance / _CORRELATION_LENGTH)))
    return np.asarray(vectors / np.sqrt(values + _NOISE * values.mean()) @ vectors.T)


def _mixture(
    layer: Layer, shape: tuple[int, int, int], mixed: int, pixels: bool
) -> NDArray[np.float32]:
    """(mixed, channels): principal components over the cells of synthetic samples."""
    run, size = Interpreter(compile_trunk([layer], input_shape=shape)).run, len(layer.bias)
    total, square, count = np.zeros(size), np.zeros((size, size)), 0
    for n in range(_SYNTHETIC):
        [x] = synthetic_samples(shape, 1, pixels=pixels, seed=n)
        cells = run(x / np.float32(255 if pixels else 1)).reshape(-1, size).astype(np.float64)
        total, square, count = total + cells.sum(0), square + cells.T @ cells, count + len(cells)
    mean = total / count
    _, vectors = np.linalg.eigh(square / count - np.outer(mean, mean))
    vectors = vectors[:, ::-1][:, :mixed]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(mixed)])
    return np.ascontiguousarray((vectors * signs).T, np.float32)
