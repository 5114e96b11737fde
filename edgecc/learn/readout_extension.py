"""Extends a readout to new features that were computed only for the samples still stored.

A grown trunk keeps the stem's features s, whose exact sums cover every sample ever learnt, and adds
the blocks' features b, which are known for stored samples only. Stored samples count as they are.
For evicted ones, b = M (1, s) + e is estimated on the stored:

    A_ss stays    A_sb = A_ss Mᵀ    A_bb = M A_ss Mᵀ + n E[e eᵀ]    B_b = B_s Mᵀ + n_k E[e | k]

This is a sum of positive semi-definite parts, so A stays one, up to rounding. The result is rounded
to integers, so that later learning and unlearning stay exact. Numpy only.

Sources: Golub, Heath & Wahba, "Generalized Cross-Validation", 1979 (the ridge strength of M, and
how far residuals are underestimated on the rows that M was fitted on); Chen, Wiesel, Eldar & Hero,
"Shrinkage Algorithms for MMSE Covariance Estimation", 2010 (OAS, for E[e eᵀ]).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecc.learn.readout import ALPHAS, Features, Floats, Readout, inverse, scores, standardised

_RIDGES = np.geomspace(1e4, 1e-4, 17)  # strengths to try for M, over standardised features
_WEAK = tuple(alpha for alpha in ALPHAS if alpha < 0.1)  # stronger ones shrink all scores
_LEAST_FREE = 0.1  # the smallest share of rows left as degrees of freedom for the residuals


@dataclass(frozen=True)
class Fit:
    """b = M (1, s) + e: M is (p, d+1), E[e eᵀ] (p, p), the means of e by class (classes, p)."""

    M: Floats
    residual: Floats
    means: Floats

    @staticmethod
    def of(sample: Readout, dim: int, *, rows: float) -> "Fit":
        """Estimate the features beyond the first `dim` from those, on `rows` rows in `sample`."""
        a, b = sample.sums()
        if not a[0, 0]:
            p = sample.dim - dim
            return Fit(np.zeros((p, dim + 1)), np.zeros((p, p)), np.zeros((len(b), p)))
        c, mean, scale = standardised(a)
        slopes, free = _slopes(c, dim, rows)
        residual = _residual(c, slopes)
        residual /= free[:, None] * free
        _shrink(residual, rows)
        back = np.divide(1.0, scale[dim:], out=np.zeros_like(mean[dim:]), where=scale[dim:] > 0)
        residual *= back[:, None] * back
        slopes *= scale[:dim, None] * back
        m = np.hstack([(mean[dim:] - mean[:dim] @ slopes)[:, None], slopes.T])
        counts = b[:, :1]
        away = (b[:, dim + 1 :] - b[:, : dim + 1] @ m.T) / free
        means = np.divide(away, counts, out=np.zeros_like(away), where=counts > 0)
        return Fit(m, residual, means)


def extend(stored: Readout, evicted: Readout, fit: Fit) -> Floats:
    """Have `stored` learn, in place, the evicted rows, of which only the first features are known.

    Both have the same classes. Returns (classes, p): what the means of e would add to B;
    `confirmed_share` says how much of it to add.
    """
    (a, b), (a_evicted, b_evicted), d = stored.sums(), evicted.sums(), evicted.dim + 1
    cross = fit.M @ a_evicted
    both = cross @ fit.M.T
    both += a_evicted[0, 0] * fit.residual
    both += both.T.copy()  # symmetric to the bit
    both /= 2
    a[:d, :d] += a_evicted
    a[d:, :d] += np.rint(cross)
    a[:d, d:] += np.rint(cross).T
    a[d:, d:] += np.rint(both, out=both)
    b[:, :d] += b_evicted
    b[:, d:] += np.rint(b_evicted @ fit.M.T)
    return np.asarray(b_evicted[:, :1] * fit.means)


def confirmed_share(
    readout: Readout, signal: Floats, held: Features, labels: Sequence[str]
) -> float:
    """The share, 0 to 1, of `signal` that held-out rows (n, dim) confirm.

    Blocks separate the classes of the rows that trained them better than those of new rows. Scores
    are linear in B, so the share of least squared error is a regression with one slope.
    """
    if not len(held):
        return 0.0
    targets = np.array(labels)[:, None] == np.array(readout.classes)
    both = Readout(readout.dim)
    none = np.zeros((len(signal), readout.dim + 1 - signal.shape[1]))
    both.A, b = readout.sums()
    both.B = np.vstack([b, np.hstack([none, signal])])
    tried = []
    for alpha in _WEAK:
        values = scores(both.weights(alpha, prior_power=0.0), held)
        without, added = np.hsplit(values, 2)
        missing = targets - without
        share = float(np.clip((added * missing).sum() / max((added**2).sum(), 1e-12), 0.0, 1.0))
        tried.append((float(((missing - share * added) ** 2).sum()), share))
    return min(tried)[1]


def effective_rows(weights: Floats, counts: NDArray[np.int64]) -> float:
    """The effective sample size of `counts` rows of each class, weighted by `weights`."""
    square = float((weights**2 * counts).sum())
    return float((weights * counts).sum()) ** 2 / square if square else 0.0


def _slopes(c: Floats, dim: int, rows: float) -> tuple[Floats, Floats]:
    """(d, p) over standardised features, each column with the ridge strength of least generalised
    cross-validation error; and (p,) the share of rows left as degrees of freedom."""
    values, vectors = np.linalg.eigh(c[:dim, :dim])
    values, turned = np.maximum(values, 0.0), vectors.T @ c[:dim, dim:]
    ridge, free = np.full(len(c) - dim, _RIDGES[0]), np.ones(len(c) - dim)
    least = np.full(len(c) - dim, np.inf)
    for tried in _RIDGES:
        gain = 1 / (values + tried)
        left = 1 - (1 + (values * gain).sum()) / rows
        if left < _LEAST_FREE:
            break
        error = np.diag(c)[dim:] - (2 * gain - values * gain**2) @ turned**2
        error = np.maximum(error, 0.0) / left**2
        better = error < least
        least[better], ridge[better], free[better] = error[better], tried, left
    return vectors @ (turned / (values[:, None] + ridge)), free


def _residual(c: Floats, slopes: Floats) -> Floats:
    """E[e eᵀ] over standardised features, symmetric to the bit; a part of c, in place."""
    dim = len(slopes)
    residual = c[dim:, dim:]
    joint = slopes.T @ (c[:dim, dim:] - c[:dim, :dim] @ slopes / 2)
    residual -= joint
    residual -= joint.T
    return residual


def _shrink(covariance: Floats, rows: float) -> None:
    """Shrink correlations towards zero by OAS, the more the fewer rows there are; in place."""
    inverses = inverse(np.sqrt(np.maximum(np.diag(covariance), 0.0))) ** 2
    size = int((inverses > 0).sum())
    if size < 2:
        return
    square = float(np.einsum("ij,ij,i,j->", covariance, covariance, inverses, inverses))
    over = (1 - 2 / size) * square + size**2
    under = (rows + 1 - 2 / size) * (square - size)
    variances = np.diag(covariance).copy()
    covariance *= 1 - min(1.0, over / max(under, 1e-12))
    np.fill_diagonal(covariance, variances)
