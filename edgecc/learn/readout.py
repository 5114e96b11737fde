"""The exact readout: ridge regression from features to classes, kept as sums.

    A = Σ f fᵀ    B = Σ 1_y fᵀ    weights = (A + λI)⁻¹ Bᵀ

Features are integers, so both sums are exact in float64 (up to 2⁵³): learning gives the same bits
in any order, unlearning is its exact inverse, and the readouts of two devices join by addition.
A new class is a new row of B. The constant feature 1 stands first and takes no part in the ridge.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FEATURE_SCALE = 64  # features are rounded to 1/64 ...
FEATURE_MAX = 2**14 - 1  # ... and clipped, so A is exact for at least 33 million samples
ALPHAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)  # ridge strengths to choose from
PRIOR_POWER = 0.5  # how far class frequencies are corrected for; docs/experiments.md
_EARLY = 0.2  # ridge strength to add where there are as many labels as features
_MINI_BATCH = 256  # learnt samples in one product: 256 · 255² < 2²⁴

Floats = NDArray[np.float64]
Features = NDArray[np.floating[Any]]  # integers; float32 holds them exactly too
By = Literal["accuracy", "error"]


def to_integers(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (..., d) as the integers that the sums are made of; zero has no sign."""
    steps = np.rint(features * np.float32(FEATURE_SCALE))
    return np.asarray(np.clip(steps, -FEATURE_MAX, FEATURE_MAX) + 0.0, np.float32)


@dataclass
class Readout:
    """`dim` features, any number of classes. A is (dim+1, dim+1), B is (classes, dim+1)."""

    dim: int
    classes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.A: Floats = np.zeros((self.dim + 1, self.dim + 1))
        self.B: Floats = np.zeros((len(self.classes), self.dim + 1))
        self._waiting: list[tuple[Features, float]] = []

    def sums(self) -> tuple[Floats, Floats]:
        """(A, B) with everything learnt so far."""
        self._sum_up()
        return self.A, self.B

    @property
    def counts(self) -> Floats:
        """Samples learnt of each class."""
        return self.B[:, 0]

    def learn(self, features: Features, label: str, *, weight: float = 1.0) -> None:
        """Add one sample's integer features (dim,)."""
        f = np.concatenate(([1.0], features))
        row = self._row(label)  # may grow B
        self.B[row] += weight * f
        self._waiting.append((f, weight))
        if len(self._waiting) == _MINI_BATCH:
            self._sum_up()

    def unlearn(self, features: Features, label: str, *, weight: float = 1.0) -> None:
        """As if `learn` had never been called with these."""
        self.learn(features, label, weight=-weight)

    def merge(self, other: "Readout") -> None:
        """Join what another readout over the same features has learnt."""
        if other.dim != self.dim:
            raise ValueError(f"{other.dim} features do not join {self.dim}")
        other._sum_up()
        self.A += other.A
        for label, learnt in zip(other.classes, other.B, strict=True):
            row = self._row(label)
            self.B[row] += learnt

    def arrange(self, classes: Sequence[str]) -> None:
        """Order rows by `classes`; other classes are dropped if nothing is left in their row."""
        here = self.classes
        left = [k for k, name in enumerate(here) if name not in classes and self.B[k].any()]
        rows = [self._row(name) for name in classes] + left
        self.B, self.classes = self.B[rows], [self.classes[row] for row in rows]

    def prefix(self, dim: int) -> "Readout":
        """What a readout over only the first `dim` features would have learnt."""
        self._sum_up()
        part = Readout(dim, list(self.classes))
        part.A, part.B = self.A[: dim + 1, : dim + 1].copy(), self.B[:, : dim + 1].copy()
        return part

    def copy(self) -> "Readout":
        return self.prefix(self.dim)

    def weights(self, alpha: float, *, prior_power: float = PRIOR_POWER) -> Floats:
        """(classes, dim+1): ridge regression on standardised features, strength `alpha` a sample.

        Scores of class k are divided by its share of the samples to the power `prior_power`, so
        that rare and new classes can win; with balanced classes this changes nothing.
        """
        self._sum_up()
        n = self.A[0, 0]
        if n <= 0:
            return np.zeros_like(self.B)
        covariance, mean, scale = standardised(self.A)
        covariance.flat[:: self.dim + 1] += alpha
        prior = self.B[:, :1] / n
        target = (self.B[:, 1:] / n - prior * mean) * scale
        slopes = np.linalg.solve(covariance, target.T).T * scale
        weights = np.hstack([prior - slopes @ mean[:, None], slopes])
        return np.asarray(weights / np.maximum(prior, 1 / n) ** prior_power)

    def _row(self, label: str) -> int:
        if label not in self.classes:
            self.classes.append(label)
            self.B = np.vstack([self.B, np.zeros((1, self.dim + 1))])
        return self.classes.index(label)

    def _sum_up(self) -> None:
        if self._waiting:
            f = np.array([f for f, _ in self._waiting], np.float32)
            weight = np.array([[w] for _, w in self._waiting])
            kind = np.float32 if _fits_float32(f, weight) else np.float64
            self.A += f.T.astype(kind) @ (f * weight).astype(kind)
            self._waiting = []


def _fits_float32(f: Features, weight: Floats) -> bool:
    """Whether float32 holds every integer in the sum of f fᵀ, as with features of eight bits."""
    return bool((np.abs(weight) == 1).all() and len(f) * float(np.abs(f).max()) ** 2 < 2**24)


def standardised(a: Floats) -> tuple[Floats, Floats, Floats]:
    """(covariance of the standardised features, their means, 1 / their deviations) of sums A."""
    n, dim = a[0, 0], len(a) - 1
    mean = a[0, 1:] / n
    scale = inverse(np.sqrt(np.maximum(np.diag(a)[1:] / n - mean**2, 0.0)))
    covariance = a[1:, 1:] / n
    for row in range(dim):  # row by row: a whole outer product would double the memory
        covariance[row] -= mean[row] * mean
        covariance[row] *= scale[row] * scale
    return covariance, mean, scale


def scores(weights: Features, features: Features) -> Floats:
    """(..., classes) of features (..., dim); the largest names the class."""
    return np.asarray(features @ weights[:, 1:].T + weights[:, 0])


def probabilities(values: Floats, temperature: float) -> Floats:
    """Softmax of `temperature` · scores over the last axis."""
    z = temperature * (values - values.max(axis=-1, keepdims=True))
    e = np.exp(z)
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def early_ridge(labels: float, features: int) -> float:
    """Ridge strength to add while labels are few beside `features`; docs/experiments.md.

    It falls without a step, so that accuracy does not dip where labels come to be as many as
    features and a regression would pass through every one of them.
    """
    return float(min(0.5, _EARLY * (features / max(1.0, labels)) ** 2))


def best_alpha(
    readout: Readout, features: Features, labels: Sequence[str], *, by: By = "accuracy"
) -> tuple[float, float, Floats]:
    """(alpha, accuracy, scores) of the ridge strength that does best on held-out samples (n, dim).

    by: the highest accuracy, or the least squared error, which says more where samples are few.
    """
    tried = _tried(readout, features, labels)
    if by == "accuracy":
        return max(tried, key=lambda one: (one[1], one[0]))
    return min(tried, key=lambda one: float(squared_errors(readout, one[2], labels).sum()))


def squared_errors(readout: Readout, values: Floats, labels: Sequence[str]) -> Floats:
    """(n,) between scores (n, classes) and 1 for the label, 0 for others, as ridge regression has
    them: the correction for class frequencies is taken out."""
    n = max(float(readout.counts.sum()), 1.0)
    plain = values * np.maximum(readout.counts / n, 1 / n) ** PRIOR_POWER
    wanted = np.array(labels, str)[:, None] == np.array(readout.classes, str)
    return np.asarray(((plain - wanted) ** 2).sum(1))


def _tried(
    readout: Readout, features: Features, labels: Sequence[str]
) -> Iterator[tuple[float, float, Floats]]:
    """(alpha, accuracy, scores) of each ridge strength."""
    classes = np.array(readout.classes)
    for alpha in ALPHAS:
        values = scores(readout.weights(alpha), features)
        yield alpha, float(np.mean(classes[values.argmax(axis=1)] == np.array(labels))), values


def best_temperature(values: Floats, targets: NDArray[np.int64]) -> float:
    """The temperature with the highest likelihood of the held-out labels."""
    choices, rows = np.geomspace(1.0, 64.0, 25), np.arange(len(targets))
    losses = [-np.log(probabilities(values, t)[rows, targets] + 1e-12).mean() for t in choices]
    return float(choices[int(np.argmin(losses))])


def inverse(deviation: Floats) -> Floats:
    """1 / deviation; 0 for features that never vary."""
    floor = 1e-6 * max(float(deviation.max(initial=0.0)), 1.0)
    return np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > floor)
