"""What wrong labels cost the readout that learns them all."""

import numpy as np
import pytest
from support.datasets import Seen

from edgecc.learn.readout import Readout, scores

TRAIN = 4000


def _accuracy(seen: Seen, flipped: float, seed: int) -> float:
    features, labels = seen
    readout, draw = Readout(features.shape[1]), np.random.default_rng(seed)
    for one, label in zip(features[:TRAIN], labels[:TRAIN], strict=True):
        given = int(label)
        if draw.random() < flipped:
            given = int((given + draw.integers(1, 10)) % 10)
        readout.learn(one, str(given))
    best = scores(readout.weights(1e-2), features[TRAIN:]).argmax(axis=1)
    return float(np.mean(np.array(readout.classes)[best] == np.array(labels[TRAIN:])))


@pytest.mark.parametrize(("flipped", "bar"), [(0.1, 0.015), (0.2, 0.03), (0.4, 0.06)])
def test_flipped_labels_cost_little(stem_features: Seen, flipped: float, bar: float) -> None:
    """4000 labels for 289 weights a class, so 40 % flips are noise that has not averaged out."""
    clean = _accuracy(stem_features, 0.0, 0)
    lost = [clean - _accuracy(stem_features, flipped, seed) for seed in range(3)]
    print(f"{flipped}: clean {clean:.3f}, lost {np.mean(lost):.4f}")
    assert np.mean(lost) < bar
