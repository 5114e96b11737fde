"""What a class's context is, and how it scores one shared pass: every class at once, no label.

    linear  ℓ_k = w_kᵀ norm(pool_g(a)) + c_k     the context of class k is the vector w_k
    bias    y^k = ReLU(n + β_k),  G_k = mean of (y^k)²       (Abbassi et al. 2025)
    scale   y^k = γ_k ⊙ a,        G_k = mean of (y^k)²

with ℓ_k = τ (G_k - θ) for the last two. For errors e = ∂L/∂ℓ each has its gradient in closed form.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecc.learn.blocks import Pass
from edgecc.learn.norms import BatchNorm

Backward = Callable[[Tensor], tuple[Tensor, list[Tensor]]]  # e (B, K) to ∂L/∂n, [∂L/∂own]
THETA = 1.0


class Context(ABC):
    """own: its trainable parameters, by name."""

    own: dict[str, Tensor]

    @abstractmethod
    def forward(self, done: Pass) -> tuple[Tensor, Backward]:
        """Scores (B, K) of a training pass, and the way back from their errors."""

    def frozen(self, done: Pass) -> Tensor:
        """Scores (B, K) of a serving pass."""
        return self.forward(done)[0]

    def calibrate(self, passes: Iterable[Pass]) -> None:  # noqa: B027
        """Measure what a norm of its own serves by; most have none."""

    def norms(self) -> dict[str, BatchNorm]:
        return {}


def pool_window(size: int, grid: int) -> tuple[int, int]:
    """(kernel, stride) that pools `size` to `grid` and leaves nothing out."""
    stride = size // grid
    return size - (grid - 1) * stride, stride


class GridPool:
    """Average-pools (B, C, H, W) to a grid at most, flat: (B, C·gh·gw); and back."""

    def __init__(self, size: tuple[int, int], grid: int) -> None:
        windows = [pool_window(side, min(side, grid)) for side in size]
        self.cells = min(size[0], grid) * min(size[1], grid)
        self._kernel, self._stride = [w[0] for w in windows], [w[1] for w in windows]

    def forward(self, a: Tensor) -> Tensor:
        return F.avg_pool2d(a, self._kernel, self._stride).flatten(1)

    def backward(self, dp: Tensor, a: Tensor) -> Tensor:
        """∂L/∂a of a gradient of the flat pooled map."""
        grid = [(side - kernel) // stride + 1 for side, kernel, stride in zip(
            a.shape[2:], self._kernel, self._stride, strict=True)]
        kind = torch.channels_last if a.is_contiguous(memory_format=torch.channels_last) else (
            torch.contiguous_format)
        return torch.ops.aten.avg_pool2d_backward(  # type: ignore[no-any-return]
            dp.view(*a.shape[:2], *grid).contiguous(memory_format=kind), a,
            self._kernel, self._stride, [0, 0], False, True, None
        )


class LinearContext(Context):
    """w (K, C·gh·gw) and c (K,), from zero: before the first step every class scores alike."""

    def __init__(self, like: Tensor, *, classes: int, channels: int, pool: GridPool) -> None:
        self.w = like.new_zeros(classes, channels * pool.cells)
        self.c = like.new_zeros(classes)
        self.own = {"w": self.w, "c": self.c}
        self._pool, self._norm = pool, BatchNorm()

    def forward(self, done: Pass) -> tuple[Tensor, Backward]:
        q = self._norm.forward(self._pool.forward(done.a))

        def backward(e: Tensor) -> tuple[Tensor, list[Tensor]]:
            dp = q.backward(e @ self.w)
            own = [e.T @ q.values, e.sum(0)]
            return done.back(self._pool.backward(dp, done.a)), own

        return q.values @ self.w.T + self.c, backward

    def frozen(self, done: Pass) -> Tensor:
        return self._norm.frozen(self._pool.forward(done.a)) @ self.w.T + self.c

    def calibrate(self, passes: Iterable[Pass]) -> None:
        self._norm.measure(self._pool.forward(done.a) for done in passes)

    def norms(self) -> dict[str, BatchNorm]:
        return {"context": self._norm}


class BiasContext(Context):
    """β (K, C) ~ 0.1 N(0, 1). Logits are τ (G - θ) of G over the D values of n."""

    def __init__(
        self, like: Tensor, *, classes: int, channels: int, tau: float,
        generator: torch.Generator | None,
    ) -> None:
        self.beta = 0.1 * torch.randn(classes, channels, generator=generator, dtype=like.dtype)
        self.own = {"beta": self.beta}
        self.tau = tau

    def forward(self, done: Pass) -> tuple[Tensor, Backward]:
        n = done.n

        def backward(e: Tensor) -> tuple[Tensor, list[Tensor]]:
            factor = 2 * self.tau / n[0].numel()
            dn, dbeta = torch.zeros_like(n), torch.zeros_like(self.beta)
            for pull, k in _pulls(factor * e):
                dy = (n + self.beta[k][:, :, None, None]).relu_() * pull[:, None, None, None]
                dn += dy
                dbeta.index_add_(0, k, dy.sum((2, 3)))
            return dn, [dbeta]

        return self.tau * (goodness_of_biases(n, self.beta) - THETA), backward


def _pulls(e: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """The non-zero errors (B,) with their classes (B,): a pair has two, cross-entropy K."""
    count = int((e != 0).sum(1).max())
    classes = e.abs().topk(count, 1).indices
    return [(e.gather(1, k[:, None])[:, 0], k) for k in classes.unbind(1)]


def goodness_of_biases(n: Tensor, beta: Tensor) -> Tensor:
    """G (B, K) = mean over n's values of ReLU(n + β_k)², exact, in one pass for all classes.

    Each value falls between two of a channel's K sorted thresholds -β. With the count N and the
    sums S1 and S2 of values and squares above a threshold, Σ ReLU(n + β)² = N β² + 2 β S1 + S2.
    """
    z = n.flatten(2)
    threshold, order = (-beta.T).sort(1)  # (C, K)
    rows = z.transpose(0, 1).flatten(1).contiguous()  # (C, B·HW)
    place = torch.searchsorted(threshold.contiguous(), rows)  # thresholds below each value
    place = place.view(z.shape[1], z.shape[0], -1).transpose(0, 1)
    count, s1, s2 = (_sums_above(part, place, len(beta)) for part in (
        torch.ones_like(z), z, z.square()))
    total = count * threshold.square() - 2 * threshold * s1 + s2  # (B, C, K), by threshold
    by_class = torch.empty_like(total).scatter_(2, order.expand_as(total), total)
    return by_class.mean(1) / z.shape[2]


def _sums_above(values: Tensor, place: Tensor, count: int) -> Tensor:
    """(B, C, count): for each sorted threshold the sum of the values above it."""
    bins = values.new_zeros(*values.shape[:2], count + 1).scatter_add_(2, place, values)
    return bins.flip(2).cumsum(2).flip(2)[..., 1:]


class ScaleContext(Context):
    """γ (K, C) ~ 1 + 0.01 N(0, 1). All classes are one matrix product with s_c = mean of a²."""

    def __init__(
        self, like: Tensor, *, classes: int, channels: int, tau: float,
        generator: torch.Generator | None,
    ) -> None:
        self.gamma = 1 + 0.01 * torch.randn(
            classes, channels, generator=generator, dtype=like.dtype)
        self.own = {"gamma": self.gamma}
        self.tau = tau

    def forward(self, done: Pass) -> tuple[Tensor, Backward]:
        a, channels = done.a, done.a.shape[1]
        s = a.square().mean((2, 3))
        square = self.gamma.square()

        def backward(e: Tensor) -> tuple[Tensor, list[Tensor]]:
            pull = e @ square * (2 * self.tau / a[0].numel())
            own = (2 * self.tau / channels) * self.gamma * (e.T @ s)
            return done.back(a * pull[:, :, None, None]), [own]

        return self.tau * (s @ square.T / channels - THETA), backward
