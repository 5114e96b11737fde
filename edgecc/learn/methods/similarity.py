"""Similarity matching (Nøkland & Eidnes, ICML 2019): samples of a class should look alike.

    x̂ = centred and normalised pooled activation,  S = x̂ x̂ᵀ,  L = mean of (S - S_y)²

S_y is the same matrix of the one-hot labels: 1 within a class, -1/(K-1) across. No labels of other
blocks and no weights of its own: a second local term beside a method's scores.
"""

import torch
from torch import Tensor

from edgecc.learn.methods.contexts import GridPool


def similarity_gradient(a: Tensor, y: Tensor, *, classes: int, pool: GridPool) -> Tensor:
    """∂L/∂a of a block's output (B, C, H, W) with classes y (B,)."""
    p = pool.forward(a)
    centred = p - p.mean(1, keepdim=True)
    inverse = centred.square().sum(1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny).rsqrt()
    x = centred * inverse
    dx = (4 / len(y) ** 2) * (x @ x.T - label_similarity(y, classes, like=x)) @ x
    dp = (dx - x * (dx * x).sum(1, keepdim=True)) * inverse
    return pool.backward(dp - dp.mean(1, keepdim=True), a)


def label_similarity(y: Tensor, classes: int, *, like: Tensor) -> Tensor:
    """(B, B) cosines of centred one-hot labels."""
    across = -1 / max(classes - 1, 1)
    return torch.where(y[:, None] == y, 1.0, across).to(like.dtype)
