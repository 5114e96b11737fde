"""Contextual convolution (Abbassi, Ancilotto, Farella, ICCV workshops 2025).

Positive and negative context share one convolution, and all classes are scored in one pass:

    L = softplus(-ℓ_y) + softplus(ℓ_n),   n a wrong class: the hardest, or random as published,
                                          or all of them: ℓ_n = log Σ_{k≠y} exp ℓ_k

The `mode` says what a context is: contexts.py. The update is the closed form of ∂L/∂W.
"""

from typing import Any, Literal

from edgecc.learn.backends import Array, Generator, namespace, of
from edgecc.learn.blocks import Block
from edgecc.learn.contextual_pairs import generate_wrong_labels
from edgecc.learn.methods.scored import Scored

_NEVER = -1e9


class Contextual(Scored):
    """wrong: the negative is the "hardest" wrong class, a "random" one drawn from `generator`, or
    "all" of them. options: as of `Scored`."""

    def __init__(
        self, block: Block, *, wrong: Literal["all", "hardest", "random"] = "hardest",
        generator: Generator | None = None, **options: Any,
    ) -> None:
        if wrong == "random" and generator is None:
            raise ValueError("wrong='random' draws from a generator: pass one")
        self._wrong = wrong
        super().__init__(block, generator=generator, **options)

    def error(self, scores: Array, y: Array) -> Array:
        classes, wrong = scores.shape[1], None
        if self._wrong == "all":
            return joint_error(scores, y)
        if self._wrong == "random" and classes > 1:
            wrong = generate_wrong_labels(y, classes, self._generator)
        return pair_error(scores, y, wrong)


def pair_error(scores: Array, y: Array, wrong: Array | None = None) -> Array:
    """e = σ(ℓ) - t on the true and one wrong class, by default the hardest; zero elsewhere; (B, K).

    With a single class, there is only the error of the true class.
    """
    e, sigmoid, rows = namespace(scores).zeros_like(scores), of(scores).sigmoid, range(len(y))
    if scores.shape[1] > 1:
        if wrong is None:
            wrong = _of_wrong(scores, y).argmax(1)
        e[rows, wrong] = sigmoid(scores[rows, wrong])
    e[rows, y] = sigmoid(scores[rows, y]) - 1
    return e


def joint_error(scores: Array, y: Array) -> Array:
    """e of the pair whose negative is all wrong classes, ℓ_n = log Σ_{k≠y} exp ℓ_k; (B, K).

    Each wrong class gets its softmax share of σ(ℓ_n): most for the hardest, something for all.
    """
    ops, rows, others = of(scores), range(len(y)), _of_wrong(scores, y)
    e = ops.softmax(others) * ops.sigmoid(ops.logsumexp(others))[:, None]
    e[rows, y] = ops.sigmoid(scores[rows, y]) - 1
    return e


def _of_wrong(scores: Array, y: Array) -> Array:
    """Scores with the true class's set so low that it counts for nothing."""
    others = namespace(scores).asarray(scores, copy=True)
    others[range(len(y)), y] = _NEVER
    return others
