"""The trunk: stem and frozen blocks, bottom first, and how a stored sample enters it."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecc.compile import Layer, compile_trunk
from edgecc.planner import Plan
from edgecc.sample import Input
from edgecc.stem import make_stem


@dataclass(frozen=True)
class Trunk:
    """`ranges` are the int8 ranges of the input and of each layer's map; None is float32."""

    shape: tuple[int, int, int]  # (C, H, W)
    mean: NDArray[np.float32]  # (C,)
    std: NDArray[np.float32]  # (C,)
    layers: tuple[Layer, ...]
    ranges: tuple[tuple[float, float], ...] | None = None
    methods: tuple[str, ...] = ("stem",)

    @property
    def dim(self) -> int:
        """Features of all layers together."""
        return sum(len(layer.bias) * layer.grid[0] * layer.grid[1] for layer in self.layers)

    def first(self, blocks: int) -> "Trunk":
        """The stem and its first `blocks` blocks."""
        layers = blocks + 1
        return replace(
            self, layers=self.layers[:layers], methods=self.methods[:layers],
            ranges=None if self.ranges is None else self.ranges[: layers + 1],
        )

    def scale(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """(C, H, W) as stored to the model's float32 (H, W, C)."""
        scaled = (x.astype(np.float32) - self.mean[:, None, None]) / self.std[:, None, None]
        return np.ascontiguousarray(scaled.transpose(1, 2, 0))

    def compile(self, output: Literal["features", "map"] = "features") -> bytes:
        return compile_trunk(
            self.layers, input_shape=self.shape, ranges=self.ranges, output=output
        )


def stem_trunk(plan: Plan, spec: Input, seed: int) -> Trunk:
    """The float32 trunk of the stem alone, inputs scaled as pictures are."""
    shape = spec.model_shape
    stem = make_stem(shape, filters=plan.stem_filters, grid=plan.stem_grid, seed=seed)
    return Trunk(
        shape=shape, mean=np.zeros(shape[0], np.float32),
        std=np.full(shape[0], 255.0, np.float32), layers=(stem,),
    )
