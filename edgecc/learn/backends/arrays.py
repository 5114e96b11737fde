"""The types that both backends share, and tiles of samples."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

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


def tiles(count: int) -> Iterator[slice]:
    """`count` samples, a few at a time: what is made of them then stays in a core's cache."""
    yield from (slice(first, first + _TILE) for first in range(0, count, _TILE))
