"""Methods that score classes by their contexts; they differ in the error at the scores.

A second local loss, without weights of its own, can make samples of a class look alike (similarity
matching, Nøkland & Eidnes, ICML 2019):

    x̂ = centred and normalised pooled activation,  S = x̂ x̂ᵀ,  L = mean of (S - S_y)²

S_y is the same matrix of the one-hot labels: 1 within a class, -1/(K-1) across.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from edgecc.learn.backends import Array, Generator, namespace, of, without_graph
from edgecc.learn.blocks import Block, Pass
from edgecc.learn.grid_pool import GridPool
from edgecc.learn.methods.base import Local, Method
from edgecc.learn.methods.contexts import BiasContext, Context, LinearContext, ScaleContext
from edgecc.learn.methods.optimisers import Adam, MakeOptimiser
from edgecc.learn.norms import BatchNorm

Mode = Literal["linear", "bias", "scale"]


class Scored(Method):
    """Trains `block` on maps of `size` (height, width) for a fixed number of classes.

    mode: the context, "linear" with a `grid`, or "bias" or "scale" with a `tau`, initialised from
    `generator`; similarity: weight of the similarity loss beside the method's own.
    """

    def __init__(
        self, block: Block, *, classes: int, size: tuple[int, int], grid: int = 4,
        mode: Mode = "linear", tau: float = 8.0, similarity: float = 0.0,
        generator: Generator | None = None, optimiser: MakeOptimiser = Adam,
    ) -> None:
        channels, *out = block.output_shape(size)
        self._pool = GridPool((out[0], out[1]), grid)
        self._similarity, self._classes = similarity, classes
        like = block.weights[0]
        self.context: Context
        if mode == "linear":
            self.context = LinearContext(like, classes=classes, channels=channels, pool=self._pool)
        else:
            draws = of(like).normal((classes, channels), generator, like.dtype)
            self.context = BiasContext(draws, tau) if mode == "bias" else ScaleContext(draws, tau)
        super().__init__(block, own=self.context.own, generator=generator, optimiser=optimiser)

    @abstractmethod
    def error(self, scores: Array, y: Array) -> Array:
        """e = ∂L/∂ℓ of each sample's loss, (B, K)."""

    def local(self, done: Pass, y: Array) -> Local:
        scores, backward = self.context.forward(done)
        own, da, dn = backward(self.error(scores, y) / len(y))
        if self._similarity:
            alike = self._similarity * similarity_gradient(
                done.a, y, classes=self._classes, pool=self._pool)
            da = alike if da is None else da + alike
        return Local(scores, own, da, dn)

    def scores(self, done: Pass) -> Array:
        return self.context.frozen(done)

    @without_graph
    def calibrate(self, batches: Sequence[Array]) -> None:
        super().calibrate(batches)
        self.context.calibrate(self.block.frozen(u) for u in batches)

    def norms(self) -> dict[str, BatchNorm]:
        return super().norms() | self.context.norms()


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
