"""Optimisers on arrays that are updated in place; no autograd."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgecc.learn.backends import Array, namespace, of


@dataclass
class Adam:
    """Kingma & Ba 2015."""

    parameters: list[Array]
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        xp = namespace(self.parameters[0])
        self.step_count = xp.zeros((), dtype=xp.int64)
        self.first = [xp.zeros_like(p) for p in self.parameters]
        self.second = [xp.zeros_like(p) for p in self.parameters]

    def step(self, gradients: Sequence[Array], rate: float) -> None:
        """One update of the parameters, in their order; overwrites the gradients."""
        self.step_count += 1
        t = int(self.step_count)
        correction = (1 - self.beta2**t) ** 0.5 / (1 - self.beta1**t)
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            of(p).adam(
                p, g, m, v, beta1=self.beta1, beta2=self.beta2, eps=self.eps,
                rate=rate * correction)

    def state(self) -> dict[str, Array]:
        """By name, what a later step depends on besides the parameters."""
        moments = {f"adam.first.{i}": m for i, m in enumerate(self.first)}
        moments |= {f"adam.second.{i}": v for i, v in enumerate(self.second)}
        return {"adam.step": self.step_count, **moments}


@dataclass
class Sgd:
    """Stochastic gradient descent; with momentum where it is not zero."""

    parameters: list[Array]
    momentum: float = 0.0

    def __post_init__(self) -> None:
        self.velocity = [namespace(p).zeros_like(p) for p in self.parameters if self.momentum]

    def step(self, gradients: Sequence[Array], rate: float) -> None:
        for v, g in zip(self.velocity, gradients, strict=False):
            v[...] = self.momentum * v + g
        for p, move in zip(self.parameters, self.velocity or gradients, strict=True):
            p[...] = p - rate * move

    def state(self) -> dict[str, Array]:
        return {f"sgd.velocity.{i}": v for i, v in enumerate(self.velocity)}


MakeOptimiser = Callable[[list[Array]], Adam | Sgd]
