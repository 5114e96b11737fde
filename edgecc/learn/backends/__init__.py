"""Two kinds of arrays to learn on: torch's, or numpy's where there is no memory for torch.

Methods and blocks are written once, in what both kinds share: operators, indexing, and the
functions that torch and numpy name alike (`namespace`). What they do not share is `Operations`.
Which kind is meant shows by the array, or by the generator that weights are drawn from.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import numpy as np

if TYPE_CHECKING:  # both kinds are checked as if they were torch's
    import torch

    Array: TypeAlias = torch.Tensor
    Kind: TypeAlias = torch.dtype
    Draws: TypeAlias = torch.Generator
else:
    Array = Kind = Draws = object

Backend = Literal["torch", "numpy"]
Sides = tuple[int, int]  # down and across
_TILE = 16  # samples
P = ParamSpec("P")
R = TypeVar("R")


class Operations(Protocol):
    """Maps are (B, C, H, W), their channels last in memory."""

    namespace: Any  # torch or numpy: the functions that both name alike

    def prepare(self, threads: int) -> None:
        """Before the first computation. threads: to compute with, where the kind lets itself be
        told in mid-process.
        """
        ...

    def generator(self, seed: int) -> Draws: ...

    def normal(self, shape: tuple[int, ...], generator: Draws | None, dtype: Kind | None) -> Array:
        """N(0, 1), float32 where no dtype is asked for."""
        ...

    def integers(
        self, low: int, high: int, shape: tuple[int, ...], generator: Draws | None
    ) -> Array:
        """Uniform over low..high - 1, int64."""
        ...

    def permutation(self, count: int, generator: Draws) -> Array: ...

    def drawn(self, generator: Draws) -> Array:
        """What `redraw` makes a generator go on from."""
        ...

    def redraw(self, generator: Draws, drawn: Array) -> None: ...

    def conv(self, u: Array, weight: Array, *, padding: Sides, dilation: int) -> Array:
        """(B, O, H, W) of u (B, I, H, W) and a weight (O, I, kh, kw) of which padding fits."""
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
        """Maxima of windows `pool` side by side, and where they were; rests are left out."""
        ...

    def add_at_maxima(self, z: Array, dm: Array, index: Array, pool: Sides) -> None:
        """Add dm (B, C, H', W') to z where the maxima were; in place."""
        ...

    def avg_pool(self, a: Array, kernel: Sides, stride: Sides) -> Array: ...

    def avg_pool_back(self, dp: Array, a: Array, kernel: Sides, stride: Sides) -> Array:
        """∂L/∂a of a gradient dp of `avg_pool`."""
        ...

    def softmax(self, scores: Array) -> Array:
        """Over the last axis, as `logsumexp`."""
        ...

    def logsumexp(self, scores: Array) -> Array: ...

    def sigmoid(self, scores: Array) -> Array: ...

    def adam(
        self, p: Array, g: Array, m: Array, v: Array, *, beta1: float, beta2: float, eps: float,
        rate: float,
    ) -> None:
        """m and v take in the gradient g, p moves by -rate m / (√v + eps); in place, g too."""
        ...

    def places(self, thresholds: Array, values: Array) -> Array:
        """How many of its row's sorted thresholds (C, K) lie below each value (C, N)."""
        ...

    def binned(self, values: Array, places: Array, count: int) -> Array:
        """(R, count): the sums of each row's values (R, N) that have the same place."""
        ...


def named(backend: Backend) -> Operations:
    """The operations of a kind; ValueError that names an unknown one."""
    if backend == "numpy":
        from edgecc.learn.backends import numpy_ops

        return cast(Operations, numpy_ops)
    if backend == "torch":
        from edgecc.learn.backends import torch_ops

        return torch_ops
    raise ValueError(f"backend {backend!r} is unknown: torch or numpy")


def of(x: object) -> Operations:
    """The operations on arrays like x, or on those that a generator draws."""
    return named(_kind(x))


def namespace(x: object) -> Any:
    """torch or numpy: functions that both name alike, on arrays like x."""
    return of(x).namespace


def _kind(x: object) -> Backend:
    return "numpy" if isinstance(x, np.ndarray | np.generic | np.random.Generator) else "torch"


def tiles(count: int) -> Iterator[slice]:
    """So many samples, a few at a time: what is made of them then stays in a core's cache."""
    yield from (slice(first, first + _TILE) for first in range(0, count, _TILE))


def without_graph(do: Callable[P, R]) -> Callable[P, R]:
    """Nothing is kept for autograd, where there is one."""

    @functools.wraps(do)
    def done(*args: P.args, **rest: P.kwargs) -> R:
        torch = sys.modules.get("torch")
        if torch is None:
            return do(*args, **rest)
        with torch.no_grad():
            return do(*args, **rest)

    return done
