"""What a growth learns from: labelled rows of the log at a cursor, mini-batches of them, and their
maps behind the frozen trunk."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.learn.readout import to_integers
from edgecc.plan.costs import VALIDATION_ROWS
from edgecc.protocol.sample import Input
from edgecc.store.reader import Reader
from edgecc.training.groups import Groups
from edgecc.trunk.trunk import Trunk

Change = Callable[[NDArray[Any]], NDArray[Any]]
Batch = NDArray[np.float32]  # (B, C, H, W), channels last in memory


class PausingReader(Reader):
    """The log as the learner reads it: before each sample it pauses for as long as it is asked to.

    No transaction is open then: a paused one would keep SQLite from truncating its write-ahead log.
    """

    def __init__(self, path: Path, pause: Callable[[], None]) -> None:
        super().__init__(path)
        self._pause = pause

    def payload(self, row: int) -> bytes | None:
        self._pause()
        return super().payload(row)


@dataclass(frozen=True)
class Rows:
    """Labelled samples at a cursor, by position, and how to read them."""

    read: Callable[[int], NDArray[Any]]  # the stored sample (C, H, W) at a position
    classes: list[str]
    targets: NDArray[np.int64]
    held: NDArray[np.bool_]
    weights: NDArray[np.float64]  # by class: samples seen for each one that is still stored
    groups: Groups | None = None  # None where each sample stands alone

    @staticmethod
    def at(store: Reader, spec: Input, cursor: int) -> "Rows":
        classes = store.classes(cursor)
        index, sources = {label: k for k, label in enumerate(classes)}, dict[str, int]()
        table = np.fromiter(
            ((row, index[label], held, sources.setdefault(source, len(sources)), ts)
             for row, label, held, source, ts in store.labelled(cursor)),
            dtype=[("row", np.int64), ("target", np.int64), ("held", np.bool_),
                   ("source", np.int64), ("ts", np.float64)])
        seen = store.class_counts(cursor)
        kept = np.bincount(table["target"], minlength=len(classes))
        weights = np.array([seen[label] for label in classes]) / np.maximum(kept, 1)

        def read(position: int) -> NDArray[Any]:
            packed = store.payload(int(table["row"][position]))
            assert packed is not None, "rows of an open growth are not evicted"
            return spec.unpack(packed)

        return Rows(read, classes, table["target"], table["held"], weights,
                    Groups.of(table["target"], table["source"], table["ts"]))

    def __len__(self) -> int:
        return len(self.targets)

    def features(self, trunk: Trunk) -> Callable[[int], NDArray[np.float32]]:
        """A function from a position to the integer features (dim,) of its sample."""
        run = trunk.runner()
        return lambda position: to_integers(run(self.read(int(position))))

    @property
    def validation(self) -> NDArray[np.int64]:
        """Positions of the validation set: held-out rows, thinned evenly where there are many."""
        held = np.flatnonzero(self.held)
        return held[np.linspace(0, len(held) - 1, min(len(held), VALIDATION_ROWS)).astype(np.int64)]

    @property
    def validation_labels(self) -> list[str]:
        return [self.classes[target] for target in self.targets[self.validation]]

    @property
    def training(self) -> NDArray[np.int64]:
        """Positions of the rows that are not held out; blocks train on these alone."""
        return np.flatnonzero(~self.held)


class Maps:
    """Inputs of the next block: stored samples through the frozen trunk, as it will serve."""

    def __init__(self, trunk: Trunk, rows: Rows) -> None:
        self._map, self._rows = trunk.runner("map"), rows
        height, width, self.channels = self._map(rows.read(0)).shape
        self.size = (height, width)

    def batch(self, positions: NDArray[np.int64], change: Change | None = None) -> Batch:
        """The maps (B, C, H, W) of samples, which `change` augments first."""
        samples = (self._rows.read(int(position)) for position in positions)
        return self.of(samples if change is None else map(change, samples))

    def of(self, samples: Iterable[NDArray[Any]]) -> Batch:
        """The maps (B, C, H, W) of samples (C, H, W)."""
        maps = np.fromiter(map(self._map, samples), (np.float32, (*self.size, self.channels)))
        return maps.transpose(0, 3, 1, 2)

    def batches(self, positions: NDArray[np.int64], size: int = 50) -> Iterator[Batch]:
        for start in range(0, len(positions), size):
            yield self.batch(positions[start : start + size])


class Draws:
    """Mini-batches, each row once a pass; batch `step` depends on nothing before it."""

    def __init__(self, rows: NDArray[np.int64], batch: int, key: tuple[int, ...]) -> None:
        self._rows, self._key = rows, key
        self._batch = min(batch, len(rows))
        self._pass, self._order = -1, rows

    def batch(self, step: int) -> NDArray[np.int64]:
        number, place = divmod(step, len(self._rows) // self._batch)
        if number != self._pass:
            generator = np.random.default_rng((*self._key, number))
            self._pass, self._order = number, generator.permutation(self._rows)
        return self._order[place * self._batch : (place + 1) * self._batch]
