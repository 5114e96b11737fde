"""Blocks: what is trained, frozen and stacked. Shapes: B samples, C channels, H x W maps.

A block has a forward pass and, from gradients at its output or its normalised pre-activation n,
the gradients of its own parameters. It has none to its input: nothing crosses a block boundary.
A sensor window is a map of height one with kernels (1, k), and a dense layer's output a map of one
cell, so every method works on every block.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add, iadd
from typing import Literal, cast

from edgecc.learn.backends import (
    Array,
    DType,
    Generator,
    Sides,
    namespace,
    of,
    tiles,
    without_graph,
)
from edgecc.learn.norms import BatchNorm, Normal, by_sample, inner

Norm = Literal["batch", "input", "length", "none"]
Plane = int | tuple[int, int]  # (height, width), or one number for both


@dataclass(frozen=True)
class Pass:
    """One pass through a block: its output, and the arrays on the way that the update needs."""

    u: Array  # the weights' input: (B, C_in, H, W), or (B, F) where dense
    n: Array  # (B, C_out, H, W), normalised pre-activation
    a: Array  # (B, C_out, H', W'), the output
    index: Array | None = None  # where each maximum was; None without a pool above n
    pool: Sides = (1, 1)
    slope: float = 0.0  # of the activation below zero
    normal: Normal | None = None  # the batch norm that made n; None for the other norms

    def back(self, da: Array | None, dn: Array | None = None) -> Array:
        """∂L/∂ the pre-activation from ∂L/∂a, from ∂L/∂n, or from both.

        Overwrites da and n, so it runs once. A batch norm's gradient needs Σ g and Σ g n of each
        channel. Both are summed above the pool, where values are fewer: Σ g n is Σ da a there,
        since the activation is linear on either side of zero.
        """
        pulls, products = [], []  # gradients g at n with the index of maxima; Σ g n
        if da is not None:
            products.append(inner(da, self.a))
            pulls.append((self._active(da), self.index))
        if dn is not None:
            products.append(inner(dn, self.n))
            pulls.append((dn, None))
        if self.normal is None:
            return reduce(iadd, [g for g, _ in pulls])
        total = reduce(add, [g.sum((0, 2, 3)) for g, _ in pulls])
        dz = self.normal.through_statistics(self.n, total, reduce(add, products))
        for g, index in pulls:
            if index is None:
                dz += self.normal.scaled(g)
            else:
                of(dz).add_at_maxima(dz, self.normal.scaled(g), index, self.pool)
        return dz

    def _active(self, da: Array) -> Array:
        """∂L/∂n at the maxima, or everywhere without a pool; in place of da."""
        if self.slope:
            return namespace(da).where(self.a > 0, da, self.slope * da)
        for part in tiles(len(da)):
            da[part] *= self.a[part] > 0
        return da


class Block(ABC):
    """Norm, activation and max-pool, which all blocks share; kinds of block differ in `affine`.

        norm "batch"   n = norm(W∗h) over the batch, a = maxpool(ReLU(n)); folded when frozen
        norm "input"   u = maxpool(h) / rms(h), n = W∗u + b, a = ReLU(n)   (Abbassi et al. 2025)
        norm "length"  the same with ‖h‖ instead of rms(h)              (Somasundaram et al. 2025)
        norm "none"    the same with u = maxpool(h)

    slope: of the activation below zero; 0 is ReLU, 1 the identity.
    """

    def __init__(
        self, weights: list[Array], *, pool: Plane, norm: Norm, slope: float = 0.0
    ) -> None:
        self.weights, self.pool, self.norm, self.slope = weights, _plane(pool), norm, slope
        self.c_out = sum(w.shape[0] for w in weights)
        self.bias = None if norm == "batch" else namespace(weights[0]).zeros(
            self.c_out, dtype=weights[0].dtype)
        self.statistics = BatchNorm() if norm == "batch" else None

    @property
    def parameters(self) -> dict[str, Array]:
        """Weights, then the bias where there is one; updated in place by the method."""
        names = ["weight"] if len(self.weights) == 1 else [
            f"weight_{d}" for d in range(1, len(self.weights) + 1)]
        bias = {} if self.bias is None else {"bias": self.bias}
        return dict(zip(names, self.weights, strict=True)) | bias

    def output_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, H', W') of the output for maps of `size`."""
        return self.c_out, size[0] // self.pool[0], size[1] // self.pool[1]

    @abstractmethod
    def affine(self, u: Array) -> Array:
        """z = W ∗ u, without bias: (B, C_out, H, W)."""

    @abstractmethod
    def weight_gradients(self, u: Array, dz: Array) -> list[Array]:
        """∂L/∂ each weight from ∂L/∂z."""

    def forward(self, h: Array) -> Pass:
        """The training pass: batch norm by the batch's own statistics."""
        return self._pass(h, frozen=False)

    def frozen(self, h: Array) -> Pass:
        """The serving pass: batch norm by the population's, so that samples do not mix."""
        return self._pass(h, frozen=True)

    def __call__(self, h: Array) -> Array:
        """The serving pass's output (B, C_out, H/m, W/m), rounded down, of h (B, C_in, H, W)."""
        return self.frozen(h).a

    def gradients(self, done: Pass, da: Array | None, dn: Array | None = None) -> list[Array]:
        """∂L/∂ each of `parameters`, in their order, from ∂L/∂a and ∂L/∂n; consumes the pass."""
        dz = done.back(da, dn)
        bias = [] if self.bias is None else [dz.sum((0, 2, 3))]
        return [*self.weight_gradients(done.u, dz), *bias]

    def calibrate(self, batches: Sequence[Array]) -> None:
        """Measure a batch norm's population on inputs in batches; other norms need nothing."""
        if self.statistics is not None:
            self.statistics.measure(self.affine(h) for h in batches)

    def folded(self, mean: Array, variance: Array) -> tuple[list[Array], Array]:
        """(weights, bias) of the frozen convolution, the batch norm of z folded in."""
        normal, first, folded = Normal.by(mean, variance), 0, []
        for w in self.weights:
            scales = normal.inverse[first : first + len(w)]
            folded.append(w * scales.reshape(-1, *[1] * (w.ndim - 1)))
            first += len(w)
        return folded, -mean * normal.inverse

    @without_graph
    def _pass(self, h: Array, *, frozen: bool) -> Pass:
        if self.statistics is None:
            u = _by_sample(self._max(h)[0], self.norm)            # (B, C_in, H', W')
            n = self.affine(u) + cast(Array, self.bias)[:, None, None]
            return Pass(u, n, self._activated(n), slope=self.slope)
        z = self.affine(h)                                        # (B, C_out, H, W)
        normal = self.statistics.population if frozen else Normal.of(z)
        n = normal.applied(z)
        m, index = self._max(n)                                   # (B, C_out, H', W')
        a = self._activated(m, in_place=m is not n)
        return Pass(h, n, a, index, self.pool, self.slope, normal)

    def _activated(self, n: Array, *, in_place: bool = False) -> Array:
        """Runs after the pool, on fewer values: the activation is monotone, so maxima stay."""
        if self.slope:
            return namespace(n).where(n > 0, n, self.slope * n)
        return namespace(n).clip(n, 0, None, out=n if in_place else None)

    def _max(self, r: Array) -> tuple[Array, Array | None]:
        return (r, None) if self.pool == (1, 1) else of(r).max_pool(r, self.pool)


class CoConv(Block):
    """One k x k convolution per dilation d = 1..levels over all input channels, padding d·(k//2),
    outputs concatenated in order: spatial context at the cost of one plain convolution
    (Duta, Georgescu, Ionescu, arXiv 2108.07387). `m` is the max-pool.

    ValueError if k is even, or the splits do not sum to c_out.
    """

    def __init__(
        self, c_in: int, m: Plane, c_out: int, levels: int, *, k: Plane = 3, norm: Norm = "input",
        generator: Generator | None = None, dtype: DType | None = None,
    ) -> None:
        kernel, splits = _odd(k), co_conv_splits(c_out, levels)
        self._half = (kernel[0] // 2, kernel[1] // 2)
        super().__init__(
            [_he((width, c_in, *kernel), generator, dtype) for width in splits], pool=m, norm=norm)

    def affine(self, u: Array) -> Array:
        parts = [of(u).conv(u, w, padding=self._padding(d), dilation=d)
                 for d, w in enumerate(self.weights, start=1)]
        return parts[0] if len(parts) == 1 else namespace(u).concatenate(parts, 1)

    def weight_gradients(self, u: Array, dz: Array) -> list[Array]:
        gradients, first = [], 0
        for d, w in enumerate(self.weights, start=1):
            part = dz[:, first : first + len(w)]
            gradients.append(of(u).conv_gradient(u, w, part, padding=self._padding(d), dilation=d))
            first += len(w)
        return gradients

    def _padding(self, dilation: int) -> tuple[int, int]:
        return dilation * self._half[0], dilation * self._half[1]


def co_conv_splits(width: int, levels: int) -> tuple[int, ...]:
    """Output channels per dilation: ¼ each of 4 levels, ½ ¼ ¼ of 3, ½ ½ of 2."""
    shares = {1: (1,), 2: (2, 2), 3: (2, 4, 4), 4: (4, 4, 4, 4)}.get(levels)
    if shares is None:
        raise ValueError(f"{levels} levels of dilation: 1 to 4 are defined")
    splits = tuple(width // share for share in shares)
    if sum(splits) != width:
        raise ValueError(f"splits {splits} of {width} channels sum to {sum(splits)}: take "
                         f"a width that {max(shares)} divides")
    return splits


class PoolConv(CoConv):
    """One convolution without dilation."""

    def __init__(
        self, c_in: int, m: Plane, c_out: int, k: Plane, *, norm: Norm = "input",
        generator: Generator | None = None, dtype: DType | None = None,
    ) -> None:
        super().__init__(c_in, m, c_out, 1, k=k, norm=norm, generator=generator, dtype=dtype)


class Linear(Block):
    """A dense layer on flattened samples; its output (B, F, 1, 1) is a map of one cell."""

    def __init__(
        self, f_in: int, f_out: int, *, norm: Norm = "length", slope: float = 0.0,
        generator: Generator | None = None, dtype: DType | None = None,
    ) -> None:
        super().__init__([_he((f_out, f_in), generator, dtype)], pool=1, norm=norm, slope=slope)

    def output_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:  # noqa: ARG002
        return self.c_out, 1, 1

    def affine(self, u: Array) -> Array:
        return (_flat(u) @ self.weights[0].T)[:, :, None, None]

    def weight_gradients(self, u: Array, dz: Array) -> list[Array]:
        return [_flat(dz).T @ _flat(u)]


def _plane(sides: Plane) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


def _odd(k: Plane) -> tuple[int, int]:
    kernel = _plane(k)
    if not all(side % 2 for side in kernel):
        raise ValueError(f"kernel {kernel}: odd sides only, so that padding keeps the map's size")
    return kernel


def _he(shape: tuple[int, ...], generator: Generator | None, dtype: DType | None) -> Array:
    """Normal with variance 2 / fan-in (He et al. 2015)."""
    return of(generator).normal(shape, generator, dtype) * math.sqrt(2 / math.prod(shape[1:]))


def _flat(u: Array) -> Array:
    return u.reshape(len(u), -1)


def _by_sample(h: Array, norm: Norm) -> Array:
    if norm == "none":
        return h
    return by_sample(h, math.prod(h.shape[1:]) if norm == "input" else 1)
