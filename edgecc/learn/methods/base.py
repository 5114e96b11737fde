"""A block that learns by a method: forward, the method's local equations, one optimiser step.

A method adds its equations only: `local` while training, `scores` when serving. Both see a pass of
their own block and nothing of any other; no graph is built.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from edgecc.learn.backends import Array, Generator, namespace, of, without_graph
from edgecc.learn.blocks import Block, Pass
from edgecc.learn.methods.optimisers import Adam, MakeOptimiser
from edgecc.learn.norms import BatchNorm


class Local(NamedTuple):
    """A method's result on one batch; gradients are of the batch's mean loss."""

    scores: Array  # (B, K), before the step
    own: list[Array]  # ∂L/∂ the method's own parameters, in their order
    da: Array | None = None  # ∂L/∂ the block's output
    dn: Array | None = None  # ∂L/∂ its normalised pre-activation, as well or instead


class Method(ABC):
    """Trains `block` and its own parameters. Everything it changes is in `state`.

    own: trainable parameters by name; fixed: what is only kept, like class vectors; generator: what
    the method draws from, if it does, saved with the rest.
    """

    def __init__(
        self, block: Block, *, own: dict[str, Array], fixed: dict[str, Array] | None = None,
        generator: Generator | None = None, optimiser: MakeOptimiser = Adam,
    ) -> None:
        self.block, self._generator = block, generator
        self._tensors = block.parameters | own | (fixed or {})
        self._optimiser = optimiser([*block.parameters.values(), *own.values()])

    @abstractmethod
    def local(self, done: Pass, y: Array) -> Local:
        """Scores and gradients of a training pass with classes y (B,)."""

    @abstractmethod
    def scores(self, done: Pass) -> Array:
        """(B, K) of a serving pass, the largest for the class predicted; samples do not mix."""

    def step(self, u: Array, y: Array, *, rate: float) -> Array:
        """One local update on inputs u (B, C, H, W) with classes y (B,); scores before it."""
        return self.advance(u, y, rate=rate)[0]

    def advance(self, u: Array, y: Array, *, rate: float) -> tuple[Array, Array]:
        """One local update; scores and the block's output, both from before it."""
        scores, gradients, a = self._learn(u, y)
        self._optimiser.step(gradients, rate)
        return scores, a

    def gradients(self, u: Array, y: Array) -> tuple[Array, list[Array]]:
        """Scores, and ∂L/∂ the block's parameters, then the method's own."""
        return self._learn(u, y)[:2]

    @without_graph
    def _learn(self, u: Array, y: Array) -> tuple[Array, list[Array], Array]:
        done = self.block.forward(u)
        scores, own, da, dn = self.local(done, y)
        return scores, [*self.block.gradients(done, da, dn), *own], done.a

    @without_graph
    def calibrate(self, batches: Sequence[Array]) -> None:
        """Measure the batch norms' population on the block's inputs."""
        self.block.calibrate(batches)

    def state(self) -> dict[str, Array]:
        """Everything that a later step or score depends on, by name."""
        measured = {f"{name}.{part}": tensor for name, norm in self.norms().items()
                    for part, tensor in norm.state().items()}
        saved = self._tensors | self._optimiser.state() | measured
        if self._generator is not None:
            saved["generator"] = of(self._generator).generator_state(self._generator)
        return saved

    def restore(self, state: Mapping[str, Any]) -> None:
        """Back to a `state`, which may be of the other backend."""
        asarray = namespace(self.block.weights[0]).asarray
        for name, array in (self._tensors | self._optimiser.state()).items():
            array[...] = asarray(state[name])
        for name, norm in self.norms().items():
            norm.restore({part: asarray(state[f"{name}.{part}"]) for part in ("mean", "variance")
                          if f"{name}.{part}" in state})
        if self._generator is not None:
            of(self._generator).set_generator_state(self._generator, state["generator"])

    def norms(self) -> dict[str, BatchNorm]:
        """Batch norms with a measured population."""
        return {} if self.block.statistics is None else {"norm": self.block.statistics}
