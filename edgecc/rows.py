"""What a growth learns from: labelled rows of the log at a cursor, drawn, and seen by the trunk."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgecc.interpreter import Interpreter
from edgecc.reader import Reader
from edgecc.sample import Input
from edgecc.trunk import Trunk

JUDGES = 2000  # held-out rows that judge at most


@dataclass(frozen=True)
class Rows:
    """The labelled rows of the log at a cursor, and how to read them."""

    store: Reader
    spec: Input
    classes: list[str]
    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    held: NDArray[np.bool_]
    weights: NDArray[np.float64]  # by class: samples seen for each one that is still stored

    @staticmethod
    def at(store: Reader, spec: Input, cursor: int) -> "Rows":
        classes = store.classes(cursor)
        index = {label: k for k, label in enumerate(classes)}
        table = np.fromiter(
            ((row, index[label], held) for row, label, held in store.labelled(cursor)),
            dtype=[("row", np.int64), ("target", np.int64), ("held", np.bool_)],
        )
        seen = store.class_counts(cursor)
        kept = np.bincount(table["target"], minlength=len(classes))
        weights = np.array([seen[label] for label in classes]) / np.maximum(kept, 1)
        held = table["held"]
        return Rows(store, spec, classes, table["row"], table["target"], held, weights)

    def sample(self, position: int) -> NDArray[Any]:
        packed = self.store.payload(int(self.ids[position]))
        assert packed is not None, "rows of an open growth are not evicted"
        return self.spec.unpack(packed)

    @property
    def judging(self) -> NDArray[np.int64]:
        """Positions that judge candidates: those held out, thinned evenly where they are many."""
        held = np.flatnonzero(self.held)
        return held[np.linspace(0, len(held) - 1, min(len(held), JUDGES)).astype(np.int64)]

    @property
    def training(self) -> NDArray[np.int64]:
        """Positions that are not held out."""
        return np.flatnonzero(~self.held)


class Maps:
    """Inputs of the next block: stored samples through the frozen trunk, as it will serve."""

    def __init__(self, trunk: Trunk, rows: Rows) -> None:
        self._trunk, self._rows = trunk, rows
        self._interpreter = Interpreter(trunk.compile("map"))
        height, width, self.channels = self._map(int(rows.training[0])).shape
        self.size = (height, width)

    def batch(self, positions: NDArray[np.int64]) -> torch.Tensor:
        """(B, C, H, W) float32, channels last in memory."""
        maps = np.stack([self._map(int(position)) for position in positions])
        return torch.from_numpy(maps).permute(0, 3, 1, 2)

    def batches(self, positions: NDArray[np.int64], size: int = 50) -> Iterator[torch.Tensor]:
        for start in range(0, len(positions), size):
            yield self.batch(positions[start : start + size])

    def _map(self, position: int) -> NDArray[np.float32]:
        return self._interpreter.run(self._trunk.scale(self._rows.sample(position)))


class Draws:
    """Batches without replacement within an epoch; batch `step` depends on nothing before it."""

    def __init__(self, rows: NDArray[np.int64], batch: int, key: tuple[int, ...]) -> None:
        self._rows, self._key = rows, key
        self._batch = min(batch, len(rows))
        self._epoch, self._order = -1, rows

    def batch(self, step: int) -> NDArray[np.int64]:
        epoch, place = divmod(step, len(self._rows) // self._batch)
        if epoch != self._epoch:
            generator = np.random.default_rng((*self._key, epoch))
            self._epoch, self._order = epoch, generator.permutation(self._rows)
        return self._order[place * self._batch : (place + 1) * self._batch]
