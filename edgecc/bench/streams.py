"""Labelled samples in the order they arrive: classes two at a time, each sample once."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecc.bench.data import FASHION_FOLDER
from edgecc.capture.dataset import load_digits, load_idx
from edgecc.errors import ConfigError


@dataclass(frozen=True)
class Stream:
    """Arrays in order of arrival, and the test set. Images are (N, 1, H, W) uint8."""

    images: NDArray[np.uint8]
    targets: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_targets: NDArray[np.int64]
    groups: tuple[tuple[int, ...], ...]  # classes of each experience
    ends: tuple[int, ...]  # samples that have arrived when it ends

    def __len__(self) -> int:
        return len(self.targets)

    def first(self, experiences: int) -> "Stream":
        """The stream up to the end of an experience, its tests on the classes seen so far."""
        end = self.ends[experiences - 1]
        seen = np.isin(self.test_targets, np.unique(self.targets[:end]))
        return replace(
            self, images=self.images[:end], targets=self.targets[:end],
            test_images=self.test_images[seen], test_targets=self.test_targets[seen],
            groups=self.groups[:experiences], ends=self.ends[:experiences],
        )

    def flipped(self, share: float, *, seed: int) -> "Stream":
        """A share of the labels replaced by another class, drawn uniformly."""
        generator = np.random.default_rng((seed, 1))
        wrong = generator.random(len(self)) < share
        classes = int(self.targets.max()) + 1
        others = (self.targets + generator.integers(1, classes, len(self))) % classes
        return replace(self, targets=np.where(wrong, others, self.targets))

    def shuffled(self, *, seed: int) -> "Stream":
        """All labels in random order: nothing is left to learn."""
        order = np.random.default_rng((seed, 2)).permutation(len(self))
        return replace(self, targets=self.targets[order])

    def mixed(self, *, seed: int) -> "Stream":
        """The same samples in random order, as one experience."""
        order = np.random.default_rng((seed, 3)).permutation(len(self))
        return replace(
            self, images=self.images[order], targets=self.targets[order],
            groups=(tuple(range(int(self.targets.max()) + 1)),), ends=(len(self),),
        )


def split(name: str, *, seed: int, limit: int | None = None) -> Stream:
    """"fashion" or "digits", in five experiences of two classes.

    Seed 0 takes the classes in their own order, others in a random one; `limit` samples in all.
    """
    (images, targets), (test_images, test_targets) = _load(name)
    generator = np.random.default_rng((seed, 0))
    classes = np.arange(10) if seed == 0 else generator.permutation(10)
    arrival = generator.permutation(len(targets))[:limit]
    groups = tuple((int(classes[k]), int(classes[k + 1])) for k in range(0, 10, 2))
    parts = [arrival[np.isin(targets[arrival], group)] for group in groups]
    order = np.concatenate(parts)
    return Stream(
        images=images[order, None], targets=targets[order], test_images=test_images[:, None],
        test_targets=test_targets, groups=groups,
        ends=tuple(int(end) for end in np.cumsum([len(part) for part in parts])),
    )


def _load(name: str) -> tuple[tuple[NDArray[np.uint8], NDArray[np.int64]], ...]:
    if name == "digits":
        return load_digits("train"), load_digits("test")
    if not FASHION_FOLDER.exists():
        raise ConfigError(f"{FASHION_FOLDER} is missing: apt install dataset-fashion-mnist")
    return load_idx(FASHION_FOLDER, "train"), load_idx(FASHION_FOLDER, "test")
