"""A readout's sums as the tensors of a file: packed, or as they are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.checkpoint import sums_codec as packing
from edgecc.learn.readout import Readout


def tensors_of(readout: Readout, *, packed: bool = True) -> dict[str, NDArray[Any]]:
    """The sums, packed; where that cannot be or takes too long, A's lower triangle, row by row,
    and B."""
    a, b = readout.sums()
    small = packing.pack(a, b) if packed else None
    if small is not None:
        return small
    return {"A": np.concatenate([row[: i + 1] for i, row in enumerate(a)]), "B": b}


def readout_from(tensors: dict[str, NDArray[Any]], classes: list[str], dim: int) -> Readout:
    """The readout over `dim` features in these tensors; ValueError where they are of another."""
    readout = Readout(0, list(classes))
    if "lines" in tensors:
        readout.A, readout.B = packing.unpack(tensors, dim + 1, len(classes))
    else:
        readout.A, readout.B = _raw(tensors["A"], tensors["B"], len(classes), dim + 1)
    readout.dim = dim
    return readout


def check(tensors: dict[str, NDArray[Any]], classes: list[str], dim: int) -> None:
    """ValueError where `readout_from` would raise it."""
    if "lines" in tensors:
        packing.check(tensors, dim + 1, len(classes))
    else:
        readout_from(tensors, classes, dim)


def _raw(
    triangle: NDArray[Any], b: NDArray[Any], classes: int, d: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if b.shape != (classes, d) or triangle.shape != (d * (d + 1) // 2,):
        raise ValueError(f"A {triangle.shape}, B {b.shape} for {d - 1} features, {classes} classes")
    if not triangle.dtype == b.dtype == np.float64:
        raise ValueError(f"A {triangle.dtype}, B {b.dtype} are not float64")
    if not (np.isfinite(triangle).all() and np.isfinite(b).all()):
        raise ValueError("sums are not finite")
    a = np.zeros((d, d))
    for i in range(d):
        start = i * (i + 1) // 2
        a[i, : i + 1] = a[: i + 1, i] = triangle[start : start + i + 1]
    return a, b
