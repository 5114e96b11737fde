"""What a plan is: sizes of stem, blocks, batch and queues; and how many features they give."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgecc.learn import geometry
from edgecc.learn.backends import Backend
from edgecc.protocol.sample import Input
from edgecc.trunk.window_features import THRESHOLDS, window_dim

Allowed = Literal["auto", "torch", "numpy"]  # backends that a plan may take
_CLASSES = 64  # at least, and one more for every ...
_CLASS_EVERY = 8  # ... features
_MODEL_FEATURES = 512  # of a stem that is a model, where a grid above 1x1 would give more


@dataclass(frozen=True)
class BlockSize:
    """One block: output channels, kernel, max-pool, readout grid; see `learn/geometry.py`.

    Kernel 0 is a dense block over the whole map below it.
    """

    channels: int
    kernel: int
    pool: int
    grid: int


@dataclass(frozen=True)
class StemMap:
    """The map of a stem that is a model, as blocks see it, and the bytes of one interpreter."""

    channels: int
    height: int
    width: int
    memory: int


@dataclass(frozen=True)
class Plan:
    stem_filters: int
    stem_grid: int
    blocks: tuple[BlockSize, ...]  # none: no growth, the stem alone serves
    batch: int
    receive_maximum: int
    where: dict[str, int]  # bytes by use
    stem_map: StemMap | None = None  # None: patch filters
    stem_mixed: int = 0  # features that each cell's are mixed to; 0 leaves them
    stem_waves: int = 0  # spatial frequencies of each that are kept; 0 leaves the cells
    stem_kernels: int = 0  # that read a whole window, each for several features; 0: none
    learner_limit: int = 0  # RLIMIT_DATA of the learner, bytes; 0 where there is none
    backend: Backend = "torch"  # what the learner computes with

    @property
    def total(self) -> int:
        return sum(self.where.values())

    @property
    def hold(self) -> int:
        """Bytes of messages not yet acked above which the daemon reads no more."""
        return self.where["daemon: messages in flight"]

    def describe(self) -> dict[str, Any]:
        """For a manifest: without byte counts, and without the backend where it is torch."""
        described = asdict(replace(self, where={}))
        del described["learner_limit"]
        if self.backend == "torch":
            del described["backend"]
        return described

    @staticmethod
    def restored(described: Mapping[str, Any]) -> "Plan":
        """The plan that `describe` described, perhaps through JSON."""
        stem = described.get("stem_map")
        return Plan(**{
            **described, "blocks": tuple(BlockSize(**block) for block in described["blocks"]),
            "stem_map": stem and StemMap(**stem),
        })


def readout_dim(plan: Plan, spec: Input) -> int:
    """Features of stem and all planned blocks."""
    if plan.stem_map is None:
        channels = plan.stem_mixed or 2 * plan.stem_filters
        cells = math.prod(geometry.fitted(plan.stem_grid, stem_size(plan, spec)))
        dim = channels * min(plan.stem_waves or cells, cells) + _whole_dim(plan, spec)
    else:
        dim = plan.stem_map.channels * math.prod(model_grid(plan.stem_map, plan.stem_grid))
    return dim + sum(block.channels * math.prod(geometry.fitted(block.grid, above))
                     for block, _, above in map_sizes(plan, spec))


def _whole_dim(plan: Plan, spec: Input) -> int:
    channels, _, time = spec.model_shape
    if not plan.stem_kernels:
        return 0
    return THRESHOLDS * plan.stem_kernels if time == 1 else (
        window_dim(channels, time, plan.stem_kernels))


def most_classes(plan: Plan, spec: Input, asked: int = 0) -> int:
    """Classes that the plan has room for: as many as `asked` for, or what suits its features."""
    return asked or max(_CLASSES, readout_dim(plan, spec) // _CLASS_EVERY)


def model_grid(stem: StemMap, largest: int) -> geometry.Size:
    """The finest pooling of a model's map to at most _MODEL_FEATURES features, or else 1x1."""
    grids = (geometry.fitted(n, (stem.height, stem.width)) for n in range(largest, 1, -1))
    return next(
        (grid for grid in grids if stem.channels * math.prod(grid) <= _MODEL_FEATURES), (1, 1))


def stem_size(plan: Plan, spec: Input) -> geometry.Size:
    """Rows and columns of the stem's map."""
    if plan.stem_map is not None:
        return plan.stem_map.height, plan.stem_map.width
    size = spec.model_shape[1:]
    return geometry.pooled(size, geometry.stem_pool(size)) if plan.blocks else size


def map_sizes(plan: Plan, spec: Input) -> Iterator[tuple[BlockSize, geometry.Size, geometry.Size]]:
    """Each block, bottom up, with rows and columns of the maps below and above it."""
    below = stem_size(plan, spec)
    for block in plan.blocks:
        pool = geometry.fitted(block.pool, below)
        above = geometry.pooled(below, pool) if block.kernel else (1, 1)
        yield block, below, above
        below = above
