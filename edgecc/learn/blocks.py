"""Blocks: what is trained, frozen and stacked. Shapes: B samples, C channels, H x W maps.

A block knows its forward pass and, for a gradient of its own output, the gradient of its own
weights. It has no gradient to its input: nothing crosses a block boundary.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

EPS = 1e-5


def pool_window(size: int, grid: int) -> tuple[int, int]:
    """(kernel, stride) that pools `size` to `grid` and leaves nothing out."""
    stride = size // grid
    return size - (grid - 1) * stride, stride


@dataclass(frozen=True)
class Standardised:
    """Zero mean and unit variance over some axes, with what the way back needs."""

    values: Tensor
    inverse: Tensor  # 1 / standard deviation
    axes: tuple[int, ...]

    def backward(self, gradient: Tensor) -> Tensor:
        """Through the mean and the variance as well: they are functions of the weights."""
        mean = gradient.mean(self.axes, keepdim=True)
        slope = (gradient * self.values).mean(self.axes, keepdim=True)
        return (gradient - mean - self.values * slope) * self.inverse


def standardise(x: Tensor, axes: tuple[int, ...]) -> Standardised:
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    inverse = (centred.square().mean(axes, keepdim=True) + EPS).rsqrt()
    return Standardised(centred * inverse, inverse, axes)


@dataclass(frozen=True)
class Pass:
    """One training pass through a PoolConv: what the local update needs, and the output."""

    u: Tensor  # (B, C_in, H, W)
    n: Standardised  # (B, C_out, H, W)
    index: Tensor | None  # where each maximum was
    a: Tensor  # (B, C_out, H/m, W/m)


class PoolConv:
    """a = maxpool_m(ReLU(norm(W ∗ u))), the norm over the batch while training.

    Weights are (c_out, c_in, kh, kw); a sensor window is a map of height one with kh = 1.
    When frozen, mean and variance over the training rows are folded into weight and bias.
    """

    def __init__(
        self, c_in: int, c_out: int, *, kernel: tuple[int, int], pool: tuple[int, int],
        generator: torch.Generator, dtype: torch.dtype = torch.float32,
    ) -> None:
        fan_in = c_in * kernel[0] * kernel[1]
        self.weight = torch.randn(c_out, c_in, *kernel, generator=generator, dtype=dtype)
        self.weight *= math.sqrt(2 / fan_in)
        self.pool = pool
        self._padding = (kernel[0] // 2, kernel[1] // 2)

    def convolve(self, u: Tensor) -> Tensor:
        """z = W ∗ u, (B, C_out, H, W)."""
        return F.conv2d(u, self.weight, padding=self._padding)

    def forward(self, u: Tensor) -> Pass:
        n = standardise(self.convolve(u), (0, 2, 3))
        r = n.values.relu()
        if self.pool == (1, 1):
            return Pass(u, n, None, r)
        a, index = F.max_pool2d(r, self.pool, return_indices=True)
        return Pass(u, n, index, a)

    def weight_gradient(self, done: Pass, da: Tensor) -> Tensor:
        """∂L/∂W of a gradient `da` of the block's own output."""
        dr = da if done.index is None else self._unpool(done, da)
        dz = done.n.backward(dr * (done.n.values > 0))
        gradient: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
            done.u, self.weight.shape, dz, padding=self._padding
        )
        return gradient

    def _unpool(self, done: Pass, da: Tensor) -> Tensor:
        size = done.n.values.shape
        flat = da.new_zeros(size[0], size[1], size[2] * size[3])
        assert done.index is not None
        flat.scatter_(2, done.index.flatten(2), da.flatten(2))
        return flat.view(size)

    def folded(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """(weight, bias) of the frozen convolution, given z's statistics per channel."""
        inverse = (variance + EPS).rsqrt()
        return self.weight * inverse[:, None, None, None], -mean * inverse
