"""One fixed unit vector per class, as far apart as the dimension allows.

For dim ≥ K - 1 they are the corners of a regular simplex: all cosines are -1/(K-1). Where classes
are not known up front, orthonormal rows can be appended one by one.
"""

import math
import warnings
from typing import Any

from edgecc.learn.backends import Array, Generator, namespace, of

_SPREAD_STEPS = 2000


def symmetric_vectors(classes: int, dim: int, *, generator: Generator) -> Array:
    """(K, dim) float32: a simplex where it fits, else spread as far as it goes, with a warning."""
    if dim >= classes - 1:
        return simplex(classes, dim, generator=generator)
    warnings.warn(
        f"{classes} classes cannot be equally far apart in {dim} dimensions, {classes - 1} are "
        "needed: spreading them as far as they go", stacklevel=2)
    return spread(classes, dim, generator=generator)


def simplex(classes: int, dim: int, *, generator: Generator) -> Array:
    """The regular simplex in closed form (Helmert's basis), turned by a random rotation.

    ValueError for dim < K - 1.
    """
    if dim < max(classes - 1, 1):
        raise ValueError(f"a simplex of {classes} corners does not fit {dim} dimensions")
    xp = namespace(generator)
    corners = _helmert(classes, xp) * math.sqrt(classes / max(classes - 1, 1))
    turned = corners @ _orthonormal_columns(dim, corners.shape[1], generator).T
    return xp.asarray(turned, dtype=xp.float32)


def _helmert(classes: int, xp: Any) -> Array:
    """(K, K-1): the centred identity in an orthonormal basis of the plane that it spans."""
    below = xp.tril(xp.ones((max(classes - 1, 1), classes), dtype=xp.float64))
    j = xp.arange(1, classes)
    below[j - 1, j] = -xp.asarray(j, dtype=xp.float64)
    return (below / xp.sqrt((below * below).sum(1))[:, None]).T


def _orthonormal_columns(rows: int, columns: int, generator: Generator) -> Array:
    """Uniformly distributed, since the signs of QR's diagonal are taken out."""
    xp = namespace(generator)
    q, r = xp.linalg.qr(of(generator).normal((rows, columns), generator, xp.float64))
    return q * xp.sign(xp.diagonal(r))


def spread(classes: int, dim: int, *, generator: Generator) -> Array:
    """(K, dim) with a small largest cosine: gradient descent on a soft maximum that hardens."""
    xp = namespace(generator)
    v = _units(of(generator).normal((classes, dim), generator, xp.float64))
    for step in range(_SPREAD_STEPS):
        done = step / _SPREAD_STEPS
        cosines = v @ v.T
        cosines[range(classes), range(classes)] = -math.inf
        pushes = xp.exp(10 * 20**done * (cosines - cosines.max()))
        v = _units(v - 0.2 * (1 - done) * pushes @ v / pushes.sum(1).max())
    return xp.asarray(v, dtype=xp.float32)


def _units(v: Array) -> Array:
    return v / namespace(v).sqrt((v * v).sum(1))[:, None]


def orthonormal(classes: int, dim: int, *, generator: Generator) -> Array:
    """(K, dim) of cosine zero. ValueError for dim < K."""
    xp = namespace(generator)
    return append(xp.zeros((0, dim), dtype=xp.float32), classes, generator=generator)


def append(vectors: Array, count: int, *, generator: Generator) -> Array:
    """`vectors` (K, dim), unchanged, then `count` unit rows orthogonal to them and each other.

    Rows are made one after the other, so none depends on how many follow. ValueError where the
    dimension is used up.
    """
    dim = vectors.shape[1]
    if len(vectors) + count > dim:
        raise ValueError(f"{len(vectors)} + {count} orthonormal rows do not fit {dim} dimensions")
    for _ in range(count):
        row = _units(of(generator).normal((1, dim), generator, vectors.dtype))
        for _ in range(2):  # the second time takes out what rounding left
            row = _units(row - row @ vectors.T @ vectors)
        vectors = namespace(vectors).concatenate([vectors, row])
    return vectors
