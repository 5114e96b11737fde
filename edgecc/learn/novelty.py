"""How unlike its class a sample is: the distance of its scores from those of the class named.

Scores are a linear map of the features, so their class means and their spread within classes follow
exactly from the readout's sums; a class that was never learnt need not have low scores, but it
seldom has the scores of another. Numpy only.

Source: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
Adversarial Attacks", NeurIPS 2018 (Mahalanobis distance), here between the readout's scores.
"""

from dataclasses import dataclass

import numpy as np

from edgecc.learn.readout import Floats, Readout

_RIDGE = 1e-6  # of the mean variance


@dataclass(frozen=True)
class Novelty:
    """means: (classes, classes) scores of each class; inverse: of their pooled covariance."""

    means: Floats
    inverse: Floats

    @staticmethod
    def of(readout: Readout, weights: Floats) -> "Novelty":
        """weights (classes, dim+1), as `readout.weights` gives them."""
        a, b = readout.sums()
        counts = np.maximum(readout.counts, 1.0)[:, None]
        means = (b / counts) @ weights.T
        n = max(float(a[0, 0]), 1.0)
        within = (weights @ a @ weights.T - (means * counts).T @ means) / n
        size = len(weights)
        within.flat[:: size + 1] += _RIDGE * np.trace(within) / max(size, 1) + 1e-12
        return Novelty(means, np.asarray(np.linalg.inv(within), np.float64))

    def distance(self, values: Floats, k: int) -> float:
        """Squared Mahalanobis distance of scores (classes,) from those of class k."""
        away = values - self.means[k]
        return float(away @ self.inverse @ away)
