"""The fixed first layer: seeded patch filters, whitened for pictures and signals in general.

A pure function of input shape and seed, so there is a prediction from the first label on and all
devices with the same configuration have the same stem. Neighbouring values of natural signals
correlate as exp(-distance / 8); filters are random directions of patches whitened by that.
"""

import numpy as np
from numpy.typing import NDArray

from edgecc.compile import Layer

_CORRELATION_LENGTH = 8.0  # pixels or time steps
_CHANNEL_CORRELATION = 0.9
_NOISE = 0.1  # share of the mean variance; keeps the highest frequencies from dominating


def make_stem(
    shape: tuple[int, int, int], *, filters: int, grid: int, seed: int
) -> Layer:
    """2·`filters` channels (each filter and its negative) for inputs (C, H, W) or (C, 1, T)."""
    channels, height, width = shape
    size = (map_shape(height), map_shape(width))
    kernel = (min(5, height - 1 + height % 2), min(5, width - 1 + width % 2))
    whiten = _whitening(channels, kernel)
    directions = np.random.default_rng(seed).standard_normal((filters, len(whiten)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weight = (directions @ whiten).reshape(filters, channels, *kernel).astype(np.float32)
    return Layer(
        convs=(np.concatenate([weight, -weight]),),
        bias=np.zeros(2 * filters, np.float32),
        pool=(_pool(height), _pool(width)),
        grid=(min(size[0], grid), min(size[1], grid)),
    )


def map_shape(size: int) -> int:
    """Rows or columns of the stem's map for an input of `size`."""
    return size // _pool(size)


def _pool(size: int) -> int:
    """Maps of about 14 to 16 whatever the input."""
    return max(1, round(size / 15))


def _whitening(channels: int, kernel: tuple[int, int]) -> NDArray[np.float64]:
    """Symmetric inverse square root of the assumed patch covariance."""
    y, x = np.mgrid[: kernel[0], : kernel[1]].reshape(2, -1)
    distance = np.hypot(y[:, None] - y, x[:, None] - x)
    between = np.full((channels, channels), _CHANNEL_CORRELATION)
    np.fill_diagonal(between, 1.0)
    values, vectors = np.linalg.eigh(np.kron(between, np.exp(-distance / _CORRELATION_LENGTH)))
    return np.asarray(vectors / np.sqrt(values + _NOISE * values.mean()) @ vectors.T)
