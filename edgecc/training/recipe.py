"""How a growth trains: the method, how long, the learning rate, and how samples are augmented.

A recipe is written into the log with the growth it belongs to, and into every manifest.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.learn import backends, geometry
from edgecc.learn.backends import Generator
from edgecc.learn.blocks import Block, Linear, PoolConv
from edgecc.learn.methods.base import Method
from edgecc.learn.methods.contextual import Contextual
from edgecc.learn.methods.spela import SpelaChannels
from edgecc.learn.methods.supervised import Supervised
from edgecc.plan.plan import BlockSize, Plan
from edgecc.training.dataset import Change, Maps

_SHIFT = 1 / 28  # of a side: how far a sample is moved at most

METHODS: Mapping[str, Callable[..., Method]] = {
    "contextual": partial(Contextual, wrong="all"),
    "contextual-hardest": partial(Contextual, wrong="hardest"),
    "contextual-random": partial(Contextual, wrong="random"),
    "contextual-bias": partial(Contextual, mode="bias"),
    "contextual-scale": partial(Contextual, mode="scale"),
    "spela": SpelaChannels,
    "supervised": Supervised,
}


@dataclass(frozen=True)
class Recipe:
    epochs: float = 5.0  # passes over the training samples
    seed: int = 0
    method: str = "contextual"  # of METHODS
    mirror: bool = False  # half of the samples drawn are flipped left to right
    rate: float = 3e-3  # Adam's learning rate, which falls to zero along a half cosine

    @staticmethod
    def of(written: Mapping[str, Any]) -> "Recipe":
        """The recipe in a growth or manifest; other keys there are ignored."""
        known = {field.name for field in fields(Recipe)}
        return Recipe(**{name: value for name, value in written.items() if name in known})

    def rate_at(self, step: int, steps: int) -> float:
        return self.rate * 0.5 * (1 + math.cos(math.pi * step / steps))

    def change(self, generator: np.random.Generator) -> Change:
        """A random small shift, edges repeated, and with `mirror` a random flip."""

        def changed(x: NDArray[Any]) -> NDArray[Any]:
            for axis in (1, 2):
                reach = round(x.shape[axis] * _SHIFT)
                x = _shifted(x, int(generator.integers(-reach, reach + 1)), axis)
            return x[:, :, ::-1] if self.mirror and generator.random() < 0.5 else x

        return changed


def methods_on(
    maps: Maps, plan: Plan, recipe: Recipe, classes: int, draws: np.random.Generator
) -> Iterator[Method]:
    """The planned blocks on the stem's map, bottom up, each with the method that trains it."""
    channels, size = maps.channels, maps.size
    for planned in plan.blocks:
        generator = backends.named(plan.backend).generator(int(draws.integers(2**63)))
        block = _block(planned, channels, size, generator)
        yield METHODS[recipe.method](block, classes=classes, size=size, generator=generator)
        channels, *out = block.output_shape(size)
        size = (out[0], out[1])


def _block(planned: BlockSize, channels: int, size: geometry.Size, generator: Generator) -> Block:
    if planned.kernel == 0:
        return Linear(
            channels * size[0] * size[1], planned.channels, norm="batch", generator=generator)
    return PoolConv(
        channels, geometry.fitted(planned.pool, size), planned.channels,
        geometry.odd(planned.kernel, size), norm="batch", generator=generator)


def _shifted(x: NDArray[Any], by: int, axis: int) -> NDArray[Any]:
    """`x` moved by `by` places along an axis, its edge repeated."""
    size = x.shape[axis]
    return x.take(np.clip(np.arange(size) - by, 0, size - 1), axis) if by else x
