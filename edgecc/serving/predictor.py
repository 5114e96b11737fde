"""A sample to class scores: the trunk on LiteRT, then the exact readout. No torch."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.checkpoint.generation import Generation
from edgecc.checkpoint.manifest import Manifest
from edgecc.learn.novelty import Novelty, light
from edgecc.learn.readout import Features, Readout, early_ridge, probabilities, scores, to_integers
from edgecc.trunk.interpreter import Interpreter

TOP = 3
_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class Prediction:
    """`label` is None as long as no label is known."""

    label: str | None
    score: float  # calibrated probability
    top: list[tuple[str, float]]
    distance: float  # from the class named; beyond some bound it is unknown
    unknown: bool
    generation: int
    readout: int  # newest label that this prediction knows of
    seconds: float  # since the samples predicted together were begun


class Predictor:
    """Serves one generation, its readout kept up to date label by label."""

    def __init__(self, generation: Generation, *, threads: int = 1) -> None:
        self.generation = generation
        self.readout = generation.readout  # taken over, and kept up to date
        self.cursor = generation.manifest.cursor
        self._interpreter = Interpreter(generation.model, threads=threads)
        self._stale = True
        self._weights: Features = np.zeros((0, self.readout.dim + 1))
        self._weights_cursor = 0
        self._novelty: Novelty | None = None

    def features(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Whole-number features (dim,) of a stored sample (C, H, W)."""
        return np.asarray(self.features_of([x])[0])

    def features_of(self, samples: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """The same (n, dim) of n samples."""
        run, scale = self._interpreter.run, self.generation.trunk.scale
        return to_integers(np.array([run(scale(x)) for x in samples]))

    def learn(self, features: Features, label: str | None, previous: str | None, seq: int) -> None:
        """Label event `seq`: the sample goes from class `previous` to `label`."""
        if previous is not None:
            self.readout.unlearn(features, previous)
        if label is not None:
            self.readout.learn(features, label)
        self.cursor, self._stale = seq, True

    def restore(self, readout: Readout, cursor: int) -> None:
        """Go on from a saved state of the live readout."""
        self.generation = replace(self.generation, readout=readout)
        self.readout, self.cursor, self._stale = readout, cursor, True

    @property
    def stale(self) -> bool:
        """True while `predict` does not yet know every label learnt."""
        return self._stale

    def refresh(self) -> None:
        """Solve for the weights that know every label learnt so far."""
        weights = self.readout.weights(penalty(self.generation.manifest, self.readout))
        self._novelty, self._weights = Novelty.of(self.readout, weights), light(weights)
        self._weights_cursor, self._stale = self.cursor, False

    def predict(
        self, features: Features, started: float, *, far: float = float("inf")
    ) -> Prediction:
        """Scores of all classes for one sample, `started` on time.perf_counter.

        Further than `far` from the class it names, the sample is unknown.
        """
        return self.predict_all(features[None], started, far=far)[0]

    def predict_all(
        self, features: Features, started: float, *, far: float = float("inf")
    ) -> list[Prediction]:
        """The same for samples (n, dim); to the last bit what `predict` says of each."""
        classes = self.readout.classes[: len(self._weights)]
        if not classes or self._novelty is None:
            return [self._prediction([], 0.0, far, started) for _ in features]
        # Row by row, [:, None]: the product of all rows would round otherwise than that of one.
        values = np.asarray(scores(self._weights, features[:, None])[:, 0], np.float64)
        chances = probabilities(values, self.generation.manifest.temperature)
        best = np.argsort(chances)[:, : -TOP - 1 : -1]
        distances = self._novelty.distances(values, best[:, 0]).tolist()
        names = ([classes[k] for k in ks] for ks in best.tolist())
        likely = np.take_along_axis(chances, best, axis=1).tolist()
        return [
            self._prediction(list(zip(top, chance, strict=True)), distance, far, started)
            for top, chance, distance in zip(names, likely, distances, strict=True)
        ]

    def _prediction(
        self, top: list[tuple[str, float]], distance: float, far: float, started: float
    ) -> Prediction:
        return Prediction(
            label=top[0][0] if top else None,
            score=top[0][1] if top else 0.0,
            top=top,
            distance=distance,
            unknown=not top or distance > far,
            generation=self.generation.manifest.number,
            readout=self._weights_cursor,
            seconds=time.perf_counter() - started,
        )


def penalty(manifest: Manifest, readout: Readout) -> float:
    """Alpha as a growth has judged it; before any, a stronger one while labels are few."""
    if manifest.growth:
        return manifest.alpha
    return manifest.alpha + early_ridge(float(readout.counts.sum()))


def to_message(prediction: Prediction, *, schema: str, sample_id: str, ts: float) -> bytes:
    """The prediction as published on `out/<source>/prediction`."""
    body = {
        "schema": schema,
        "sample_id": sample_id,
        "ts": ts,
        "label": prediction.label,
        "unknown": prediction.unknown,
        "score": _short(prediction.score),
        "top": [[label, _short(score)] for label, score in prediction.top],
        "distance": _short(prediction.distance),
        "generation": prediction.generation,
        "readout": prediction.readout,
        "latency_ms": round(prediction.seconds * 1000, 2),
    }
    return _JSON.encode(body).encode()


def distance_of(body: bytes) -> tuple[int, float]:
    """Generation and distance of a prediction as published."""
    said = json.loads(body)
    return said["generation"], said.get("distance", 0.0)


def _short(score: float) -> float:
    """Six significant digits: small probabilities still show that they changed."""
    return float(f"{score:.6g}")
