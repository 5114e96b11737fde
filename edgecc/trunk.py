"""The trunk: stem and frozen blocks, bottom first, and how a stored sample enters it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecc import planner
from edgecc.compile import Layer, compile_trunk
from edgecc.interpreter import Interpreter
from edgecc.planner import Plan
from edgecc.sample import Input
from edgecc.stem import make_stem
from edgecc.stem_model import Stem, StemModel
from edgecc.tap import STEM, tapped


@dataclass(frozen=True)
class Trunk:
    """`ranges` are the int8 ranges of what enters the layers and of each layer's map; None is
    float32. `stem` is a model that runs below the layers; None where the first is the stem.
    mirrored: features are means over a sample and its mirror image."""

    shape: tuple[int, int, int]  # (C, H, W)
    mean: NDArray[np.float32]  # (C,)
    std: NDArray[np.float32]  # (C,)
    layers: tuple[Layer, ...]
    ranges: tuple[tuple[float, float], ...] | None = None
    methods: tuple[str, ...] = ("stem",)
    stem: StemModel | None = None
    mirrored: bool = False

    @property
    def dim(self) -> int:
        """Features of all layers together."""
        return sum(layer.dim for layer in self.layers)

    def first(self, blocks: int) -> "Trunk":
        """The stem and its first `blocks` blocks."""
        layers = blocks + 1
        return replace(
            self, layers=self.layers[:layers], methods=self.methods[:layers],
            ranges=None if self.ranges is None else self.ranges[: layers + 1],
        )

    def scale(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """(C, H, W) as stored to the model's float32 (H, W, C)."""
        scaled = x.astype(np.float32)
        scaled -= self.mean[:, None, None]
        scaled /= self.std[:, None, None]
        return np.ascontiguousarray(scaled.transpose(1, 2, 0))

    def entering(self) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        """From a stored sample to what the first layer sees, (h, w, c)."""
        if self.stem is None:
            return self.scale
        found = tapped(self.stem.model, STEM)
        run = Interpreter(found.graph.finish(found.first, found.last)).run
        return lambda x: run(self.scale(x))

    def compile(self, output: Literal["features", "map"] = "features") -> bytes:
        return compile_trunk(
            self.layers, input_shape=self.shape, ranges=self.ranges, output=output,
            stem=None if self.stem is None else self.stem.model, mirrored=self.mirrored,
        )


def stem_trunk(
    plan: Plan, spec: Input, seed: int, stem: Stem | None = None, *, mirrored: bool = False
) -> Trunk:
    """The float32 trunk of the stem alone, inputs scaled as pictures are.

    `mirrored` is for a trunk with blocks: a stem says no more by it (docs/experiments.md), and one
    that is a model would run twice.
    """
    shape = spec.model_shape
    if stem is not None:
        return _model_trunk(plan, shape, stem)
    patches = make_stem(
        shape, filters=plan.stem_filters, grid=plan.stem_grid, seed=seed,
        pooled=bool(plan.blocks), mixed=plan.stem_mixed, waves=plan.stem_waves,
        pixels=spec.kind == "image",
    )
    return Trunk(
        shape=shape, mean=np.zeros(shape[0], np.float32),
        std=np.full(shape[0], 255.0, np.float32), layers=(patches,),
        mirrored=mirrored and bool(plan.blocks),
    )


def _model_trunk(plan: Plan, shape: tuple[int, int, int], stem: Stem) -> Trunk:
    assert plan.stem_map is not None
    grid = planner.model_grid(plan.stem_map, plan.stem_grid)
    bias = np.zeros(len(stem.kernels), np.float32)
    return Trunk(
        shape=shape, mean=np.full(shape[0], stem.mean, np.float32),
        std=np.full(shape[0], stem.std, np.float32), stem=stem.model,
        layers=(Layer(convs=(stem.kernels,), bias=bias, pool=(1, 1), grid=grid),),
    )
