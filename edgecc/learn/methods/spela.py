"""SPELA: learning by a single forward pass (Somasundaram et al., TMLR 2025, arXiv 2402.09769).

Each class has a fixed unit vector v; a block's output h is turned towards that of its class:

    c = cos(h, v_y)      L = -c,  log(2 - c)  or  (1 - c)²      g = -∂L/∂c = 1, 1/(2-c), 2(1-c)
    ∂L/∂h = -g (v_y - c h/‖h‖) / ‖h‖

The prediction, at any block, is the class of the nearest vector.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecc.learn.blocks import Block, Pass
from edgecc.learn.methods.base import Local, Method
from edgecc.learn.methods.optimisers import Adam, MakeOptimiser
from edgecc.learn.symmetric_vectors import simplex

Loss = Literal["cosine", "log", "squared"]


class Spela(Method):
    """Turns the whole flat output of `block` towards `vectors` (K, D), D its number of values."""

    def __init__(
        self, block: Block, *, vectors: Tensor, loss: Loss = "log", optimiser: MakeOptimiser = Adam
    ) -> None:
        self.vectors, self._loss = vectors.to(block.weights[0].dtype), loss
        super().__init__(block, own={}, fixed={"vectors": self.vectors}, optimiser=optimiser)

    def local(self, done: Pass, y: Tensor) -> Local:
        h, inverse = unit(done.a.flatten(1))
        scores = h @ self.vectors.T
        dh = turn(h, self.vectors[y], inverse, loss=self._loss) / len(y)
        return Local(scores, done.back(dh.view_as(done.a)), [])

    def scores(self, done: Pass) -> Tensor:
        return unit(done.a.flatten(1))[0] @ self.vectors.T


class SpelaChannels(Method):
    """The variant for convolutions: each channel tells a few groups of classes apart.

    Channel j draws n_j groups (2 to 9, K at most), a random surjection of classes onto them, and
    a trainable projection P_j of its flat map to `dim` values, turned to its group's vector by
    (1 - cos)². Scores are the cosines' mean over channels. Memory is B·C·dim, not B·C·K·dim.
    """

    def __init__(
        self, block: Block, *, classes: int, size: tuple[int, int], generator: torch.Generator,
        dim: int = 100, optimiser: MakeOptimiser = Adam,
    ) -> None:
        channels, height, width = block.output_shape(size)
        dtype = block.weights[0].dtype
        counts = [_group_count(classes, generator) for _ in range(channels)]
        self.group = torch.stack([surjection(classes, n, generator=generator) for n in counts])
        self.vectors = torch.stack([
            F.pad(simplex(n, dim, generator=generator), (0, 0, 0, max(counts) - n))
            for n in counts]).to(dtype)  # (C, G, dim)
        cells = height * width
        self.projection = cells**-0.5 * torch.randn(
            channels, cells, dim, generator=generator, dtype=dtype)
        super().__init__(
            block, own={"projection": self.projection},
            fixed={"group": self.group, "vectors": self.vectors}, optimiser=optimiser,
        )

    def local(self, done: Pass, y: Tensor) -> Local:
        maps, h, inverse = self._projected(done.a)
        channel = torch.arange(len(h))[:, None]
        v = self.vectors[channel, self.group[:, y]]  # (C, B, dim)
        dh = turn(h, v, inverse, loss="squared") / len(y)
        da = (dh @ self.projection.transpose(1, 2)).transpose(0, 1).reshape_as(done.a)
        return Local(self._scores(h), done.back(da), [maps.transpose(1, 2) @ dh])

    def scores(self, done: Pass) -> Tensor:
        return self._scores(self._projected(done.a)[1])

    def _projected(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flat maps (C, B, H·W), their unit projections (C, B, dim), 1 / lengths (C, B, 1)."""
        maps = a.flatten(2).transpose(0, 1)
        return maps, *unit(maps @ self.projection)

    def _scores(self, h: Tensor) -> Tensor:
        cosines = h @ self.vectors.transpose(1, 2)  # (C, B, G)
        member = F.one_hot(self.group, cosines.shape[2]).to(h.dtype)  # (C, K, G)
        by_channel = cosines.transpose(0, 1).flatten(1)  # (B, C·G)
        return by_channel @ member.transpose(1, 2).flatten(0, 1) / len(h)


def unit(h: Tensor) -> tuple[Tensor, Tensor]:
    """h/‖h‖ and 1/‖h‖ along the last axis; both zero where h is."""
    length = h.norm(dim=-1, keepdim=True)
    inverse = torch.where(length > 0, 1 / length, 0.0)
    return h * inverse, inverse


def turn(h: Tensor, v: Tensor, inverse: Tensor, *, loss: Loss) -> Tensor:
    """∂L/∂ the unnormalised output, of its direction h, its 1/length and its class's vector v."""
    cosine = (h * v).sum(-1, keepdim=True)
    return -_PULL[loss](cosine) * inverse * (v - cosine * h)


_PULL: dict[Loss, Callable[[Tensor], Tensor]] = {
    "cosine": torch.ones_like,
    "log": lambda cosine: 1 / (2 - cosine),
    "squared": lambda cosine: 2 * (1 - cosine),
}


def surjection(classes: int, groups: int, *, generator: torch.Generator) -> Tensor:
    """(K,) group of each class, random, no group empty. ValueError for more groups than classes."""
    if groups > classes:
        raise ValueError(f"{classes} classes cannot fill {groups} groups")
    rest = torch.randint(groups, (classes - groups,), generator=generator)
    order = torch.randperm(classes, generator=generator)
    return torch.cat([torch.arange(groups), rest])[order]


def _group_count(classes: int, generator: torch.Generator) -> int:
    drawn = int(torch.randint(2, 10, (), generator=generator))
    return min(drawn, classes)
