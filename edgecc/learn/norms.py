"""Batch norm, by the batch while training and by the population when serving; norms of a sample."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import cast

from edgecc.learn.backends import Array, namespace, of, tiles

EPS = 1e-5


@dataclass(frozen=True)
class Normal:
    """n = (x - mean) / deviation of each channel (axis 1), and the gradient back through it."""

    mean: Array  # (C,)
    inverse: Array  # (C,), 1 / standard deviation

    @staticmethod
    def by(mean: Array, variance: Array) -> "Normal":
        return Normal(mean, 1 / namespace(mean).sqrt(variance + EPS))

    @staticmethod
    def of(x: Array) -> "Normal":
        """By the statistics of x itself, (B, C) or (B, C, H, W)."""
        if x.ndim == 4:
            return Normal.by(*of(x).moments(x))
        mean = x.mean(0)
        square = reduce(add, [((x[part] - mean) ** 2).sum(0) for part in tiles(len(x))])
        return Normal.by(mean, square / len(x))

    def applied(self, x: Array) -> Array:
        """n, in place of x."""
        x -= _along(self.mean, x)
        x *= _along(self.inverse, x)
        return x

    def scaled(self, g: Array) -> Array:
        """∂L/∂x of a gradient g at n with mean and deviation held constant, in place of g."""
        g *= _along(self.inverse, g)
        return g

    def through_statistics(self, n: Array, total: Array, product: Array) -> Array:
        """What ∂L/∂x gains because mean and deviation are functions of x too, in place of n.

        -(Σ g + n Σ g n) / (N deviation) over a channel's N values. total (C,): Σ g; product (C,):
        Σ g n.
        """
        count = math.prod(n.shape) // n.shape[1]
        n *= _along(-self.inverse * product / count, n)
        n -= _along(self.inverse * total / count, n)
        return n


def inner(x: Array, y: Array) -> Array:
    """Σ x y of each channel (axis 1), a few samples at a time; (C,)."""
    axes = (0, *range(2, x.ndim))
    return reduce(add, [(x[part] * y[part]).sum(axes) for part in tiles(len(x))])


def _along(channels: Array, x: Array) -> Array:
    """(C,) shaped to apply to axis 1 of x."""
    return channels.reshape(-1, *[1] * (x.ndim - 2))


class BatchNorm:
    """A population's mean and variance of each channel (axis 1): `measure` them, then serve."""

    def __init__(self) -> None:
        self._population: tuple[Array, Array] | None = None  # mean, variance

    @property
    def population(self) -> Normal:
        """The norm that serves: what it makes of a sample does not depend on other samples."""
        if self._population is None:
            raise RuntimeError("a batch norm serves only after calibrate(), which measures it")
        return Normal.by(*self._population)

    def measure(self, batches: Iterable[Array]) -> None:
        moments = Moments()
        for x in batches:
            moments.add(x)
        self._population = moments.mean_and_variance()

    def state(self) -> dict[str, Array]:
        """Empty until measured: training does not depend on it."""
        return dict(zip(("mean", "variance"), self._population or (), strict=False))

    def restore(self, state: dict[str, Array]) -> None:
        self._population = (state["mean"], state["variance"]) if state else None


class Moments:
    """Sums, in float64, of each channel's values (axis 1) and of their squares."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: tuple[Array | float, Array | float] = (0.0, 0.0)

    def add(self, x: Array) -> None:
        axes, double = (0, *range(2, x.ndim)), namespace(x).float64
        total, square = self._sums
        self._sums = total + x.sum(axes, dtype=double), square + (x * x).sum(axes, dtype=double)
        self._count += math.prod(x.shape) // x.shape[1]
        self._like = x[:0]

    def mean_and_variance(self) -> tuple[Array, Array]:
        """(C,) each, in the dtype of what was added."""
        mean, square = (cast(Array, total) / self._count for total in self._sums)
        xp, dtype = namespace(self._like), self._like.dtype
        variance = (square - mean * mean).clip(0)
        return xp.asarray(mean, dtype=dtype), xp.asarray(variance, dtype=dtype)


def by_sample(h: Array, count: int) -> Array:
    """h / √(Σ h² / count) of each whole sample (axis 0); a sample of zeros stays zero."""
    xp = namespace(h)
    mean = (h * h).reshape(len(h), -1).sum(1) / count
    inverse = 1 / xp.sqrt(mean.clip(xp.finfo(h.dtype).tiny))
    return h * inverse.reshape(-1, *[1] * (h.ndim - 1))
