"""The published recipe of contextual convolution, for comparison (Abbassi et al. 2025).

Only block 0 has a context, a bias; further up, only the input depends on it. Each block separates
positives from negatives by its goodness, logit = Σ a² - D, and is frozen before the next trains.
As published: channels 8 to 128, kernel 3, Adam at 1e-3, batch 64, ten epochs a block. Unlike the
released code, prediction sees no label: it tries the context of every class.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from edgecc.learn.blocks import Block, Pass, Plane, PoolConv
from edgecc.learn.contextual_pairs import generate_wrong_labels
from edgecc.learn.methods.base import Local, Method
from edgecc.learn.methods.contextual import Contextual
from edgecc.learn.methods.optimisers import Adam, MakeOptimiser

_ADAM = partial(Adam, beta2=0.999)


class Goodness(Method):
    """Raises Σ a² over D where y is 1, a positive, and lowers it where y is 0; scores (B, 2)."""

    def __init__(self, block: Block, *, optimiser: MakeOptimiser = Adam) -> None:
        super().__init__(block, own={}, optimiser=optimiser)

    def local(self, done: Pass, y: Tensor) -> Local:
        scores = self.scores(done)
        e = (scores[:, 1].sigmoid() - y) / len(y)
        return Local(scores, [], 2 * done.a * e[:, None, None, None])

    def scores(self, done: Pass) -> Tensor:
        logit = done.a.square().sum((1, 2, 3)) - done.a[0].numel()
        return torch.stack([torch.zeros_like(logit), logit], 1)


class CompatNetwork:
    """Blocks of the published recipe on maps of `size`; pools are cut to the map's sides."""

    def __init__(
        self, c_in: int, *, classes: int, size: tuple[int, int], generator: torch.Generator,
        channels: Sequence[int] = (8, 16, 32, 64, 128), pools: Sequence[int] = (1, 2, 2, 2, 2),
        k: Plane = 3,
    ) -> None:
        self._generator, self._classes = generator, classes
        blocks: list[Block] = []
        first_size = size
        for width, m in zip(channels, pools, strict=True):
            pool = (min(m, size[0]), min(m, size[1]))
            blocks.append(PoolConv(c_in, pool, width, k, generator=generator))
            c_in, *rest = blocks[-1].output_shape(size)
            size = (rest[0], rest[1])
        first = _contextual(blocks[0], classes, first_size, generator)
        self._beta = first.context.own["beta"]
        self.methods: list[Method] = [
            first, *(Goodness(block, optimiser=_ADAM) for block in blocks[1:])]

    def step(self, x: Tensor, y: Tensor, *, block: int, rate: float) -> Tensor:
        """One local update of `block` on the frozen ones below it; scores before it.

        Block 0 scores the classes (B, K), the others negatives and positives (2B, 2).
        """
        if block == 0:
            return self.methods[0].step(x, y, rate=rate)
        wrong = generate_wrong_labels(y, self._classes, self._generator)
        n = self.methods[0].block.frozen(x).n
        u = torch.cat([self._in_context(n, y), self._in_context(n, wrong)])
        for method in self.methods[1:block]:
            u = method.block(u)
        positive = torch.arange(len(u)) < len(y)
        return self.methods[block].step(u, positive.long(), rate=rate)

    def scores(self, x: Tensor) -> Tensor:
        """(B, K): the mean goodness of each class's context, summed over the blocks."""
        n = self.methods[0].block.frozen(x).n
        labels = torch.arange(self._classes)[:, None].expand(-1, len(x))
        return torch.stack([self._goodness(self._in_context(n, y)) for y in labels], 1)

    def predict(self, x: Tensor) -> Tensor:
        """Classes (B,)."""
        return self.scores(x).argmax(1)

    def _in_context(self, n: Tensor, y: Tensor) -> Tensor:
        """y^k = ReLU(n + β_k) of each sample's class."""
        return (n + self._beta[y][:, :, None, None]).relu()

    def _goodness(self, a: Tensor) -> Tensor:
        total = a.square().mean((1, 2, 3))
        for method in self.methods[1:]:
            a = method.block(a)
            total = total + a.square().mean((1, 2, 3))
        return total


def _contextual(
    block: Block, classes: int, size: tuple[int, int], generator: torch.Generator
) -> Contextual:
    """tau is D, which makes τ (G - 1) of the mean G the published Σ y² - D."""
    return Contextual(
        block, classes=classes, size=size, mode="bias",
        tau=float(math.prod(block.output_shape(size))), wrong="random", generator=generator,
        optimiser=_ADAM,
    )
