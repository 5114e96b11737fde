"""Learning on torch's arrays, or on numpy's where memory is too short for torch.

Methods and blocks are written once, in what both share: operators, indexing, and the functions
that torch and numpy name alike (`namespace`). What they do not share stands twice under the same
names, in torch_ops, which says what each operation does, and in numpy_ops. An array, or the
generator that weights are drawn from, decides which backend computes.
"""

import functools
import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import numpy as np

from edgecc.learn.backends.arrays import Array, Backend, DType, Generator, Sides, tiles

__all__ = [
    "Array", "Backend", "DType", "Generator", "Sides", "named", "namespace", "of", "tiles",
    "without_graph",
]

P = ParamSpec("P")
R = TypeVar("R")


def named(backend: Backend) -> ModuleType:
    """The operations of a backend. ValueError for an unknown one."""
    if backend == "numpy":
        from edgecc.learn.backends import numpy_ops

        return numpy_ops
    if backend == "torch":
        from edgecc.learn.backends import torch_ops

        return torch_ops
    raise ValueError(f"backend {backend!r} is unknown: torch or numpy")


def of(x: object) -> ModuleType:
    """The operations on arrays like x, or on those that the generator x draws."""
    numpy = isinstance(x, np.ndarray | np.generic | np.random.Generator)
    return named("numpy" if numpy else "torch")


def namespace(x: object) -> Any:
    """torch or numpy: functions that both name alike, on arrays like x."""
    return of(x).namespace


def without_graph(do: Callable[P, R]) -> Callable[P, R]:
    """Nothing is kept for autograd, where torch is loaded."""

    @functools.wraps(do)
    def done(*args: P.args, **rest: P.kwargs) -> R:
        torch = sys.modules.get("torch")
        with nullcontext() if torch is None else torch.no_grad():
            return do(*args, **rest)

    return done
