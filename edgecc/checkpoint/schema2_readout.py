"""Reads the sums of a readout as checkpoints of schema 2 packed them; schema 3 is in readout_file.

Rows were taken out of M (A, and B below it) one by one, as Gauss would, each step rounded:

    w = column s of M    M -= rint(w wᵀ / w_s) below and right of s

and what was left of every line was written in Rice's code. One product and one quotient for each
entry: float64 undoes that exactly.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Tensors = Mapping[str, NDArray[Any]]

_WORK = 5 * 10**8  # entries of A that all steps together touched at most
_SLAB = 64  # rows changed at once


def unpack(tensors: Tensors, d: int, classes: int) -> tuple[Floats, Floats]:
    """A (d, d) and B (classes, d) in these tensors; ValueError for tensors that hold no sums.

    order: (d,) row and column of A at each place of M. steps: (1,) how many rows are taken out.
    lines: what is left, line after line: for each step its column of M from the diagonal down,
        then each other row of M from there to the diagonal.
    shifts, bytes: (d + classes,) Rice's parameter of each line, and its length.
    """
    _check(tensors, d, classes)
    steps, m = int(tensors["steps"][0]), np.zeros((d + classes, d))
    ends = np.cumsum(tensors["bytes"], dtype=np.int64)
    coded = zip(tensors["shifts"], np.split(tensors["lines"], ends[:-1]), strict=True)
    for line, (shift, data) in zip(_lines(m, steps), coded, strict=True):
        line[:] = _decode(data, int(shift), len(line))
    if not (np.diag(m)[:steps] > 0).all():
        raise ValueError("a step divides by zero or less")
    for step in reversed(range(steps)):
        _put_back(m, step)
    return _in_place(m, tensors["order"], d)


def _check(tensors: Tensors, d: int, classes: int) -> None:
    """ValueError where sizes do not fit, before anything of size d² is allocated."""
    lines = (d + classes,)
    for name, dtype, shape in (
        ("order", np.uint32, (d,)), ("steps", np.uint32, (1,)), ("shifts", np.uint8, lines),
        ("bytes", np.uint32, lines),
        ("lines", np.uint8, (int(tensors["bytes"].sum(dtype=np.int64)),)),
    ):
        tensor = tensors[name]
        if tensor.dtype != dtype or tensor.shape != shape:
            raise ValueError(f"{name} is {tensor.dtype}{tensor.shape}, expected {shape}")
    if 8 * len(tensors["lines"]) < d * (d + 1) // 2 + classes * d:  # a bit for each at least
        raise ValueError(f"{len(tensors['lines'])} bytes for {d} features, {classes} classes")
    if tensors["steps"][0] > min(d, _WORK // d**2):
        raise ValueError(f"{tensors['steps'][0]} steps for {d} features")
    if not np.array_equal(np.sort(tensors["order"]), np.arange(d)):
        raise ValueError(f"order is not a permutation of {d} features")


def _lines(m: Floats, steps: int) -> Iterator[Floats]:
    """Views of the lower part of M, each entry once."""
    for step in range(steps):
        yield m[step:, step]
    for row in range(steps, len(m)):
        yield m[row, steps : row + 1]


def _decode(data: NDArray[np.uint8], shift: int, count: int) -> Floats:
    """`count` integers, zigzag-coded (0, -1, 1, -2, ..): first their quotients by 2^shift, each as
    that many zeros and a one; then their remainders, `shift` bits each, lowest first."""
    if shift > 53 or len(data) > 8 * count:
        raise ValueError(f"{len(data)} bytes for {count} numbers, shift {shift}")
    bits = np.unpackbits(data)
    ones = np.flatnonzero(bits)[:count]
    start = int(ones[-1]) + 1 if len(ones) else 0
    rests = bits[start : start + count * shift]
    if len(ones) < count or len(rests) < count * shift or len(bits) - start - len(rests) > 7:
        raise ValueError(f"{len(data)} bytes do not hold {count} numbers, shift {shift}")
    high = np.diff(ones, prepend=-1) - 1
    counted = (high << shift) + rests.reshape(count, shift) @ (1 << np.arange(shift))
    return ((counted >> 1) ^ -(counted & 1)).astype(np.float64)


def _put_back(m: Floats, step: int) -> None:
    """Undo one step, a slab of the lower part of M at a time."""
    w = m[:, step].copy()
    for top in range(step + 1, len(m), _SLAB):
        end = min(top + _SLAB, len(m))
        right = min(end, m.shape[1])
        product = np.outer(w[top:end], w[step + 1 : right])
        product /= w[step]
        m[top:end, step + 1 : right] += np.rint(product, out=product)


def _in_place(m: Floats, order: NDArray[Any], d: int) -> tuple[Floats, Floats]:
    """A and B with rows and columns in the features' own order."""
    a, b = np.empty((d, d)), np.empty((len(m) - d, d))
    for i, place in enumerate(order):
        a[place, order[: i + 1]] = a[order[: i + 1], place] = m[i, : i + 1]
    b[:, order] = m[d:]
    return a, b
