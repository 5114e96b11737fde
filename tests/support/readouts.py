"""Small readouts, and whether two are alike to the bit."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from edgecc.learn.readout import Readout

DIM = 5
Learnt = tuple[list[int], str]


def readout_of(samples: Iterable[Learnt], classes: Iterable[str] = "abc") -> Readout:
    readout = Readout(DIM, list(classes))
    for values, label in samples:
        readout.learn(np.array(values, float), label)
    return readout


def same_bits(one: Readout, other: Readout) -> bool:
    """A, B and classes alike; copying sums up what still waits."""
    left, right = one.copy(), other.copy()
    return (
        left.A.tobytes() == right.A.tobytes()
        and left.B.tobytes() == right.B.tobytes()
        and left.classes == right.classes
    )


def saved_sums(path: Path) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Classes, A and B of a live readout on disk."""
    with safe_open(path, framework="numpy") as file:
        classes = json.loads(file.metadata()["classes"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    d = tensors["B"].shape[1]
    a = np.zeros((d, d))
    a[np.tril_indices(d)] = tensors["A"]
    return classes, a + np.tril(a, -1).T, tensors["B"]
