"""Real data without a download: Fashion-MNIST from Debian's package, else scikit-learn's digits."""

import base64
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgecc.capture.dataset import FASHION, load_digits, load_idx, npy_bytes

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_SEED = 20261122


@dataclass
class Data:
    """Training samples in pairs of classes, test samples, and spare ones for probes."""

    name: str
    shape: tuple[int, int, int]
    images: NDArray[np.uint8]  # (N, 1, H, W)
    labels: list[str]
    pairs: list[NDArray[np.int64]]  # positions of each pair's training samples, shuffled
    spare: list[int]  # training positions that are in no pair
    groups: list[tuple[str, str]]
    test_images: NDArray[np.uint8]
    test_labels: list[str]
    test_groups: list[NDArray[np.int64]]
    streamed: Counter[str] = field(default_factory=Counter)

    def npy(self, position: int) -> bytes:
        return npy_bytes(self.images[position])

    def json_line(self, position: int) -> bytes:
        """One training sample as `edgecc stream -` takes it."""
        line: dict[str, Any] = {
            "id": f"train-{position:06d}", "label": self.labels[position],
            "content_type": "application/x-npy",
            "data": base64.b64encode(self.npy(position)).decode(),
        }
        return json.dumps(line).encode() + b"\n"


def load() -> Data:
    """Fashion-MNIST where it is installed; a line says so where it is not."""
    if FASHION_FOLDER.exists():
        train, test = load_idx(FASHION_FOLDER, "train"), load_idx(FASHION_FOLDER, "test")
        return _split("Fashion-MNIST", train, test, FASHION)
    click.echo("no Fashion-MNIST here, taking scikit-learn's digits; for the real thing: "
               "apt install dataset-fashion-mnist")
    return _split(
        "digits", load_digits("train"), load_digits("test"), [str(digit) for digit in range(10)]
    )


def _split(name: str, train: Any, test: Any, names: Sequence[str]) -> Data:
    (images, targets), (test_images, test_targets) = train, test
    order = np.random.default_rng(_SEED).permutation(len(images))
    spare, order = order[:100], order[100:]
    groups = [(names[k], names[k + 1]) for k in range(0, 10, 2)]
    return Data(
        name=name, shape=(1, *images.shape[1:]), images=images[:, None],
        labels=[names[k] for k in targets],
        pairs=[order[targets[order] // 2 == pair] for pair in range(5)],
        spare=[int(position) for position in spare], groups=groups,
        test_images=test_images[:, None], test_labels=[names[k] for k in test_targets],
        test_groups=[np.flatnonzero(test_targets // 2 == pair) for pair in range(5)],
    )
