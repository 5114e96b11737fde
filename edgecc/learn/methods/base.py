"""What every method offers, and the optimiser they share."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Method(Protocol):
    def step(self, u: Tensor, y: Tensor, *, rate: float) -> Tensor:
        """One local update on inputs u (B, C, H, W) with classes y (B,); returns scores (B, K)."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that a later step depends on, by name."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None: ...


@dataclass
class Adam:
    """Kingma & Ba 2015, on tensors that are updated in place; no autograd."""

    parameters: list[Tensor]
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self.step_count = torch.zeros((), dtype=torch.int64)
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    def step(self, gradients: list[Tensor], rate: float) -> None:
        self.step_count += 1
        t = int(self.step_count)
        correction = (1 - self.beta2**t) ** 0.5 / (1 - self.beta1**t)
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            m.mul_(self.beta1).add_(g, alpha=1 - self.beta1)
            v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
            p.addcdiv_(m, v.sqrt().add_(self.eps), value=-rate * correction)

    def state(self) -> dict[str, Tensor]:
        moments = {f"first.{i}": m for i, m in enumerate(self.first)}
        moments |= {f"second.{i}": v for i, v in enumerate(self.second)}
        return {"step": self.step_count, **moments}

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
