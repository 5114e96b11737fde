"""The operations of torch_ops, on numpy's arrays.

Convolutions are matrix products of patches, a tile of samples at a time, so that a step takes
little more memory than its maps.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from edgecc.learn.backends.arrays import Sides

Array = NDArray[Any]
namespace = np
_TILE = 2**20  # bytes of patches at once, about a core's second-level cache
_ADAM = 2**15  # weights at once


def prepare(threads: int) -> None:
    """Nothing: OpenBLAS reads OPENBLAS_NUM_THREADS once, when it is imported."""


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(shape: tuple[int, ...], generator: np.random.Generator | None, dtype: Any) -> Array:
    return (generator or np.random.default_rng()).standard_normal(shape, dtype or np.float32)


def integers(
    low: int, high: int, shape: tuple[int, ...], generator: np.random.Generator | None
) -> Array:
    return (generator or np.random.default_rng()).integers(low, high, shape)


def permutation(count: int, generator: np.random.Generator) -> Array:
    return generator.permutation(count)


def generator_state(generator: np.random.Generator) -> Array:
    return np.frombuffer(json.dumps(generator.bit_generator.state).encode(), np.uint8)


def set_generator_state(generator: np.random.Generator, state: Array) -> None:
    generator.bit_generator.state = json.loads(state.tobytes())


def conv(u: Array, weight: Array, *, padding: Sides, dilation: int) -> Array:
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))
    z = np.empty((*u.transpose(0, 2, 3, 1).shape[:3], len(weight)), u.dtype)
    for part, patches in _patches(u, weight.shape[2:], padding, dilation):
        np.matmul(patches, matrix, out=z[part].reshape(-1, len(weight)))
    return z.transpose(0, 3, 1, 2)


def conv_gradient(u: Array, weight: Array, dz: Array, *, padding: Sides, dilation: int) -> Array:
    outputs, inputs, *kernel = weight.shape
    rows = np.ascontiguousarray(dz.transpose(0, 2, 3, 1))
    total = np.zeros((inputs * kernel[0] * kernel[1], outputs), u.dtype)
    for part, patches in _patches(u, weight.shape[2:], padding, dilation):
        total += patches.T @ rows[part].reshape(-1, outputs)
    return np.ascontiguousarray(total.reshape(*kernel, inputs, outputs).transpose(3, 2, 0, 1))


def _patches(
    u: Array, kernel: tuple[int, ...], padding: Sides, dilation: int
) -> Iterator[tuple[slice, Array]]:
    """Tiles of samples, and the patch under the kernel at each of their places, (n, kh·kw·C)."""
    rows = u.transpose(0, 2, 3, 1)
    count, height, width, channels = rows.shape
    size = kernel[0] * kernel[1] * channels
    samples = max(1, _TILE // (height * width * size * u.itemsize))
    for start in range(0, count, samples):
        part = slice(start, min(start + samples, count))
        padded = np.pad(rows[part], ((0, 0), *((p, p) for p in padding), (0, 0)))
        b, y, x, c = padded.strides
        patches = as_strided(
            padded, (len(padded), height, width, *kernel, channels),
            (b, y, x, dilation * y, dilation * x, c), writeable=False)
        yield part, patches.reshape(-1, size)


def moments(z: Array) -> tuple[Array, Array]:
    rows = z.transpose(0, 2, 3, 1).reshape(-1, z.shape[1])
    mean = rows.mean(0)
    tiles = np.array_split(rows, max(1, rows.nbytes // _TILE))
    square = sum(np.square(tile - mean).sum(0) for tile in tiles)
    return mean, np.asarray(square / z.dtype.type(len(rows)))


def max_pool(z: Array, pool: Sides) -> tuple[Array, Array]:
    first, *others = _by_place(z, pool)
    m, index = first.copy(order="K"), np.zeros_like(first, np.uint8)
    for place, values in enumerate(others, start=1):
        np.copyto(index, place, where=values > m, casting="unsafe")
        np.maximum(m, values, out=m)
    return m, index


def add_at_maxima(z: Array, dm: Array, index: Array, pool: Sides) -> None:
    for place, values in enumerate(_by_place(z, pool)):
        np.add(values, dm * (index == place), out=values)


def _by_place(z: Array, pool: Sides) -> list[Array]:
    """Views of z: for each place in a window, the values there in all windows."""
    height, width = (side // p * p for side, p in zip(z.shape[2:], pool, strict=True))
    return [z[:, :, y:height:pool[0], x:width:pool[1]]
            for y in range(pool[0]) for x in range(pool[1])]


def avg_pool(a: Array, kernel: Sides, stride: Sides) -> Array:
    windows = _windows(a, kernel, stride)
    return np.stack([np.stack([w.mean((2, 3)) for w in row], -1) for row in windows], -2)


def avg_pool_back(dp: Array, a: Array, kernel: Sides, stride: Sides) -> Array:
    da = np.zeros_like(a)
    dp = dp / a.dtype.type(kernel[0] * kernel[1])
    for y, row in enumerate(_windows(da, kernel, stride)):
        for x, window in enumerate(row):
            np.add(window, dp[:, :, y, x, None, None], out=window)
    return da


def _windows(a: Array, kernel: Sides, stride: Sides) -> list[list[Array]]:
    down, across = (range(0, side - k + 1, s) for side, k, s in zip(
        a.shape[2:], kernel, stride, strict=True))
    return [[a[:, :, y : y + kernel[0], x : x + kernel[1]] for x in across] for y in down]


def softmax(scores: Array) -> Array:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def logsumexp(scores: Array) -> Array:
    largest = scores.max(-1, keepdims=True)
    return np.asarray(np.log(np.exp(scores - largest).sum(-1)) + largest[..., 0])


def sigmoid(scores: Array) -> Array:
    e = np.exp(-np.abs(scores))
    return np.asarray(np.where(scores < 0, e, 1) / (1 + e))


def adam(
    p: Array, g: Array, m: Array, v: Array, *, beta1: float, beta2: float, eps: float, rate: float
) -> None:
    whole = [array.reshape(-1) for array in (p, g, m, v)]
    for start in range(0, p.size, _ADAM):
        p, g, m, v = (array[start : start + _ADAM] for array in whole)
        m -= g
        m *= beta1
        m += g
        g *= g
        g *= 1 - beta2
        v *= beta2
        v += g
        np.sqrt(v, out=g)
        g += eps
        np.divide(m, g, out=g)
        g *= rate
        p -= g


def count_below(thresholds: Array, values: Array) -> Array:
    return np.stack([np.searchsorted(*row) for row in zip(thresholds, values, strict=True)])


def bin_sums(values: Array, bins: Array, count: int) -> Array:
    flat = count * np.arange(len(values))[:, None] + bins
    sums = np.bincount(flat.ravel(), values.ravel(), len(values) * count)
    return sums.reshape(-1, count).astype(values.dtype)
