"""One unit vector per class, all as far apart as the dimension allows, drawn once and kept.

For dim ≥ K - 1 they are the corners of a regular simplex, every cosine exactly -1/(K-1). For
classes that are not known up front there are orthonormal rows, to which more can be appended.
"""

import math
import warnings

import torch
from torch import Tensor

_SPREAD_STEPS = 2000


def symmetric_vectors(classes: int, dim: int, *, generator: torch.Generator) -> Tensor:
    """(K, dim) float32: a simplex where it fits, else spread as far as it goes, with a warning."""
    if dim >= classes - 1:
        return simplex(classes, dim, generator=generator)
    warnings.warn(
        f"{classes} classes in {dim} dimensions cannot be equally far apart: "
        f"{classes - 1} are needed; spreading them", stacklevel=2,
    )
    return spread(classes, dim, generator=generator)


def simplex(classes: int, dim: int, *, generator: torch.Generator) -> Tensor:
    """The regular simplex in closed form (Helmert's basis), turned by a random rotation.

    ValueError for dim < K - 1.
    """
    if dim < max(classes - 1, 1):
        raise ValueError(f"a simplex of {classes} corners does not fit {dim} dimensions")
    corners = _helmert(classes) * math.sqrt(classes / max(classes - 1, 1))
    return (corners @ _orthonormal_columns(dim, corners.shape[1], generator).T).float()


def _helmert(classes: int) -> Tensor:
    """(K, K-1): the centred identity in an orthonormal basis of the plane that it spans."""
    if classes == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    j = torch.arange(1, classes, dtype=torch.float64)
    below = torch.tril(torch.ones(classes - 1, classes, dtype=torch.float64))
    below[j.long() - 1, j.long()] = -j
    return (below / (j * (j + 1)).sqrt()[:, None]).T


def _orthonormal_columns(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Uniformly distributed: the signs of QR's diagonal are taken out."""
    draw = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    found: tuple[Tensor, Tensor] = torch.linalg.qr(draw)
    return found[0] * found[1].diagonal().sign()


def spread(classes: int, dim: int, *, generator: torch.Generator) -> Tensor:
    """(K, dim) with the largest cosine made small: descent on a soft maximum that hardens."""
    v = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    v /= v.norm(dim=1, keepdim=True)
    for step in range(_SPREAD_STEPS):
        done = step / _SPREAD_STEPS
        cosines = (v @ v.T).fill_diagonal_(-torch.inf)
        pushes = (10 * 20**done * (cosines - cosines.max())).exp()
        v -= 0.2 * (1 - done) * pushes @ v / pushes.sum(1, keepdim=True).max()
        v /= v.norm(dim=1, keepdim=True)
    return v.float()


def orthonormal(classes: int, dim: int, *, generator: torch.Generator) -> Tensor:
    """(K, dim) of cosine zero. ValueError for dim < K."""
    return append(torch.zeros(0, dim), classes, generator=generator)


def append(vectors: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """`vectors` (K, dim), unchanged, then `count` unit rows orthogonal to them and each other.

    Row by row: what a row becomes does not depend on how many are appended with it.
    ValueError where the dimension is used up.
    """
    dim = vectors.shape[1]
    if len(vectors) + count > dim:
        raise ValueError(f"{len(vectors)} + {count} orthonormal rows do not fit {dim} dimensions")
    for _ in range(count):
        row = torch.randn(dim, generator=generator)
        for _ in range(2):  # the second time takes out what rounding left
            row = row / row.norm()
            row = row - vectors.T @ (vectors @ row)
        vectors = torch.cat([vectors, (row / row.norm())[None]])
    return vectors
