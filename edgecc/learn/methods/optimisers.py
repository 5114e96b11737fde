"""Optimisers on tensors that are updated in place; no autograd."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Optimiser(Protocol):
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """One update of its parameters, in their order; may overwrite the gradients."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that a later step depends on besides the parameters, by name."""
        ...


MakeOptimiser = Callable[[list[Tensor]], Optimiser]


@dataclass
class Adam:
    """Kingma & Ba 2015."""

    parameters: list[Tensor]
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self.step_count = torch.zeros((), dtype=torch.int64)
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        self.step_count += 1
        t = int(self.step_count)
        correction = (1 - self.beta2**t) ** 0.5 / (1 - self.beta1**t)
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            m.lerp_(g, 1 - self.beta1)
            v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
            deviation = torch.sqrt(v, out=g).add_(self.eps)  # the gradient is of no more use
            p.addcdiv_(m, deviation, value=-rate * correction)

    def state(self) -> dict[str, Tensor]:
        moments = {f"adam.first.{i}": m for i, m in enumerate(self.first)}
        moments |= {f"adam.second.{i}": v for i, v in enumerate(self.second)}
        return {"adam.step": self.step_count, **moments}


@dataclass
class Sgd:
    """Stochastic gradient descent; with momentum where it is not zero."""

    parameters: list[Tensor]
    momentum: float = 0.0

    def __post_init__(self) -> None:
        self.velocity = [torch.zeros_like(p) for p in self.parameters if self.momentum]

    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        moves = gradients
        if self.momentum:
            moves = [v.mul_(self.momentum).add_(g)
                     for v, g in zip(self.velocity, gradients, strict=True)]
        for p, move in zip(self.parameters, moves, strict=True):
            p.sub_(move, alpha=rate)

    def state(self) -> dict[str, Tensor]:
        return {f"sgd.velocity.{i}": v for i, v in enumerate(self.velocity)}
