"""Operations on torch's tensors. Maps are (B, C, H, W), their channels last in memory."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecc.learn.backends.arrays import Sides, tiles

_aten = torch.ops.aten
namespace = torch


def prepare(threads: int) -> None:
    """How many threads to compute with, before the first computation."""
    torch.set_num_threads(threads)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(
    shape: tuple[int, ...], generator: torch.Generator | None, dtype: torch.dtype | None
) -> Tensor:
    """N(0, 1), float32 unless a dtype is given."""
    return torch.randn(shape, generator=generator, dtype=dtype)


def integers(
    low: int, high: int, shape: tuple[int, ...], generator: torch.Generator | None
) -> Tensor:
    """Uniform over low..high - 1, int64."""
    return torch.randint(low, high, shape, generator=generator)


def permutation(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator)


def generator_state(generator: torch.Generator) -> Tensor:
    return generator.get_state()


def set_generator_state(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(torch.asarray(state))


def conv(u: Tensor, weight: Tensor, *, padding: Sides, dilation: int) -> Tensor:
    """(B, O, H, W) of u (B, I, H, W) and a weight (O, I, kh, kw); padding keeps the size."""
    return F.conv2d(u, weight, padding=padding, dilation=dilation)


def conv_gradient(
    u: Tensor, weight: Tensor, dz: Tensor, *, padding: Sides, dilation: int
) -> Tensor:
    """∂L/∂weight of a gradient dz of `conv`."""
    gradient: Tensor = _aten.convolution_backward(
        dz, u, weight, None, [1, 1], padding, [dilation, dilation], False, [0, 0], 1,
        [False, True, False])[1]
    return gradient


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of each channel."""
    mean, variance = torch.batch_norm_update_stats(z, None, None, 0.0)
    return mean, variance


def max_pool(z: Tensor, pool: Sides) -> tuple[Tensor, Tensor]:
    """Maxima of windows `pool` side by side, and where they were; the rest is left out."""
    m, index = F.max_pool2d(z, pool, return_indices=True)
    return m, index.int()


def add_at_maxima(z: Tensor, dm: Tensor, index: Tensor, pool: Sides) -> None:  # noqa: ARG001
    """Add dm (B, C, H', W') to z where the maxima were; in place."""
    into, added, places = (t.permute(0, 2, 3, 1).flatten(1, 2) for t in (z, dm, index))
    for part in tiles(len(z)):
        into[part].scatter_add_(1, places[part].long(), added[part])


def avg_pool(a: Tensor, kernel: Sides, stride: Sides) -> Tensor:
    return F.avg_pool2d(a, kernel, stride)


def avg_pool_back(dp: Tensor, a: Tensor, kernel: Sides, stride: Sides) -> Tensor:
    """∂L/∂a of a gradient dp of `avg_pool`."""
    last = a.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return cast(Tensor, _aten.avg_pool2d_backward(
        dp.contiguous(memory_format=layout), a, kernel, stride, [0, 0], False, True, None))


def softmax(scores: Tensor) -> Tensor:
    """Over the last axis, like `logsumexp`."""
    return scores.softmax(-1)


def logsumexp(scores: Tensor) -> Tensor:
    return scores.logsumexp(-1)


def sigmoid(scores: Tensor) -> Tensor:
    return scores.sigmoid()


def adam(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, *, beta1: float, beta2: float, eps: float,
    rate: float,
) -> None:
    """m and v take in the gradient g, p moves by -rate m / (√v + eps); in place, g too."""
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    p.addcdiv_(m, torch.sqrt(v, out=g).add_(eps), value=-rate)


def count_below(thresholds: Tensor, values: Tensor) -> Tensor:
    """(C, N): how many of its row's sorted thresholds (C, K) lie below each value (C, N)."""
    return torch.searchsorted(thresholds.contiguous(), values.contiguous())


def bin_sums(values: Tensor, bins: Tensor, count: int) -> Tensor:
    """(R, count): of each row, the sum of the values (R, N) in each bin (R, N)."""
    return values.new_zeros(len(values), count).scatter_add_(1, bins, values)
