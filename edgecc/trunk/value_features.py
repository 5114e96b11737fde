"""Features of readings without a course in time: which of them are high or low together.

Each feature is 1 where up to four conditions hold at once, "this value is above (or below) its
quantile q", and 0 where one of them fails clearly: the leaves of random trees (Geurts, Ernst &
Wehenkel, "Extremely randomized trees", 2006), drawn before any label is known. They do not depend
on how a value is scaled or how far its outliers lie. Quantiles are those of the first readings.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from edgecc.trunk.tflite_writer import Floats, Graph, Tensor

_CONDITIONS = 4  # of a feature, at most
_QUANTILES = 15  # of each value, at most
_STEPS = 1024  # quantiles of all values, at most where values are fewer
_NORMAL = np.array([NormalDist().inv_cdf(n / 32) for n in range(1, 32)])  # a sample of it
_STEP = 0.02  # deviations over which a condition passes from failing to holding


@dataclass(frozen=True)
class ValueFeatures:
    """thresholds: (Q, C) of scaled values. widths: (C,) of their steps. conditions: (M, 4) of each
    feature: q * C + c + 1 where value c is above its threshold q, negative below, 0 for none."""

    thresholds: Floats
    widths: Floats
    conditions: Floats

    @property
    def dim(self) -> int:
        return len(self.conditions)

    @property
    def tensors(self) -> dict[str, Floats]:
        return {"thresholds": self.thresholds, "widths": self.widths,
                "conditions": self.conditions}

    def append(self, graph: Graph, x: Tensor) -> Tensor:
        """(1, dim) of scaled readings (1, 1, 1, C)."""
        quantiles, channels = self.thresholds.shape
        each = np.tile(np.diag(1 / self.widths), (quantiles, 1)).astype(np.float32)
        steps = graph.conv(
            x, each[:, :, None, None], -(self.thresholds / self.widths).reshape(-1), quant=None,
            activation="RELU_N1_TO_1")
        number = np.abs(self.conditions).astype(np.int64)
        rows, columns = np.nonzero(number)
        weights = np.zeros((self.dim, quantiles * channels), np.float32)
        np.add.at(weights, (rows, number[rows, columns] - 1),
                  np.sign(self.conditions[rows, columns]) / 2)
        missing = 1 - np.count_nonzero(number, axis=1) / 2
        both = graph.conv(x=steps, kernels=weights[:, :, None, None],
                          bias=missing.astype(np.float32), quant=None)
        return graph.reshape(both, (1, self.dim))

    def calibrated(self, readings: Iterable[Floats]) -> "ValueFeatures":
        """With the quantiles of these scaled readings (1, 1, C), smoothed the more the fewer they
        are: by a normal kernel (Silverman, 1986)."""
        rows = np.concatenate([one[0] for one in readings])
        shares = np.arange(1, len(self.thresholds) + 1) / (len(self.thresholds) + 1)
        spread = rows.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        smooth = rows[:, None] + _NORMAL[:, None] * spread * len(rows) ** -0.2
        thresholds = np.quantile(smooth.reshape(-1, rows.shape[1]), shares, axis=0)
        return replace(
            self, thresholds=thresholds.astype(np.float32),
            widths=(_STEP * spread).astype(np.float32))


def value_features(channels: int, *, features: int, seed: int) -> ValueFeatures:
    """Seeded conditions on `channels` values, for quantiles of normally distributed ones."""
    generator = np.random.default_rng(seed)
    quantiles = max(1, min(_QUANTILES, _STEPS // channels))
    conditions = np.zeros((features, _CONDITIONS), np.float32)
    for row in conditions:
        count = int(generator.integers(1, min(_CONDITIONS, channels) + 1))
        values = generator.choice(channels, count, replace=False)
        steps = generator.integers(quantiles, size=count) * channels + values + 1
        row[:count] = steps * generator.choice((-1, 1), count)
    normal = generator.standard_normal((4096, 1, 1, channels), np.float32)
    empty = np.zeros((quantiles, channels), np.float32)
    return ValueFeatures(empty, np.ones(channels, np.float32), conditions).calibrated(normal)
