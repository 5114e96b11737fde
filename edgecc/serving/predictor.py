"""From samples to class scores: the trunk on LiteRT, then the exact readout. No torch."""

import json
import math
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
_SCALED = 2**18  # bytes of samples scaled at once
_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class Prediction:
    """`label` is None as long as no label is known."""

    label: str | None
    score: float  # calibrated probability
    top: list[tuple[str, float]]
    distance: float  # from the class named; beyond a bound the sample is unknown
    unknown: bool
    generation: int
    readout: int  # newest label that the prediction knows
    seconds: float  # from the start of the batch


class Predictor:
    """One generation, and a readout of its own that learns label by label."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.readout = generation.readout  # taken over, and kept up to date
        self.cursor = generation.manifest.cursor
        self._interpreter = Interpreter(generation.model)
        self.stale = True  # while labels were learnt that `predict` does not know yet
        self._weights: Features = np.zeros((0, self.readout.dim + 1))
        self._weights_cursor = 0
        self._novelty: Novelty | None = None

    @property
    def manifest(self) -> Manifest:
        return self.generation.manifest

    def features(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Integer features (dim,) of a stored sample (C, H, W)."""
        return np.asarray(self.features_of([x])[0])

    def features_of(self, samples: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Integer features (n, dim) of n stored samples."""
        trunk, run = self.generation.trunk, self._interpreter.run
        at_once = max(1, _SCALED // (4 * math.prod(trunk.shape)))
        return to_integers(np.array([
            run(scaled) for first in range(0, len(samples), at_once)
            for scaled in trunk.scale(np.array(samples[first : first + at_once]))]))

    def learn(self, features: Features, label: str | None, previous: str | None, seq: int) -> None:
        """Label event `seq`: the sample goes from class `previous` to `label`."""
        if previous is not None:
            self.readout.unlearn(features, previous)
        if label is not None:
            self.readout.learn(features, label)
        self.cursor, self.stale = seq, True

    def skip(self, seq: int) -> None:
        """Count label event `seq` as learnt: its sample was evicted."""
        self.cursor = seq

    def restore(self, readout: Readout, cursor: int) -> None:
        """Go on from a saved state of the live readout."""
        self.generation = replace(self.generation, readout=readout)
        self.readout, self.cursor, self.stale = readout, cursor, True

    def renumber(self, cursor: int) -> None:
        """The newest label that it knows has this number now."""
        self.cursor = cursor
        self.refresh()

    def renumber_generation(self, manifest: Manifest) -> None:
        """Its generation has the number in `manifest`."""
        self.generation = replace(self.generation, manifest=manifest)

    def arrange(self, classes: Sequence[str]) -> None:
        """Keep exactly these classes, in this order."""
        self.readout.arrange(list(classes))
        self.refresh()

    def refresh(self) -> None:
        """Solve for the weights: predictions know every label learnt so far."""
        weights = self.readout.weights(ridge_strength(self.manifest, self.readout))
        self._novelty, self._weights = Novelty.of(self.readout, weights), light(weights)
        self._weights_cursor, self.stale = self.cursor, False

    def predict(
        self, features: Features, started: float, *, far: float = math.inf
    ) -> list[Prediction]:
        """The predictions for n samples (n, dim), each to the last bit as if it came alone.

        started: time.perf_counter() at the start of the batch. far: the distance beyond which a
        sample is unknown.
        """
        classes = self.readout.classes[: len(self._weights)]
        if not classes or self._novelty is None:
            return [self._prediction([], 0.0, far, started) for _ in features]
        # Row by row, [:, None]: the product of all rows would round otherwise than that of one.
        values = np.asarray(scores(self._weights, features[:, None])[:, 0], np.float64)
        chances = probabilities(values, self.manifest.temperature)
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
            generation=self.manifest.number,
            readout=self._weights_cursor,
            seconds=time.perf_counter() - started,
        )


def ridge_strength(manifest: Manifest, readout: Readout) -> float:
    """Alpha as a growth has chosen it; before any growth, a stronger one while labels are few."""
    if manifest.growth:
        return manifest.alpha
    return manifest.alpha + early_ridge(float(readout.counts.sum()), readout.dim)


def to_message(prediction: Prediction, *, schema: str, sample_id: str, ts: float) -> bytes:
    """The message on `out/<source>/prediction`."""
    text, p = _JSON.encode, prediction
    top = ",".join([f"[{text(label)},{score:.6g}]" for label, score in p.top])
    # by hand: a third of what an encoder takes; six digits show that a small chance has changed
    return (
        f'{{"schema":"{schema}","sample_id":{text(sample_id)},"ts":{ts!r},'
        f'"label":{text(p.label)},"unknown":{text(p.unknown)},"score":{p.score:.6g},'
        f'"top":[{top}],"distance":{p.distance:.6g},"generation":{p.generation},'
        f'"readout":{p.readout},"latency_ms":{p.seconds * 1000:.2f}}}'
    ).encode()


def distance_of(body: bytes) -> tuple[int, float]:
    """Generation and distance in a message of `to_message`."""
    message = json.loads(body)
    return message["generation"], message.get("distance", 0.0)
