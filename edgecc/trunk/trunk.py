"""The trunk: stem and frozen blocks, bottom up, and how a stored sample enters it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecc.trunk.compile import Layer, Whole, compile_trunk
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.model_stem import StemModel
from edgecc.trunk.truncate import STEM, truncated


@dataclass(frozen=True)
class Trunk:
    shape: tuple[int, int, int]  # (C, H, W)
    mean: NDArray[np.float32]  # (C,)
    std: NDArray[np.float32]  # (C,)
    layers: tuple[Layer, ...]
    # int8 ranges of what enters the layers and of each layer's map; None for float32
    ranges: tuple[tuple[float, float], ...] | None = None
    methods: tuple[str, ...] = ("stem",)  # by layer: what trained it
    stem: StemModel | None = None  # runs below the layers; None where the first layer is the stem
    mirrored: bool = False  # features are means over a sample and its mirror image
    whole: Whole | None = None  # features of the whole sample, before the layers'

    @property
    def dim(self) -> int:
        """Features of the whole sample and of all layers together."""
        whole = 0 if self.whole is None else self.whole.dim
        return whole + sum(layer.dim for layer in self.layers)

    def first(self, blocks: int) -> "Trunk":
        """The stem and its first `blocks` blocks."""
        layers = blocks + 1
        return replace(
            self, layers=self.layers[:layers], methods=self.methods[:layers],
            ranges=None if self.ranges is None else self.ranges[: layers + 1])

    def scale(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """From stored samples (..., C, H, W) to the model's input, float32 (..., H, W, C)."""
        *many, channels, height, width = x.shape
        scaled = np.empty((*many, height, width, channels), np.float32)
        for k in range(channels):  # four times as fast as all at once, transposed at the end
            channel = x[..., k, :, :].astype(np.float32)
            channel -= self.mean[k]
            channel /= self.std[k]
            scaled[..., k] = channel
        return scaled

    def entering(self) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        """A function from a stored sample to what enters the first layer, (h, w, c)."""
        if self.stem is None:
            return self.scale
        run = Interpreter(truncated(self.stem.model, STEM).finish()).run
        return lambda x: run(self.scale(x))

    def runner(
        self, output: Literal["features", "map"] = "features"
    ) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        """A function from a stored sample to its features (dim,), or to the last layer's map."""
        run = Interpreter(self.compile(output)).run
        return lambda x: run(self.scale(x))

    def compile(self, output: Literal["features", "map"] = "features") -> bytes:
        return compile_trunk(
            self.layers, input_shape=self.shape, ranges=self.ranges, output=output,
            stem=None if self.stem is None else self.stem.model, mirrored=self.mirrored,
            whole=self.whole,
        )
