"""Synthetic samples with structure at every scale: a stem is measured on them."""

import numpy as np
from numpy.typing import NDArray


def synthetic_samples(
    shape: tuple[int, int, int], count: int, *, pixels: bool, seed: int = 0
) -> NDArray[np.float32]:
    """(count, H, W, C) for a shape (C, H, W), the same for the same seed: pixels from 0 to 255, or
    windows of unit variance."""
    channels, height, width = shape
    generator = np.random.default_rng(seed)
    total = np.zeros((count, height, width, channels), np.float32)
    size = 1
    while size < max(height, width):
        rows, columns = -(-height // size), -(-width // size)
        coarse = generator.standard_normal((count, rows, columns, channels), np.float32)
        total += coarse.repeat(size, 1).repeat(size, 2)[:, :height, :width] * size**0.5
        size *= 2
    total /= np.maximum(total.std(axis=(1, 2, 3), keepdims=True), 1e-6)
    return np.clip(128 + 64 * total, 0, 255) if pixels else total
