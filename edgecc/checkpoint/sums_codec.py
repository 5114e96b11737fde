"""A readout's sums in a fraction of their bytes, and back bit for bit.

Features resemble each other, so most of A follows from some of its rows. Those are taken out one
by one, as Gauss would, each step rounded to whole numbers, so that it can be undone exactly:

    w = column s of M    M -= rint(w wᵀ / w_s) below and right of s    M = A, and B below it

The first row is the constant's: it leaves the n-fold covariances. What is left of every line is
written in Rice's code. One product, one quotient: float64 does that alike everywhere, so the same
sums are the same bytes. Sums that are not whole, or beyond 2⁵², are not packed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Tensors = Mapping[str, NDArray[Any]]

_EXACT = 2.0**52  # whole numbers up to here have exact sums and differences in float64
_WORK = 5 * 10**8  # entries of A that all steps together may touch: about a second
_SLAB = 64  # rows changed at once
_MASKS = np.array([0x55, 0x33, 0x0F, 0x01], np.uint64) * np.uint64(0x0101_0101_0101_0101)
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


def pack(a: Floats, b: Floats) -> dict[str, NDArray[Any]] | None:
    """Tensors that hold A (d, d) and B (classes, d); None where the sums are not for packing.

    order: (d,) row and column of A at each place of M. steps: (1,) how many rows are taken out.
    lines: what is left, line after line: for each step its column of M from the diagonal down,
        then each other row of M from there to the diagonal.
    shifts, bytes: (d + classes,) Rice's parameter of each line, and its length.
    """
    if not (_whole(a) and _whole(b)):
        return None
    m = np.vstack([a, b])
    order, steps = _take_out(m, min(len(a), _WORK // len(a) ** 2))
    coded = [_code(line) for line in _lines(m, steps)]
    return {
        "order": order, "steps": np.array([steps], np.uint32),
        "shifts": np.array([shift for shift, _ in coded], np.uint8),
        "bytes": np.array([len(line) for _, line in coded], np.uint32),
        "lines": np.concatenate([line for _, line in coded]),
    }


def unpack(tensors: Tensors, d: int, classes: int) -> tuple[Floats, Floats]:
    """(A, B) that `pack` was given; ValueError for tensors it cannot have made."""
    m, steps = read(tensors, d, classes), int(tensors["steps"][0])
    for step in reversed(range(steps)):
        _change(m, step, np.add)
    return _in_place(m, tensors["order"], d)


def read(tensors: Tensors, d: int, classes: int) -> Floats:
    """What is left of the sums once all steps are taken; ValueError as in `unpack`.

    A line holds whole numbers below 2⁶³, and no step divides by less than one: undone, they make
    sums below d · 2¹²⁶, which are finite.
    """
    _check(tensors, d, classes)
    steps = int(tensors["steps"][0])
    ends = np.cumsum(tensors["bytes"], dtype=np.int64)
    coded = zip(tensors["shifts"], np.split(tensors["lines"], ends[:-1]), strict=True)
    m = np.zeros((d + classes, d))
    for line, (shift, data) in zip(_lines(m, steps), coded, strict=True):
        line[:] = _decode(data, int(shift), len(line))
    if not (np.diag(m)[:steps] > 0).all():
        raise ValueError("a step divides by nothing, or less")
    return m


def check(tensors: Tensors, d: int, classes: int) -> None:
    """Refuse what `read` would refuse, in a tenth of its time: of each line only where its numbers
    end is looked for, and of a step's line the first number, which the step divides by."""
    _check(tensors, d, classes)
    lines, shifts = tensors["lines"], tensors["shifts"].astype(np.int64)
    ends = np.cumsum(tensors["bytes"], dtype=np.int64)
    begins = ends - tensors["bytes"]
    steps = int(tensors["steps"][0])
    counts = _lengths(d, classes, steps)
    if (shifts > 53).any() or (ends - begins > 8 * counts).any():
        raise ValueError("more bytes than numbers take, or a shift beyond 53")
    ones = _Ones(lines)
    here = ones.before(begins)
    rests = np.where(counts, ones.place(here + counts) + 1, 8 * begins)
    left = 8 * ends - rests - counts * shifts
    if (ones.before(ends) - here < counts).any() or (left < 0).any() or (left > 7).any():
        raise ValueError("a line does not hold its numbers")
    first = np.arange(steps)
    high = ones.place(here[first] + 1) - 8 * begins[first]
    if not (_numbers(lines, high, shifts[first], rests[first]) > 0).all():
        raise ValueError("a step divides by nothing, or less")


class _Ones:
    """Where the ones of `data` are, looked up in 64 bits at a time."""

    def __init__(self, data: Bytes) -> None:
        words = np.zeros(len(data) // 8 + 1, np.uint64)
        words.view(np.uint8)[: len(data)] = data
        self._bytes = words.view(np.uint8).reshape(-1, 8)
        self._before = np.concatenate([[0], np.cumsum(_ones(words), dtype=np.int64)])

    def before(self, byte: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many stand before each byte, or the end."""
        word = byte >> 3
        within = _ONES[self._bytes[word]] * (np.arange(8) < (byte & 7)[:, None])
        return np.asarray(self._before[word] + within.sum(axis=1))

    def place(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """The bit where the `wanted`-th is, from 1; somewhere where there are fewer."""
        word = np.clip(np.searchsorted(self._before, wanted) - 1, 0, len(self._bytes) - 1)
        count = np.cumsum(np.unpackbits(self._bytes[word], axis=1), axis=1)
        return np.asarray(64 * word + (count == (wanted - self._before[word])[:, None]).argmax(1))


def _ones(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """In each word; before numpy 2, counted in pairs of bits, in fours, in eights."""
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(words), np.uint64)
    one, two, four, most = np.array([1, 2, 4, 56], np.uint64)
    pairs = words - (words >> one & _MASKS[0])
    fours = (pairs & _MASKS[1]) + (pairs >> two & _MASKS[1])
    eights = fours + (fours >> four) & _MASKS[2]
    return np.asarray(eights * _MASKS[3] >> most)


def _numbers(
    lines: Bytes, high: NDArray[np.int64], shifts: NDArray[np.int64], rests: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Each line's first number, of the zeros before its first one and the bits at its `rests`."""
    place = np.arange(54)
    at = np.minimum(rests[:, None] + place, 8 * len(lines) - 1)
    bits = (lines[at >> 3] >> (7 - (at & 7))) & 1
    low = (np.where(place < shifts[:, None], bits, 0).astype(np.int64) << place).sum(axis=1)
    counted = (high << shifts) + low
    return np.asarray((counted >> 1) ^ -(counted & 1))


def _check(tensors: Tensors, d: int, classes: int) -> None:
    """ValueError where sizes do not fit, before anything of size d² is allocated."""
    lines = (d + classes,)
    for name, dtype, shape in (
        ("order", np.uint32, (d,)), ("steps", np.uint32, (1,)), ("shifts", np.uint8, lines),
        ("bytes", np.uint32, lines),
        ("lines", np.uint8, (int(tensors["bytes"].sum(dtype=np.int64)),)),
    ):
        found = tensors[name]
        if found.dtype != dtype or found.shape != shape:
            raise ValueError(f"{name} is {found.dtype}{found.shape}, expected {shape}")
    if 8 * len(tensors["lines"]) < d * (d + 1) // 2 + classes * d:  # a bit for each at least
        raise ValueError(f"{len(tensors['lines'])} bytes for {d} features, {classes} classes")
    if tensors["steps"][0] > min(d, _WORK // d**2):
        raise ValueError(f"{tensors['steps'][0]} steps for {d} features")
    if not np.array_equal(np.sort(tensors["order"]), np.arange(d)):
        raise ValueError(f"order is not one of {d} features")


def _whole(sums: Floats) -> bool:
    return bool(((np.abs(sums) <= _EXACT) & (sums == np.rint(sums))).all())


def _take_out(m: Floats, most: int) -> tuple[NDArray[np.uint32], int]:
    """Take rows out of M while that is exact: the constant, then each time what varies most given
    those before. The order its rows and columns are in now, and how many were taken out."""
    order, largest = np.arange(m.shape[1], dtype=np.uint32), float(np.abs(m).max())
    for step in range(most):
        if step:
            _exchange(m, order, step, step + int(np.diag(m)[step:].argmax()))
        w = m[step:, step]
        if w[0] <= 0:
            return order, step
        largest += float(np.abs(w).max()) ** 2 / float(w[0])
        if largest > _EXACT:
            return order, step
        _change(m, step, np.subtract)
    return order, most


def _exchange(m: Floats, order: NDArray[np.uint32], i: int, k: int) -> None:
    """Rows and columns i and k > i of M, of which only the lower part counts."""
    if i == k:
        return
    both, swapped = [i, k], [k, i]
    order[both] = order[swapped]
    m[both, :i] = m[swapped, :i]
    m[i, i], m[k, k] = m[k, k], m[i, i]
    m[i + 1 : k, i], m[k, i + 1 : k] = m[k, i + 1 : k].copy(), m[i + 1 : k, i].copy()
    m[k + 1 :, both] = m[k + 1 :, swapped]


def _change(m: Floats, step: int, change: np.ufunc) -> None:
    """M changed by rint(w wᵀ / w_s), a slab of its lower part at a time."""
    w = m[:, step].copy()
    for top in range(step + 1, len(m), _SLAB):
        end = min(top + _SLAB, len(m))
        right = min(end, m.shape[1])
        product = np.outer(w[top:end], w[step + 1 : right])
        product /= w[step]
        part = m[top:end, step + 1 : right]
        change(part, np.rint(product, out=product), out=part)


def _lines(m: Floats, steps: int) -> Iterator[Floats]:
    """Views of the lower part of M, each entry once."""
    for step in range(steps):
        yield m[step:, step]
    for row in range(steps, len(m)):
        yield m[row, steps : row + 1]


def _lengths(d: int, classes: int, steps: int) -> NDArray[np.int64]:
    """Of `_lines`, of sums that need not be there."""
    columns = d + classes - np.arange(steps)
    rows = np.minimum(np.arange(steps, d + classes) + 1, d) - steps
    return np.concatenate([columns, rows])


def _in_place(m: Floats, order: NDArray[Any], d: int) -> tuple[Floats, Floats]:
    """Both sums with their rows where they belong."""
    a, b = np.empty((d, d)), np.empty((len(m) - d, d))
    for i, place in enumerate(order):
        a[place, order[: i + 1]] = a[order[: i + 1], place] = m[i, : i + 1]
    b[:, order] = m[d:]
    return a, b


# --- Rice's code ---


def _code(line: Floats) -> tuple[int, Bytes]:
    """Shift and bytes: of each number, 0, -1, 1, -2, .. counted from 0, how often 2^shift goes
    into it as so many zeros before a one; then the rests, `shift` bits each, lowest first."""
    whole = line.astype(np.int64)
    counted = (whole << 1) ^ (whole >> 63)
    total = (int((counted >> 20).sum()) << 20) + int((counted & 0xFFFFF).sum())  # past 64 bits
    shift = max(1, total * 69 // (100 * max(1, len(line)))).bit_length() - 1
    ones = np.cumsum((counted >> shift) + 1) - 1
    bits = np.zeros(len(line) and int(ones[-1]) + 1, np.uint8)
    bits[ones] = 1
    rests = (counted[:, None] >> np.arange(shift)) & 1
    return shift, np.packbits(np.concatenate([bits, rests.ravel().astype(np.uint8)]))


def _decode(data: Bytes, shift: int, count: int) -> Floats:
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
