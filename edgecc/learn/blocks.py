"""Blocks: what is trained, frozen and stacked. Shapes: B samples, C channels, H x W maps.

A block knows its forward pass and, for a gradient at its own normalised pre-activation n, the
gradients of its own parameters. It has no gradient to its input: nothing crosses a block boundary.
A sensor window is a map of height one with kernels (1, k); a dense layer's output is a map of one
cell, so that every method reads every block alike.
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
from edgecc.learn.norms import BatchNorm, Normal, by_length, by_rms, inner

Norm = Literal["batch", "input", "length", "none"]
Plane = int | tuple[int, int]  # (height, width), or one number for both


@dataclass(frozen=True)
class Pass:
    """One pass through a block: what the local update needs, and the output."""

    u: Array  # what the weights see: (B, C_in, H, W), or (B, F) where dense
    n: Array  # (B, C_out, H, W), normalised pre-activation
    a: Array  # (B, C_out, H', W'), the output
    index: Array | None = None  # where each maximum was
    pool: Sides = (1, 1)
    slope: float = 0.0  # of the activation below zero
    normal: Normal | None = None  # by which n became what it is

    def back(self, da: Array | None, dn: Array | None = None) -> Array:
        """∂L/∂ the pre-activation, of a gradient of the output, of one of n, or of both.

        Takes the place of da and n, so once. The sums that the way through a batch norm needs are
        found above the pool: where n is a maximum, n da/dn is a.
        """
        pulls, products = [], []  # g at n and where it stands, Σ g n of each channel
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
            self._add(dz, self.normal.scaled(g), index)
        return dz

    def _active(self, da: Array) -> Array:
        """Through the activation, in da's place; at the maxima where there is a pool."""
        if self.slope:
            return namespace(da).where(self.a > 0, da, self.slope * da)
        for part in tiles(len(da)):
            da[part] *= self.a[part] > 0
        return da

    def _add(self, dz: Array, g: Array, index: Array | None) -> None:
        if index is None:
            dz += g
        else:
            of(dz).add_at_maxima(dz, g, index, self.pool)


class Block(ABC):
    """What the blocks share: norm, activation, max-pool. A kind of block is its `affine` map.

    norm "batch": n = norm(W∗h) over the batch, a = maxpool(ReLU(n)); folded when frozen.
    norm "input": u = maxpool(h) / rms, n = W∗u + b, a = ReLU(n) (Abbassi et al. 2025).
    norm "length" divides by ‖h‖ instead (Somasundaram et al. 2025), "none" by nothing.
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
        """∂L/∂ each weight of a gradient `dz` of z."""

    def forward(self, h: Array) -> Pass:
        """The training pass: a batch norm takes the batch's own statistics."""
        return self._pass(h, frozen=False)

    def frozen(self, h: Array) -> Pass:
        """The serving pass: a batch norm takes the population's; samples do not mix."""
        return self._pass(h, frozen=True)

    def __call__(self, h: Array) -> Array:
        """The serving pass's output: (B, C_in, H, W) to (B, C_out, H/m, W/m), rounded down."""
        return self.frozen(h).a

    def gradients(
        self, done: Pass, da: Array | None, dn: Array | None = None
    ) -> list[Array]:
        """∂L/∂ each of `parameters`, in their order, of gradients of the output and of n.

        Uses the pass up.
        """
        dz = done.back(da, dn)
        bias = [] if self.bias is None else [dz.sum((0, 2, 3))]
        return [*self.weight_gradients(done.u, dz), *bias]

    def calibrate(self, batches: Sequence[Array]) -> None:
        """Measure the population of a batch norm on inputs, in batches; else nothing."""
        if self.statistics is not None:
            self.statistics.measure(self.affine(h) for h in batches)

    def folded(self, mean: Array, variance: Array) -> tuple[list[Array], Array]:
        """(weights, bias) of the frozen convolution, given z's statistics per channel."""
        normal, first, folded = Normal.by(mean, variance), 0, []
        for w in self.weights:
            scales = normal.inverse[first : first + len(w)]
            folded.append(w * scales.reshape(-1, *[1] * (w.ndim - 1)))
            first += len(w)
        return folded, -mean * normal.inverse

    @without_graph
    def _pass(self, h: Array, *, frozen: bool) -> Pass:
        if self.statistics is None:
            u = _by_sample(self._max(h)[0], self.norm)
            z = self.affine(u) + cast(Array, self.bias)[:, None, None]
            return Pass(u, z, self._activated(z), slope=self.slope)
        z = self.affine(h)
        normal = self.statistics.population if frozen else Normal.of(z)
        n = normal.applied(z)
        m, index = self._max(n)
        return Pass(
            h, n, self._activated(m, fresh=m is not n), index, self.pool, self.slope, normal)

    def _activated(self, n: Array, *, fresh: bool = False) -> Array:
        """After the pool, where values are fewer: it rises, so maxima stay maxima."""
        if self.slope:
            return namespace(n).where(n > 0, n, self.slope * n)
        return namespace(n).clip(n, 0, None, out=n if fresh else None)

    def _max(self, r: Array) -> tuple[Array, Array | None]:
        return (r, None) if self.pool == (1, 1) else of(r).max_pool(r, self.pool)


class PoolConv(Block):
    """One convolution; `m` the max-pool, `k` an odd kernel, padding k//2. ValueError if k is even.

    "input", the default, pools first (Abbassi et al. 2025); "batch" last.
    """

    def __init__(
        self, c_in: int, m: Plane, c_out: int, k: Plane, *, norm: Norm = "input",
        generator: Generator | None = None, dtype: DType | None = None,
    ) -> None:
        kernel = _odd(k)
        self.weight = _he((c_out, c_in, *kernel), generator, dtype)
        self._padding = (kernel[0] // 2, kernel[1] // 2)
        super().__init__([self.weight], pool=m, norm=norm)

    def affine(self, u: Array) -> Array:
        return of(u).conv(u, self.weight, padding=self._padding, dilation=1)

    def weight_gradients(self, u: Array, dz: Array) -> list[Array]:
        return [of(u).conv_gradient(
            u, self.weight, dz, padding=self._padding, dilation=1)]


class CoConv(Block):
    """One k x k convolution per dilation d = 1..levels over all input channels, padding d·(k//2),
    outputs concatenated in order: context in space at the cost of one plain convolution
    (Duta, Georgescu, Ionescu 2021). ValueError if the splits of c_out do not sum to it.
    """

    def __init__(
        self, c_in: int, m: Plane, c_out: int, levels: int, *, k: Plane = 3,
        norm: Norm = "input", generator: Generator | None = None,
        dtype: DType | None = None,
    ) -> None:
        kernel = _odd(k)
        self._half = (kernel[0] // 2, kernel[1] // 2)
        splits = co_conv_splits(c_out, levels)
        super().__init__(
            [_he((width, c_in, *kernel), generator, dtype) for width in splits], pool=m, norm=norm
        )

    def affine(self, u: Array) -> Array:
        return namespace(u).concatenate([
            of(u).conv(u, w, padding=self._padding(d), dilation=d)
            for d, w in enumerate(self.weights, start=1)
        ], 1)

    def weight_gradients(self, u: Array, dz: Array) -> list[Array]:
        found, first = [], 0
        for d, w in enumerate(self.weights, start=1):
            part = dz[:, first : first + len(w)]
            found.append(of(u).conv_gradient(u, w, part, padding=self._padding(d), dilation=d))
            first += len(w)
        return found

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


class Linear(Block):
    """A dense layer on flattened samples; its output (B, F, 1, 1) is a map of one cell.

    slope: of the activation below zero: 0 is ReLU, 1 the identity.
    """

    def __init__(
        self, f_in: int, f_out: int, *, norm: Norm = "length", slope: float = 0.0,
        generator: Generator | None = None, dtype: DType | None = None,
    ) -> None:
        self.weight = _he((f_out, f_in), generator, dtype)
        super().__init__([self.weight], pool=1, norm=norm, slope=slope)

    def output_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:  # noqa: ARG002
        return self.c_out, 1, 1

    def affine(self, u: Array) -> Array:
        return (_flat(u) @ self.weight.T)[:, :, None, None]

    def weight_gradients(self, u: Array, dz: Array) -> list[Array]:
        return [_flat(dz).T @ _flat(u)]


def _plane(sides: Plane) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


def _odd(k: Plane) -> tuple[int, int]:
    kernel = _plane(k)
    if not all(side % 2 for side in kernel):
        raise ValueError(f"kernel {kernel}: odd sides only, so that padding keeps the map's size")
    return kernel


def _he(
    shape: tuple[int, ...], generator: Generator | None, dtype: DType | None
) -> Array:
    """Normal with variance 2 / fan-in (He et al. 2015)."""
    return of(generator).normal(shape, generator, dtype) * math.sqrt(2 / math.prod(shape[1:]))


def _flat(u: Array) -> Array:
    return u.reshape(len(u), -1)


def _by_sample(h: Array, norm: Norm) -> Array:
    return by_rms(h) if norm == "input" else by_length(h) if norm == "length" else h
