"""Similarity matching (Nøkland & Eidnes, ICML 2019): samples of a class should look alike.

    x̂ = centred and normalised pooled activation,  S = x̂ x̂ᵀ,  L = mean of (S - S_y)²

S_y is the same matrix of the one-hot labels: 1 within a class, -1/(K-1) across. It has no weights
of its own and needs no other block: a second local term beside a method's scores.
"""

from edgecc.learn.backends import Array, namespace
from edgecc.learn.grid_pool import GridPool


def similarity_gradient(a: Array, y: Array, *, classes: int, pool: GridPool) -> Array:
    """∂L/∂a of a block's output (B, C, H, W) with classes y (B,)."""
    p = pool.forward(a)
    xp, centred = namespace(p), p - p.mean(1)[:, None]
    square = (centred * centred).sum(1)[:, None]
    inverse = 1 / xp.sqrt(square.clip(xp.finfo(p.dtype).tiny))
    x = centred * inverse
    dx = (4 / len(y) ** 2) * (x @ x.T - label_similarity(y, classes, like=x)) @ x
    dp = (dx - x * (dx * x).sum(1)[:, None]) * inverse
    return pool.backward(dp - dp.mean(1)[:, None], a)


def label_similarity(y: Array, classes: int, *, like: Array) -> Array:
    """(B, B) cosines of centred one-hot labels."""
    across = -1 / max(classes - 1, 1)
    xp = namespace(like)
    same: Array = xp.asarray(y[:, None] == y, dtype=like.dtype)
    return same + across * (1 - same)
