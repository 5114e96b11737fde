"""Normalisation: over the batch while training, by the population's statistics when frozen; and
per sample. The way back goes through the statistics, which are functions of the weights too.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-5


@dataclass(frozen=True)
class Standardised:
    """Zero mean and unit variance of each channel (axis 1), with what the way back needs."""

    values: Tensor
    x: Tensor
    mean: Tensor  # (C,)
    inverse: Tensor  # (C,), 1 / standard deviation

    def backward(self, gradient: Tensor) -> Tensor:
        """Through the mean and the variance as well: they are functions of the weights.

        (g - mean g - v·mean(g v)) / deviation, in one pass over memory.
        """
        dx: Tensor = torch.ops.aten.native_batch_norm_backward(
            gradient, self.x, None, None, None, self.mean, self.inverse, True, EPS,
            [True, False, False])[0]
        return dx


def standardise(x: Tensor) -> Standardised:
    """x (B, C, ...) over all but the channels, by the batch's own mean and variance."""
    values, mean, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, EPS)
    return Standardised(values, x, mean, inverse)


class BatchNorm:
    """Standardises each channel (axis 1); `measure` the population before serving."""

    def __init__(self) -> None:
        self._population: tuple[Tensor, Tensor] | None = None  # mean, variance

    def forward(self, x: Tensor) -> Standardised:
        """By the batch's own statistics."""
        return standardise(x)

    def frozen(self, x: Tensor) -> Tensor:
        """By the population's statistics: what one sample becomes does not depend on others."""
        if self._population is None:
            raise RuntimeError("a batch norm serves after calibrate(), which measures its rows")
        mean, variance = (t.view(-1, *[1] * (x.ndim - 2)) for t in self._population)
        return (x - mean) * (variance + EPS).rsqrt()

    def measure(self, batches: Iterable[Tensor]) -> None:
        """Mean and variance over every value of each channel, summed in float64."""
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        dtype = torch.float32
        for x in batches:
            values = x.transpose(0, 1).flatten(1).double()
            total, square = total + values.sum(1), square + values.square().sum(1)
            count, dtype = count + values.shape[1], x.dtype
        mean = total / count
        variance = (square / count - mean.square()).clamp(min=0)
        self._population = mean.to(dtype), variance.to(dtype)

    def state(self) -> dict[str, Tensor]:
        """Empty until measured: training does not depend on it."""
        return dict(zip(("mean", "variance"), self._population or (), strict=False))

    def restore(self, state: dict[str, Tensor]) -> None:
        self._population = (state["mean"].clone(), state["variance"].clone()) if state else None


def by_rms(h: Tensor) -> Tensor:
    """u = h / rms(h) of each whole sample; a sample of zeros stays zero."""
    return h * _inverse(h.flatten(1).square().mean(1), h.ndim)


def by_length(h: Tensor) -> Tensor:
    """x = h / ‖h‖ of each whole sample; a sample of zeros stays zero."""
    return h * _inverse(h.flatten(1).square().sum(1), h.ndim)


def _inverse(square: Tensor, ndim: int) -> Tensor:
    smallest = torch.finfo(square.dtype).tiny
    return square.clamp(min=smallest).rsqrt().view(-1, *[1] * (ndim - 1))
