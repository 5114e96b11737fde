"""Labels that are probably wrong do not train blocks.

Wrong labels cost the exact readout little, since they average out, but blocks memorise them. So
the stem's readout, with balanced classes, predicts each training sample first. Samples that it
assigns to another class by a clear margin are not drawn. Where there are few of them all are drawn:
then they are more often hard samples than wrong labels. Figures: docs/experiments.md.
"""

import numpy as np
from numpy.typing import NDArray

from edgecc.learn.readout import Readout, early_ridge, scores
from edgecc.training.dataset import Rows
from edgecc.trunk.trunk import Trunk

MARGIN = 0.3  # between scores, which a regression on 0 and 1 makes about probabilities
SELDOM = 0.05  # of the training rows
_TAUGHT = 20_000  # rows that the readout learns at most


def plausible(stem: Trunk, rows: Rows, generator: np.random.Generator) -> NDArray[np.int64]:
    """Positions of the training rows whose labels are plausible."""
    features, taught = rows.features(stem), generator.permutation(rows.training)[:_TAUGHT]
    targets, readout = rows.targets[taught], Readout(stem.dim, list(rows.classes))
    balance = len(taught) / np.bincount(targets, minlength=len(rows.classes)).clip(1)
    for position, target in zip(taught, targets, strict=True):
        readout.learn(features(position), rows.classes[target], weight=balance[target])
    weights = readout.weights(early_ridge(len(taught), stem.dim), prior_power=0.0)

    def contradicted(position: int) -> bool:
        values = scores(weights, features(position))
        return bool(values.max() - values[rows.targets[position]] > MARGIN)

    doubtful = np.array([contradicted(position) for position in rows.training])
    return rows.training[~doubtful] if doubtful.mean() > SELDOM else rows.training
