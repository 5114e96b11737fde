"""How unlike its predicted class a sample is: the distance of its scores from the class's mean.

Scores are linear in the features, so class means and pooled covariance of the scores follow exactly
from the readout's sums. A class that was never learnt need not have low scores, but its scores are
seldom like those of another. Numpy only.

Source: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
Adversarial Attacks", NeurIPS 2018 (Mahalanobis distance), here between the readout's scores.
"""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecc.learn.readout import Features, Floats, Readout

_RIDGE = 1e-6  # of the mean variance
_BLOCK = 256  # rows of the factor in one product, so that most above the diagonal is skipped
_FIRMER = (1.0, 1e2, 1e4, 1e6, 1e8)  # times the ridge, until there is an inverse


@dataclass(frozen=True)
class Novelty:
    """means (classes, classes): mean scores of each class. factor, of the same shape: inverse of
    the lower Cholesky factor of their pooled covariance."""

    means: Floats
    factor: Features

    @staticmethod
    def of(readout: Readout, weights: Floats) -> "Novelty":
        """weights (classes, dim+1), as `readout.weights` gives them."""
        a, b = readout.sums()
        counts = np.maximum(readout.counts, 1.0)[:, None]
        means = (b / counts) @ weights.T
        n = max(float(a[0, 0]), 1.0)
        within = (weights @ a @ weights.T - (means * counts).T @ means) / n
        return Novelty(means, light(_factor(within)))

    def distances(self, values: Features, named: NDArray[np.intp]) -> Floats:
        """(n,) squared Mahalanobis distances of scores (n, classes) from the mean scores of the
        classes `named` (n,)."""
        away = np.asarray(values - self.means[named], self.factor.dtype)[:, None]  # row by row
        total = np.zeros(len(away))
        for first in range(0, away.shape[2], _BLOCK):
            last = first + _BLOCK
            part = away[..., :last] @ self.factor[first:last, :last].T
            total += (part * part).sum(axis=(1, 2))
        return total


def light(values: Floats) -> Features:
    """(classes, ...) in float32 where there are many classes: half as much to read per sample."""
    return values if len(values) <= _BLOCK else values.astype(np.float32)


def _factor(covariance: Floats) -> Floats:
    """L⁻¹ of covariance + ridge = L Lᵀ."""
    size = len(covariance)
    ridge = _RIDGE * np.abs(np.diag(covariance)).sum() / max(size, 1) + 1e-12
    for firmer in _FIRMER:
        covariance.flat[:: size + 1] += firmer * ridge
        with suppress(np.linalg.LinAlgError):  # estimated sums need not be positive definite
            return np.asarray(np.linalg.inv(np.linalg.cholesky(covariance)))
    raise ArithmeticError(f"the covariance of {size} classes' scores has no inverse")
