"""Metrics of class-incremental learning, from R[i][j]: accuracy on the classes of experience j
after experience i."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def of_matrix(matrix: Sequence[Sequence[float]]) -> dict[str, float]:
    """ACC, average incremental accuracy, forgetting and backward transfer, as fractions.

    Lopez-Paz & Ranzato 2017 (ACC, BWT), Chaudhry et al. 2018 (forgetting).
    """
    r = np.array(matrix)
    last = len(r) - 1
    return {
        "acc": float(r[last].mean()),
        "average_incremental": float(np.mean([r[i, : i + 1].mean() for i in range(last + 1)])),
        "forgetting": forgetting(matrix),
        "bwt": float(np.mean([r[last, j] - r[j, j] for j in range(last)])) if last else 0.0,
    }


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """How much lower each experience but the last ends than it ever was, on average."""
    r = np.array(matrix)
    last = len(r) - 1
    if last == 0:
        return 0.0
    best = [max(r[i, j] for i in range(j, last + 1)) for j in range(last)]
    return float(np.mean(np.array(best) - r[last, :last]))


def omega(accuracies: Sequence[float], oracles: Sequence[float]) -> float:
    """Omega_all (Kemker et al. 2018): accuracy on the classes seen, as a share of the oracle's."""
    return float(np.mean(np.array(accuracies) / np.array(oracles)))


def kappa(right: float, shares: Sequence[float]) -> float:
    """Cohen's kappa of prequential accuracy `right` against guessing by class shares."""
    chance = float(np.square(shares).sum())
    return (right - chance) / (1 - chance) if chance < 1 else 0.0


def balanced_accuracy(truth: NDArray[np.str_], named: NDArray[np.str_]) -> float:
    """Mean over the classes of the share that is named rightly."""
    return float(np.mean([np.mean(named[truth == name] == name) for name in np.unique(truth)]))
