"""The trunk that a plan starts with: its stem alone."""

import numpy as np

from edgecc.plan.plan import Plan, model_grid
from edgecc.protocol.sample import Input
from edgecc.trunk.compile import Layer, Whole
from edgecc.trunk.model_stem import Stem
from edgecc.trunk.patch_stem import make_stem
from edgecc.trunk.trunk import Trunk
from edgecc.trunk.value_features import value_features
from edgecc.trunk.window_features import THRESHOLDS, window_features


def stem_trunk(
    plan: Plan, spec: Input, seed: int, stem: Stem | None = None, *, mirrored: bool = False
) -> Trunk:
    """The float32 trunk of the stem alone, inputs scaled as pictures are.

    `mirrored` counts only with blocks: a stem alone gains nothing by it (docs/experiments.md), and
    a model would run twice.
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
        mirrored=mirrored and bool(plan.blocks), whole=_whole(plan, shape, seed),
    )


def _whole(plan: Plan, shape: tuple[int, int, int], seed: int) -> Whole | None:
    channels, _, time = shape
    if not plan.stem_kernels:
        return None
    if time == 1:
        return value_features(channels, features=THRESHOLDS * plan.stem_kernels, seed=seed)
    return window_features(channels, time, kernels=plan.stem_kernels, seed=seed)


def _model_trunk(plan: Plan, shape: tuple[int, int, int], stem: Stem) -> Trunk:
    assert plan.stem_map is not None
    grid = model_grid(plan.stem_map, plan.stem_grid)
    bias = np.zeros(len(stem.kernels), np.float32)
    return Trunk(
        shape=shape, mean=np.full(shape[0], stem.mean, np.float32),
        std=np.full(shape[0], stem.std, np.float32), stem=stem.model,
        layers=(Layer(convs=(stem.kernels,), bias=bias, pool=(1, 1), grid=grid),),
    )
