"""Methods that score classes by their contexts; they differ in the error at the scores."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from edgecc.learn.backends import Array, Generator, of, without_graph
from edgecc.learn.blocks import Block, Pass
from edgecc.learn.grid_pool import GridPool
from edgecc.learn.methods.base import Local, Method
from edgecc.learn.methods.contexts import BiasContext, Context, LinearContext, ScaleContext
from edgecc.learn.methods.optimisers import Adam, MakeOptimiser
from edgecc.learn.methods.similarity import similarity_gradient
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
