"""Pictures and series to learn from, and how a client sends one."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecc.capture.dataset import load_idx

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
Seen = tuple[NDArray[np.float64], list[str]]  # features and what they are of
FASHION = Path("/usr/share/datasets/fashion-mnist")
SERIES = {"kind": "sensor", "shape": [1, 196]}


def fashion(split: str = "train") -> Digits:
    """Pictures of clothes (n, 28, 28) and their classes; skips the test where there are none."""
    if not FASHION.exists():
        pytest.skip("Fashion-MNIST is missing: apt install dataset-fashion-mnist")
    return load_idx(FASHION, split)


def fashion_series(count: int = 3000) -> Digits:
    """Clothes at 14x14, read row by row as one series: hard for the stem, so blocks help."""
    images, labels = fashion()
    small = images[:count].reshape(-1, 14, 2, 14, 2).mean((2, 4))
    return small.reshape(-1, 1, 196).astype(np.float32), labels[:count]


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
