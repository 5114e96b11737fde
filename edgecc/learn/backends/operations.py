"""What numpy_ops and torch_ops each provide, and the types that both share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:  # both backends are checked as if they were torch
    import torch

    Array: TypeAlias = torch.Tensor
    DType: TypeAlias = torch.dtype
    Generator: TypeAlias = torch.Generator
else:
    Array = DType = Generator = object

Backend = Literal["torch", "numpy"]
Sides = tuple[int, int]  # down and across
_TILE = 16  # samples


class Operations(Protocol):
    """Maps are (B, C, H, W), their channels last in memory."""

    namespace: Any  # torch or numpy: the functions that both name alike

    def prepare(self, threads: int) -> None:
        """Before the first computation: how many threads to compute with, where that can be set in
        a running process."""
        ...

    def generator(self, seed: int) -> Generator: ...

    def normal(
        self, shape: tuple[int, ...], generator: Generator | None, dtype: DType | None
    ) -> Array:
        """N(0, 1), float32 unless a dtype is given."""
        ...

    def integers(
        self, low: int, high: int, shape: tuple[int, ...], generator: Generator | None
    ) -> Array:
        """Uniform over low..high - 1, int64."""
        ...

    def permutation(self, count: int, generator: Generator) -> Array: ...

    def generator_state(self, generator: Generator) -> Array: ...

    def set_generator_state(self, generator: Generator, state: Array) -> None: ...

    def conv(self, u: Array, weight: Array, *, padding: Sides, dilation: int) -> Array:
        """(B, O, H, W) of u (B, I, H, W) and a weight (O, I, kh, kw); padding keeps the size."""
        ...

    def conv_gradient(
        self, u: Array, weight: Array, dz: Array, *, padding: Sides, dilation: int
    ) -> Array:
        """∂L/∂weight of a gradient dz of `conv`."""
        ...

    def moments(self, z: Array) -> tuple[Array, Array]:
        """Mean and variance (C,) of each channel."""
        ...

    def max_pool(self, z: Array, pool: Sides) -> tuple[Array, Array]:
        """Maxima of windows `pool` side by side, and where they were; the rest is left out."""
        ...

    def add_at_maxima(self, z: Array, dm: Array, index: Array, pool: Sides) -> None:
        """Add dm (B, C, H', W') to z where the maxima were; in place."""
        ...

    def avg_pool(self, a: Array, kernel: Sides, stride: Sides) -> Array: ...

    def avg_pool_back(self, dp: Array, a: Array, kernel: Sides, stride: Sides) -> Array:
        """∂L/∂a of a gradient dp of `avg_pool`."""
        ...

    def softmax(self, scores: Array) -> Array:
        """Over the last axis, like `logsumexp`."""
        ...

    def logsumexp(self, scores: Array) -> Array: ...

    def sigmoid(self, scores: Array) -> Array: ...

    def adam(
        self, p: Array, g: Array, m: Array, v: Array, *, beta1: float, beta2: float, eps: float,
        rate: float,
    ) -> None:
        """m and v take in the gradient g, p moves by -rate m / (√v + eps); in place, g too."""
        ...

    def count_below(self, thresholds: Array, values: Array) -> Array:
        """(C, N): how many of its row's sorted thresholds (C, K) lie below each value (C, N)."""
        ...

    def bin_sums(self, values: Array, bins: Array, count: int) -> Array:
        """(R, count): of each row, the sum of the values (R, N) in each bin (R, N)."""
        ...


def tiles(count: int) -> Iterator[slice]:
    """`count` samples, a few at a time: what is made of them then stays in a core's cache."""
    yield from (slice(first, first + _TILE) for first in range(0, count, _TILE))
