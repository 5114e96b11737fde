"""Contextual convolution (Abbassi, Ancilotto, Farella, ICCV workshops 2025), linear mode.

The context of class k is a vector w_k; its goodness is linear in the pooled activation:

    p = pool_g(a)     q = norm(p)     ℓ_k = w_kᵀ q + c_k
    L = softplus(-ℓ_y) + softplus(ℓ_n),   n the hardest wrong class

so positive and negative context share one convolution and all classes are scored in one pass.
The update is the closed form of ∂L/∂W through pooling and both norms; no graph is built.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecc.learn.blocks import Pass, PoolConv, Standardised, pool_window, standardise
from edgecc.learn.methods.base import Adam

_NEVER = -1e9


class Contextual:
    """Trains `block` on maps of (height, width) for `classes` classes known at its start."""

    def __init__(
        self, block: PoolConv, *, classes: int, size: tuple[int, int], grid: int = 4
    ) -> None:
        out = [side // m for side, m in zip(size, block.pool, strict=True)]
        windows = [pool_window(side, min(side, grid)) for side in out]
        self._kernel, self._stride = [w[0] for w in windows], [w[1] for w in windows]
        cells = min(out[0], grid) * min(out[1], grid)
        self.block = block
        self.w = block.weight.new_zeros(classes, block.weight.shape[0] * cells)
        self.c = block.weight.new_zeros(classes)
        self._adam = Adam([block.weight, self.w, self.c])

    def step(self, u: Tensor, y: Tensor, *, rate: float) -> Tensor:
        scores, gradients = self.gradients(u, y)
        self._adam.step(gradients, rate)
        return scores

    def gradients(self, u: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores (B, K), and the batch-mean loss's gradients of W, w and c."""
        done = self.block.forward(u)
        p = F.avg_pool2d(done.a, self._kernel, self._stride)
        q = standardise(p.flatten(1), (0,))
        scores = q.values @ self.w.T + self.c
        e = pair_error(scores, y) / len(y)
        dw = self.block.weight_gradient(done, self._output_gradient(done, p, q, e))
        return scores, [dw, e.T @ q.values, e.sum(0)]

    def _output_gradient(self, done: Pass, p: Tensor, q: Standardised, e: Tensor) -> Tensor:
        """∂L/∂a, back through the norm and the average pooling of the scores."""
        dp = q.backward(e @ self.w).view_as(p)
        return torch.ops.aten.avg_pool2d_backward(  # type: ignore[no-any-return]
            dp, done.a, self._kernel, self._stride, [0, 0], False, True, None
        )

    def state(self) -> dict[str, Tensor]:
        own = {"weight": self.block.weight, "w": self.w, "c": self.c}
        return own | {f"adam.{name}": value for name, value in self._adam.state().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        for name in ("weight", "w", "c"):
            self.state()[name].copy_(state[name])
        self._adam.restore(
            {name[5:]: value for name, value in state.items() if name.startswith("adam.")}
        )


def pair_error(scores: Tensor, y: Tensor) -> Tensor:
    """e = σ(ℓ) - t on the true and the hardest wrong class, zero elsewhere; (B, K).

    With a single class there is no wrong one, and only the true class pulls.
    """
    true = y[:, None]
    e = torch.zeros_like(scores)
    if scores.shape[1] > 1:
        wrong = scores.scatter(1, true, _NEVER).argmax(1, keepdim=True)
        e.scatter_(1, wrong, scores.gather(1, wrong).sigmoid())
    return e.scatter_(1, true, scores.gather(1, true).sigmoid() - 1)
