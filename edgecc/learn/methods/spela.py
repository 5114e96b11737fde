"""SPELA: learning by a single forward pass (Somasundaram et al., TMLR 2025, arXiv 2402.09769).

Each class has a fixed unit vector v; a block's output h is turned towards that of its class:

    c = cos(h, v_y)      L = -c,  log(2 - c)  or  (1 - c)²
    u = -∂L/∂c v_y       -∂L/∂c = 1,  1/(2 - c)  or  2(1 - c)
    ∂L/∂h = -(u - (u·h/‖h‖) h/‖h‖) / ‖h‖

The prediction, at any block, is the class of the nearest vector, max_k cos(h, v_k). "softmax" is
the cross-entropy of that decision, as in NormFace (Wang et al. 2017), and not in the paper:

    p = softmax(c / τ)   L = -log p_y   u = Σ_k ([k = y] - p_k) v_k / τ
"""

from collections.abc import Callable
from typing import Literal

from edgecc.learn.backends import Array, Generator, namespace, of
from edgecc.learn.blocks import Block, Pass
from edgecc.learn.methods.base import Local, Method
from edgecc.learn.methods.optimisers import Adam, MakeOptimiser
from edgecc.learn.methods.supervised import entropy_error
from edgecc.learn.symmetric_vectors import simplex

Loss = Literal["cosine", "log", "squared", "softmax"]
TEMPERATURE = 0.05  # τ


class Spela(Method):
    """Turns the whole flat output of `block` towards `vectors` (K, D), D its number of values."""

    def __init__(
        self, block: Block, *, vectors: Array, loss: Loss = "log", optimiser: MakeOptimiser = Adam
    ) -> None:
        self._loss = loss
        self.vectors: Array = namespace(vectors).asarray(vectors, dtype=block.weights[0].dtype)
        super().__init__(block, own={}, fixed={"vectors": self.vectors}, optimiser=optimiser)

    def local(self, done: Pass, y: Array) -> Local:
        h, inverse = unit(done.a.reshape(len(done.a), -1))
        scores = h @ self.vectors.T
        dh = turn(h, self._towards(scores, y), inverse) / len(y)
        return Local(scores, [], dh.reshape(done.a.shape))

    def _towards(self, cosines: Array, y: Array) -> Array:
        """u (B, D) from cosines (B, K)."""
        if self._loss == "softmax":
            return -entropy_error(cosines / TEMPERATURE, y) / TEMPERATURE @ self.vectors
        own = cosines[range(len(y)), y][:, None]
        return _PULL[self._loss](own) * self.vectors[y]

    def scores(self, done: Pass) -> Array:
        return unit(done.a.reshape(len(done.a), -1))[0] @ self.vectors.T


class SpelaChannels(Method):
    """The variant for convolutions: each channel tells a few groups of classes apart.

    Channel j draws n_j groups (2 to 9, K at most), a random surjection of classes onto them, and
    a trainable projection P_j of its flat map to `dim` values, turned to its group's vector by
    (1 - cos)². Scores are the cosines' mean over channels. Memory is B·C·dim, not B·C·K·dim.
    """

    def __init__(
        self, block: Block, *, classes: int, size: tuple[int, int], generator: Generator,
        dim: int = 100, optimiser: MakeOptimiser = Adam,
    ) -> None:
        channels, height, width = block.output_shape(size)
        like, cells = block.weights[0], height * width
        ops, xp = of(like), namespace(like)
        counts = [min(int(ops.integers(2, 10, (), generator)), classes) for _ in range(channels)]
        self.group = xp.stack([surjection(classes, n, generator=generator) for n in counts])
        self.vectors = xp.zeros((channels, max(counts), dim), dtype=like.dtype)  # (C, G, dim)
        for vectors, n in zip(self.vectors, counts, strict=True):
            vectors[:n] = simplex(n, dim, generator=generator)
        self.projection = cells**-0.5 * ops.normal((channels, cells, dim), generator, like.dtype)
        super().__init__(
            block, own={"projection": self.projection},
            fixed={"group": self.group, "vectors": self.vectors}, optimiser=optimiser)

    def local(self, done: Pass, y: Array) -> Local:
        maps, h, inverse = self._projected(done.a)
        channel = namespace(h).arange(len(h))[:, None]
        v = self.vectors[channel, self.group[:, y]]  # (C, B, dim)
        cosine = (h * v).sum(-1)[..., None]
        dh = turn(h, _PULL["squared"](cosine) * v, inverse) / len(y)
        da = (dh @ self.projection.swapaxes(1, 2)).swapaxes(0, 1).reshape(done.a.shape)
        return Local(self._scores(h), [maps.swapaxes(1, 2) @ dh], da)

    def scores(self, done: Pass) -> Array:
        return self._scores(self._projected(done.a)[1])

    def _projected(self, a: Array) -> tuple[Array, Array, Array]:
        """Flat maps (C, B, H·W), their unit projections (C, B, dim), 1 / lengths (C, B, 1)."""
        maps = a.reshape(*a.shape[:2], -1).swapaxes(0, 1)
        return maps, *unit(maps @ self.projection)

    def _scores(self, h: Array) -> Array:
        xp, cosines = namespace(h), h @ self.vectors.swapaxes(1, 2)  # (C, B, G)
        groups = xp.arange(cosines.shape[2])[:, None]
        member: Array = xp.asarray(self.group[:, None] == groups, dtype=h.dtype)  # (C, G, K)
        by_channel = cosines.swapaxes(0, 1).reshape(h.shape[1], -1)  # (B, C·G)
        return by_channel @ member.reshape(-1, member.shape[2]) / len(h)


def unit(h: Array) -> tuple[Array, Array]:
    """h/‖h‖ and 1/‖h‖ along the last axis; both zero where h is."""
    length: Array = namespace(h).sqrt((h * h).sum(-1))[..., None]
    inverse = (length > 0) / (length + (length == 0))  # never a division by zero
    return h * inverse, inverse


def turn(h: Array, u: Array, inverse: Array) -> Array:
    """∂L/∂ the unnormalised output, from its direction h, 1/length, and u = -∂L/∂h: the part of u
    along h changes no cosine and is taken out."""
    return -inverse * (u - (u * h).sum(-1)[..., None] * h)


_PULL: dict[Loss, Callable[[Array], Array]] = {  # -∂L/∂c
    "cosine": lambda cosine: 1 + 0 * cosine,
    "log": lambda cosine: 1 / (2 - cosine),
    "squared": lambda cosine: 2 * (1 - cosine),
}


def surjection(classes: int, groups: int, *, generator: Generator) -> Array:
    """(K,) group of each class, random, no group empty. ValueError for more groups than classes."""
    if groups > classes:
        raise ValueError(f"{classes} classes cannot fill {groups} groups")
    ops, xp = of(generator), namespace(generator)
    rest = ops.integers(0, groups, (classes - groups,), generator)
    order = ops.permutation(classes, generator)
    return xp.concatenate([xp.arange(groups), rest])[order]
