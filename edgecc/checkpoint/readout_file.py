"""A readout on disk: its sums A and B as tensors, packed into an eighth, and back bit for bit.

Features resemble each other, so most of a column of M (A, and B below it) follows from the columns
before it, as in a Cholesky decomposition. What does not follow is stored, in integers:

    W_j = M_j − rint(Σ_{r<j} V_r V_jr / 4^shift)    V_j = rint(W_j 2^shift / √W_jj), 0 if W_jj ≤ 0

V is scaled so that every sum of its products is an integer below 2⁵³: float64 adds those exactly in
any order, so W is the same on every machine. The lower part of W, column by column, is stored as
byte planes and deflated (docs/experiments.md has the sizes). Sums that are not integers up to 2⁵²
are stored as they are.

A snapshot is a file of the raw sums with their cursor, to continue from after a restart or in a
growth: once the labels between two cursors are learnt (or unlearnt), a readout saved at one is the
readout at the other, to the bit.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgecc.checkpoint import schema2_readout
from edgecc.errors import Corrupt
from edgecc.host import files
from edgecc.learn.readout import Readout

Floats = NDArray[np.float64]
Tensors = Mapping[str, NDArray[Any]]

_EXACT = 2.0**52  # integers up to here have exact sums and differences in float64
_SUMS_BITS = 51  # of the products' sums that samples make: 1 to spare for rounding
_WORK = 2**32  # entries of A times columns that others follow from: some seconds on a Pi Zero
_BLOCK, _SLAB = 64, 512  # columns and rows changed at once
_BYTES = 7  # of 2⁵³ and a sign
_DEFLATE = 1032  # bytes that one deflated byte stands for at most


def write_snapshot(path: Path, digest: str, readout: Readout, cursor: int) -> None:
    """Save the readout of the generation with this digest, at label `cursor`, whole and durable."""
    about = {"generation": digest, "cursor": str(cursor), "classes": json.dumps(readout.classes)}
    files.replace(path, save(tensors_of(readout, packed=False), metadata=about))


def read_snapshot(path: Path, dim: int) -> tuple[str, Readout, int]:
    """(digest, readout over `dim` features, cursor); Corrupt where they cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        readout = readout_from(tensors, json.loads(about["classes"]), dim)
        return about["generation"], readout, int(about["cursor"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path}: {error}") from error


def tensors_of(readout: Readout, *, packed: bool = True) -> dict[str, NDArray[Any]]:
    """The sums, packed where that is asked for and they are integers; else the lower triangle of A
    (row by row) and B, float64."""
    a, b = readout.sums()
    if packed and _whole(a) and _whole(b):
        return pack(a, b)
    return {"A": a[np.tri(len(a), dtype=bool)], "B": b}


def readout_from(tensors: Tensors, classes: list[str], dim: int) -> Readout:
    """The readout over `dim` features in these tensors; ValueError or KeyError if they do not fit.

    Reads what schema 2 packed as well.
    """
    readout, unpacked = Readout(0, list(classes)), _raw
    if "columns" in tensors:
        unpacked = unpack
    elif "lines" in tensors:
        unpacked = schema2_readout.unpack
    readout.A, readout.B = unpacked(tensors, dim + 1, len(classes))
    readout.dim = dim
    return readout


def check(tensors: Tensors, classes: list[str], dim: int) -> None:
    """ValueError or KeyError where `readout_from` would raise it, without unpacking the columns.

    Whatever inflates to integers of 7 bytes or less adds up to finite sums: no V is beyond 2⁸².
    """
    if "columns" in tensors:
        _steps(tensors["steps"], dim + 1)
        _planes(tensors["columns"], dim + 1, len(classes))
    else:
        readout_from(tensors, classes, dim)


def pack(a: Floats, b: Floats) -> dict[str, NDArray[Any]]:
    """Tensors that hold A (d, d) and B (classes, d), integers up to 2⁵².

    steps: (2,) how many columns others follow from, and the shift. columns: (bytes,) deflated.
    """
    pivots = min(len(a), _WORK // len(a) ** 2)
    shift = max(0, _SUMS_BITS - int(a.diagonal().max()).bit_length()) // 2
    w = np.vstack([a, b])
    if not _reduce(w, pivots, shift):  # these are not sums over samples
        w, pivots = np.vstack([a, b]), 0
    return {"steps": np.array([pivots, shift], np.uint32), "columns": _deflated(w)}


def unpack(tensors: Tensors, d: int, classes: int) -> tuple[Floats, Floats]:
    """(A, B) that `pack` was given; ValueError for tensors it cannot have made."""
    pivots, shift = _steps(tensors["steps"], d)
    m = _inflated(tensors["columns"], d, classes)
    scale = _scale(m.diagonal(), pivots, shift)
    for start in reversed(range(0, d, _BLOCK)):
        end = min(start + _BLOCK, d)
        here = np.tril(np.rint(m[start:end, :pivots] * scale), start - 1)[:, :end]
        for rows, products in _products(m, scale, here, start):
            rows[:, start:end] += np.rint(products / 4.0**shift)
    return _mirrored(m[:d]), m[d:].copy()


def _whole(sums: Floats) -> bool:
    return bool(((np.abs(sums) <= _EXACT) & (sums == np.rint(sums))).all())


def _reduce(m: Floats, pivots: int, shift: int) -> bool:
    """Make the lower part of M that of W; False where a product might not be exact."""
    d, scale, lengths = m.shape[1], np.zeros(pivots), np.zeros(len(m))
    for start in range(0, d, _BLOCK):
        end = min(start + _BLOCK, d)
        here = np.rint(m[start:end, :pivots] * scale)[:, :start]
        follows = np.vstack([products for _, products in _products(m, scale, here, start)])
        v = np.zeros_like(follows)
        for i, j in enumerate(range(start, end)):
            w = m[j:, j]
            w -= np.rint((follows[i:, i] + v[i:, :i] @ v[i, :i]) / 4.0**shift)
            if j < pivots:
                scale[j : j + 1] = _scale(w[:1], 1, shift)
                v[i:, i] = np.rint(w * scale[j])
                lengths[j:] += v[i:, i] ** 2
            if lengths.max() > _EXACT:  # which bounds every sum of products, by Cauchy and Schwarz
                return False
    return True


def _scale(diagonal: Floats, pivots: int, shift: int) -> Floats:
    """What a column of W is multiplied by to be one of V, for each of the first `pivots`."""
    root = np.sqrt(np.maximum(diagonal[:pivots], 0.0))
    return np.divide(2.0**shift, root, out=np.zeros_like(root), where=root > 0)


def _products(
    m: Floats, scale: Floats, here: Floats, start: int
) -> Iterator[tuple[Floats, Floats]]:
    """Rows of M from `start` down, a slab at a time, and the products of their V with `here`."""
    known = min(here.shape[1], len(scale))
    for top in range(start, len(m), _SLAB):
        rows = m[top : top + _SLAB]
        yield rows, np.rint(rows[:, :known] * scale[:known]) @ here[:, :known].T


def _deflated(w: Floats) -> NDArray[np.uint8]:
    """The lower part of W, column by column, zigzag-coded (0, -1, 1, -2, ..), by byte planes."""
    columns, place = [w[j:, j] for j in range(w.shape[1])], 0
    largest = max(int(np.abs(column).max()) for column in columns)
    planes = max(1, -(-(2 * largest).bit_length() // 8))
    by_byte = np.empty((planes, sum(map(len, columns))), np.uint8)
    for column in columns:
        values = column.astype("<i8")
        coded = ((values << 1) ^ (values >> 63)).view(np.uint8).reshape(-1, 8)
        by_byte[:, place : place + len(column)] = coded[:, :planes].T
        place += len(column)
    deflate = zlib.compressobj(strategy=zlib.Z_RLE)  # what is left has runs, and no other repeats
    return np.frombuffer(deflate.compress(by_byte.data) + deflate.flush(), np.uint8)


def _inflated(data: NDArray[Any], d: int, classes: int) -> Floats:
    """W, zero above its diagonal."""
    by_byte = _planes(data, d, classes)
    w, place = np.zeros((d + classes, d)), 0
    for j in range(d):
        column = by_byte[:, place : place + d + classes - j]
        coded = np.zeros((column.shape[1], 8), np.uint8)
        coded[:, : len(by_byte)] = column.T
        values = coded.view("<i8")[:, 0]
        w[j:, j] = (values >> 1) ^ -(values & 1)
        place += len(values)
    return w


def _planes(data: NDArray[Any], d: int, classes: int) -> NDArray[np.uint8]:
    """(bytes of an integer, integers of the lower part of W); nothing of its size is allocated
    before its bytes are there."""
    count = d * (d + 1) // 2 + classes * d
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError(f"columns are {data.dtype}{data.shape}, not bytes")
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(data.tobytes(), min(_BYTES * count, _DEFLATE * len(data)) + 1)
    except zlib.error as error:
        raise ValueError(f"columns cannot be inflated: {error}") from error
    planes, rest = divmod(len(raw), count)
    if not inflate.eof or inflate.unused_data or rest or not 1 <= planes <= _BYTES:
        raise ValueError(f"{len(raw)} bytes for {d} features, {classes} classes")
    return np.frombuffer(raw, np.uint8).reshape(planes, count)


def _steps(steps: NDArray[Any], d: int) -> tuple[int, int]:
    """How many columns others follow from, and the shift."""
    if steps.dtype != np.uint32 or steps.shape != (2,):
        raise ValueError(f"steps is {steps.dtype}{steps.shape}, expected two numbers")
    pivots, shift = map(int, steps)
    if pivots > d or shift > 26:
        raise ValueError(f"{pivots} columns of {d}, shift {shift}")
    return pivots, shift


def _raw(tensors: Tensors, d: int, classes: int) -> tuple[Floats, Floats]:
    triangle, b = tensors["A"], tensors["B"]
    if b.shape != (classes, d) or triangle.shape != (d * (d + 1) // 2,):
        raise ValueError(f"A {triangle.shape}, B {b.shape} for {d - 1} features, {classes} classes")
    if not triangle.dtype == b.dtype == np.float64:
        raise ValueError(f"A {triangle.dtype}, B {b.dtype} are not float64")
    if not (np.isfinite(triangle).all() and np.isfinite(b).all()):
        raise ValueError("sums are not finite")
    a = np.zeros((d, d))
    a[np.tri(d, dtype=bool)] = triangle
    return _mirrored(a), b


def _mirrored(a: Floats) -> Floats:
    """A with its lower triangle above the diagonal as well."""
    for i in range(len(a)):
        a[:i, i] = a[i, :i]
    return a
