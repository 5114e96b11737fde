"""Contextual convolution (Abbassi, Ancilotto, Farella, ICCV workshops 2025).

Positive and negative context share one convolution, and all classes are scored in one pass:

    L = softplus(-ℓ_y) + softplus(ℓ_n),   n a wrong class: the hardest, or random as published,
                                          or all of them: ℓ_n = log Σ_{k≠y} exp ℓ_k

What a context is, is the `mode`: contexts.py. The update is the closed form of ∂L/∂W.
"""

from typing import Literal

import torch
from torch import Tensor

from edgecc.learn.blocks import Block
from edgecc.learn.context import generate_wrong_labels
from edgecc.learn.methods.optimisers import Adam, MakeOptimiser
from edgecc.learn.methods.scored import Mode, Scored

_NEVER = -1e9


class Contextual(Scored):
    """wrong: the negative is "all" wrong classes, the "hardest", or a "random" one drawn from
    `generator`."""

    def __init__(
        self, block: Block, *, classes: int, size: tuple[int, int], grid: int = 4,
        mode: Mode = "linear", tau: float = 8.0, similarity: float = 0.0,
        wrong: Literal["all", "hardest", "random"] = "hardest",
        generator: torch.Generator | None = None, optimiser: MakeOptimiser = Adam,
    ) -> None:
        if wrong == "random" and generator is None:
            raise ValueError("wrong='random' draws from a generator: pass one")
        self._wrong = wrong
        super().__init__(
            block, classes=classes, size=size, grid=grid, mode=mode, tau=tau,
            similarity=similarity, generator=generator, optimiser=optimiser,
        )

    def error(self, scores: Tensor, y: Tensor) -> Tensor:
        classes, wrong = scores.shape[1], None
        if self._wrong == "all":
            return joint_error(scores, y)
        if self._wrong == "random" and classes > 1:
            wrong = generate_wrong_labels(y, classes, self._generator)
        return pair_error(scores, y, wrong)


def pair_error(scores: Tensor, y: Tensor, wrong: Tensor | None = None) -> Tensor:
    """e = σ(ℓ) - t on the true and one wrong class, by default the hardest; zero elsewhere; (B, K).

    With a single class there is no wrong one, and only the true class pulls.
    """
    true = y[:, None]
    e = torch.zeros_like(scores)
    if scores.shape[1] > 1:
        if wrong is None:
            wrong = scores.scatter(1, true, _NEVER).argmax(1)
        e.scatter_(1, wrong[:, None], scores.gather(1, wrong[:, None]).sigmoid())
    return e.scatter_(1, true, scores.gather(1, true).sigmoid() - 1)


def joint_error(scores: Tensor, y: Tensor) -> Tensor:
    """e of the pair whose negative is all wrong classes, ℓ_n = log Σ_{k≠y} exp ℓ_k; (B, K).

    Each wrong class takes its share of σ(ℓ_n): the hardest most, but no class is forgotten.
    """
    true = y[:, None]
    others = scores.scatter(1, true, _NEVER)
    e = others.softmax(1) * others.logsumexp(1, keepdim=True).sigmoid()
    return e.scatter_(1, true, scores.gather(1, true).sigmoid() - 1)
