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
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from edgecc.learn.norms import EPS, BatchNorm, Standardised, by_length, by_rms

Norm = Literal["batch", "input", "length", "none"]
Plane = int | tuple[int, int]  # (height, width), or one number for both


@dataclass(frozen=True)
class Pass:
    """One pass through a block: what the local update needs, and the output."""

    u: Tensor  # what the weights see: (B, C_in, H, W), or (B, F) where dense
    n: Tensor  # (B, C_out, H, W), normalised pre-activation
    a: Tensor  # (B, C_out, H', W'), the output
    index: Tensor | None = None  # where each maximum was
    pool: tuple[int, int] = (1, 1)
    slope: float = 0.0  # of the activation below zero
    batch: Standardised | None = None  # of which n are the values

    def back(self, da: Tensor) -> Tensor:
        """∂L/∂n of a gradient `da` of the output: through the max-pool and the activation."""
        aten = torch.ops.aten
        dr: Tensor = da if self.index is None else aten.max_pool2d_with_indices_backward(
            da, self.n, self.pool, self.pool, [0, 0], [1, 1], False, self.index)
        if self.slope == 0:
            return cast(Tensor, aten.threshold_backward(dr, self.n, 0))
        return torch.where(self.n > 0, dr, dr * self.slope)


class Block(ABC):
    """What the blocks share: norm, activation, max-pool. A kind of block is its `affine` map.

    norm "batch": n = norm(W∗h) over the batch, a = maxpool(ReLU(n)); folded when frozen.
    norm "input": u = maxpool(h) / rms, n = W∗u + b, a = ReLU(n) (Abbassi et al. 2025).
    norm "length" divides by ‖h‖ instead (Somasundaram et al. 2025), "none" by nothing.
    """

    def __init__(
        self, weights: list[Tensor], *, pool: Plane, norm: Norm, slope: float = 0.0
    ) -> None:
        self.weights, self.pool, self.norm, self.slope = weights, _plane(pool), norm, slope
        self.c_out = sum(w.shape[0] for w in weights)
        self.bias = None if norm == "batch" else weights[0].new_zeros(self.c_out)
        self.statistics = BatchNorm() if norm == "batch" else None

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Weights, then the bias where there is one; updated in place by the method."""
        names = ["weight"] if len(self.weights) == 1 else [
            f"weight_{d}" for d in range(1, len(self.weights) + 1)]
        bias = {} if self.bias is None else {"bias": self.bias}
        return dict(zip(names, self.weights, strict=True)) | bias

    def output_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, H', W') of the output for maps of `size`."""
        return self.c_out, size[0] // self.pool[0], size[1] // self.pool[1]

    @abstractmethod
    def affine(self, u: Tensor) -> Tensor:
        """z = W ∗ u, without bias: (B, C_out, H, W)."""

    @abstractmethod
    def weight_gradients(self, u: Tensor, dz: Tensor) -> list[Tensor]:
        """∂L/∂ each weight of a gradient `dz` of z."""

    def forward(self, h: Tensor) -> Pass:
        """The training pass: a batch norm takes the batch's own statistics."""
        return self._pass(h, frozen=False)

    def frozen(self, h: Tensor) -> Pass:
        """The serving pass: a batch norm takes the population's; samples do not mix."""
        return self._pass(h, frozen=True)

    def __call__(self, h: Tensor) -> Tensor:
        """The serving pass's output: (B, C_in, H, W) to (B, C_out, H/m, W/m), rounded down."""
        return self.frozen(h).a

    def gradients(self, done: Pass, dn: Tensor) -> list[Tensor]:
        """∂L/∂ each of `parameters`, in their order, of a gradient `dn` of n."""
        dz = dn if done.batch is None else done.batch.backward(dn)
        bias = [] if self.bias is None else [dz.sum((0, 2, 3))]
        return [*self.weight_gradients(done.u, dz), *bias]

    def calibrate(self, batches: Sequence[Tensor]) -> None:
        """Measure the population of a batch norm on inputs, in batches; else nothing."""
        if self.statistics is not None:
            self.statistics.measure(self.affine(h) for h in batches)

    def folded(self, mean: Tensor, variance: Tensor) -> tuple[list[Tensor], Tensor]:
        """(weights, bias) of the frozen convolution, given z's statistics per channel."""
        inverse = (variance + EPS).rsqrt()
        scales = inverse.split_with_sizes([w.shape[0] for w in self.weights])
        folded = [w * s.view(-1, *[1] * (w.ndim - 1))
                  for w, s in zip(self.weights, scales, strict=True)]
        return folded, -mean * inverse

    @torch.no_grad()
    def _pass(self, h: Tensor, *, frozen: bool) -> Pass:
        if self.statistics is None:
            u = _by_sample(self._max(h)[0], self.norm)
            n = self.affine(u) + cast(Tensor, self.bias)[:, None, None]
            return Pass(u, n, self._activated(n), slope=self.slope)
        z = self.affine(h)
        batch = None if frozen else self.statistics.forward(z)
        n = self.statistics.frozen(z) if batch is None else batch.values
        a, index = self._max(self._activated(n))
        return Pass(h, n, a, index, self.pool, self.slope, batch)

    def _activated(self, n: Tensor) -> Tensor:
        return F.leaky_relu(n, self.slope) if self.slope else n.relu()

    def _max(self, r: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.pool == (1, 1):
            return r, None
        a, index = F.max_pool2d(r, self.pool, return_indices=True)
        return a, index


class PoolConv(Block):
    """One convolution; `m` the max-pool, `k` an odd kernel, padding k//2. ValueError if k is even.

    "input", the default, pools first (Abbassi et al. 2025); "batch" last.
    """

    def __init__(
        self, c_in: int, m: Plane, c_out: int, k: Plane, *, norm: Norm = "input",
        generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32,
    ) -> None:
        kernel = _odd(k)
        self.weight = _he((c_out, c_in, *kernel), generator, dtype)
        self._padding = (kernel[0] // 2, kernel[1] // 2)
        super().__init__([self.weight], pool=m, norm=norm)

    def affine(self, u: Tensor) -> Tensor:
        return F.conv2d(u, self.weight, padding=self._padding)

    def weight_gradients(self, u: Tensor, dz: Tensor) -> list[Tensor]:
        return [_conv_gradient(u, self.weight, dz, self._padding, (1, 1))]


class CoConv(Block):
    """One k x k convolution per dilation d = 1..levels over all input channels, padding d·(k//2),
    outputs concatenated in order: context in space at the cost of one plain convolution
    (Duta, Georgescu, Ionescu 2021). ValueError if the splits of c_out do not sum to it.
    """

    def __init__(
        self, c_in: int, m: Plane, c_out: int, levels: int, *, k: Plane = 3,
        norm: Norm = "input", generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        kernel = _odd(k)
        self._half = (kernel[0] // 2, kernel[1] // 2)
        splits = co_conv_splits(c_out, levels)
        super().__init__(
            [_he((width, c_in, *kernel), generator, dtype) for width in splits], pool=m, norm=norm
        )

    def affine(self, u: Tensor) -> Tensor:
        return torch.cat([
            F.conv2d(u, w, padding=self._padding(d), dilation=d)
            for d, w in enumerate(self.weights, start=1)
        ], 1)

    def weight_gradients(self, u: Tensor, dz: Tensor) -> list[Tensor]:
        parts = dz.split_with_sizes([w.shape[0] for w in self.weights], 1)
        return [
            _conv_gradient(u, w, part, self._padding(d), (d, d))
            for d, (w, part) in enumerate(zip(self.weights, parts, strict=True), start=1)
        ]

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
        generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32,
    ) -> None:
        self.weight = _he((f_out, f_in), generator, dtype)
        super().__init__([self.weight], pool=1, norm=norm, slope=slope)

    def output_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:  # noqa: ARG002
        return self.c_out, 1, 1

    def affine(self, u: Tensor) -> Tensor:
        return F.linear(u.flatten(1), self.weight)[:, :, None, None]

    def weight_gradients(self, u: Tensor, dz: Tensor) -> list[Tensor]:
        return [dz.flatten(1).T @ u.flatten(1)]


def _plane(sides: Plane) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


def _odd(k: Plane) -> tuple[int, int]:
    kernel = _plane(k)
    if not all(side % 2 for side in kernel):
        raise ValueError(f"kernel {kernel}: odd sides only, so that padding keeps the map's size")
    return kernel


def _he(
    shape: tuple[int, ...], generator: torch.Generator | None, dtype: torch.dtype
) -> Tensor:
    """Normal with variance 2 / fan-in (He et al. 2015)."""
    weight = torch.randn(shape, generator=generator, dtype=dtype)
    return weight.mul_(math.sqrt(2 / math.prod(shape[1:])))


def _conv_gradient(
    u: Tensor, weight: Tensor, dz: Tensor, padding: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:
    gradient: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        u, weight.shape, dz, padding=padding, dilation=dilation
    )
    return gradient


def _by_sample(h: Tensor, norm: Norm) -> Tensor:
    return by_rms(h) if norm == "input" else by_length(h) if norm == "length" else h
