"""The stems that a node makes itself: the configured one, before anything has grown on it.

A sensor's input is scaled as its first windows are, measured after 1, 4, 16 and 64 of them;
so are the thresholds of features that read whole windows.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from edgecc.checkpoint import generation
from edgecc.checkpoint.manifest import Manifest
from edgecc.config.schema import PATCHES, Config
from edgecc.learn.readout import Readout
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.serving.generations import Generations
from edgecc.store import meta
from edgecc.store.writer import Store
from edgecc.trunk.model_stem import Stem
from edgecc.trunk.trunk import Trunk

SCALED_ON = (1, 4, 16, 64)  # sensor windows after which the input's scale is measured


class Stems:
    def __init__(
        self, config: Config, plan: Plan, store: Store, generations: Generations,
        model: Stem | None,
    ) -> None:
        """model: the stem that is a model; None for patch filters."""
        self._config, self._plan, self._store = config, plan, store
        self._generations, self._model = generations, model
        self._spec = config.input

    @property
    def name(self) -> str:
        """The configured stem as it is built: patches, or the digest of a model."""
        if self._model is not None:
            return self._model.model.digest
        if self._plan.stem_kernels:
            return f"{PATCHES} and {self._plan.stem_kernels} kernels"
        if not self._plan.blocks:
            return f"{PATCHES} that nothing stands on"
        return f"{PATCHES} mirrored" if self._config.grow.mirror else PATCHES

    @property
    def digest(self) -> str | None:
        """Of the model that is the configured stem; None for patches."""
        return None if self._model is None else self._model.model.digest

    def following(self, after: Manifest | None) -> list[Manifest]:
        """Make the stems that follow `after`: an image's first, a sensor's each scaled on more."""
        stems: list[Manifest] = []
        for count in self._due(after):
            after = self._make(scaled_on=count, parent="" if after is None else after.digest)
            stems.append(after)
        return stems

    def newest(self, parent: str) -> Manifest:
        """Make the configured stem, scaled on as many windows as there are."""
        return self._make(scaled_on=max(self._due(None), default=0), parent=parent)

    def _due(self, after: Manifest | None) -> list[int]:
        """Numbers of windows to scale the input on; 0 for an image, which is not scaled."""
        if self._spec.kind != "sensor":
            return [0] if after is None else []
        before = 0 if after is None else int(after.recipe["scaled_on"])
        if before == SCALED_ON[-1]:
            return []
        stored = self._store.stored()
        return [count for count in SCALED_ON if before < count <= stored]

    def _make(self, *, scaled_on: int, parent: str) -> Manifest:
        """A new generation: the bare stem, its input scaled on so many windows."""
        trunk = stem_trunk(
            self._plan, self._spec, self._config.seed, self._model,
            mirrored=self._config.grow.mirror)
        if scaled_on:
            payloads, last = self._store.first_payloads(scaled_on)
            trunk = self._scaled(trunk, payloads)
            with self._store.transaction():
                self._store.set_meta(meta.scaled_on(scaled_on), last)
        manifest = generation.base_manifest(
            self._config.node, self._spec, parent=parent, plan=self._plan.describe(),
            recipe={"seed": self._config.seed, "scaled_on": scaled_on},
        )
        return self._generations.save(manifest, trunk, Readout(trunk.dim), trunk.compile())

    def _scaled(self, trunk: Trunk, payloads: Iterable[bytes]) -> Trunk:
        windows = np.stack([self._spec.unpack(packed) for packed in payloads])
        std = windows.std(axis=(0, 2, 3))
        scaled = replace(
            trunk, mean=windows.mean(axis=(0, 2, 3)).astype(np.float32),
            std=np.where(std > 0, std, 1.0).astype(np.float32),
        )
        if trunk.whole is None:
            return scaled
        return replace(scaled, whole=trunk.whole.calibrated(map(scaled.scale, windows)))
