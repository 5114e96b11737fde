"""A node's past, written at once: what it would have on disk after months of samples.

Real: the log, written by the store's own calls (each sample with its label, its prediction and its
source's standing), and the readout's sums over all of it, saved as the daemon saves them, so that
a start goes on from there. Synthetic: the samples are a few pictures again and again, under ids of
their own; all came within a minute; no growth was due.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.checkpoint import generation
from edgecc.checkpoint.keyring import Keys, open_or_make
from edgecc.checkpoint.manifest import Manifest
from edgecc.config.schema import Config
from edgecc.ingest.monitor import Monitor
from edgecc.learn.readout import Features
from edgecc.plan.budget import planned
from edgecc.plan.plan import Plan
from edgecc.protocol.messages import PREDICTION_SCHEMA
from edgecc.protocol.sample import Sample
from edgecc.serving import predictor as predictors
from edgecc.serving.generations import Generations
from edgecc.serving.predictor import Prediction, Predictor
from edgecc.serving.serving import Serving
from edgecc.serving.stems import Stems
from edgecc.store import meta
from edgecc.store.growth_log import Growth
from edgecc.store.reader import Reader
from edgecc.store.writer import Store
from edgecc.training.dataset import Rows
from edgecc.training.growth import Grower

SOURCE = "past"
_AT_ONCE = 10_000  # samples a transaction


@dataclass(frozen=True)
class Past:
    """Sample n is picture n modulo N, under its label. images: (N, C, H, W) as stored."""

    images: NDArray[Any]
    labels: Sequence[str]

    def write(self, config: Config, samples: int) -> None:
        """Bring the log of a node that is stopped to `samples` samples, all labelled."""
        store = Store(config.state.log)
        plan, stem = planned(config)
        generations = Generations(config, store, open_or_make(config.state))
        serving = Serving(
            config, store, generations, Stems(config, plan, store, generations, stem))
        serving.open()
        predictor, before = serving.predictor, store.last_row()
        assert predictor is not None  # there is one from the start, for pictures
        monitor = Monitor(config, store, lambda *_: None)
        features = [predictor.features(x) for x in self.images]
        self._learn(predictor, features, before, samples)
        predictions = predictor.predict(np.stack(features), 0.0)
        for first in range(before, samples, _AT_ONCE):
            with store.transaction():
                for n in range(first, min(first + _AT_ONCE, samples)):
                    self._log(store, monitor, n, predictions[n % len(predictions)])
                monitor.save()
        with store.transaction():
            predictor.renumber(store.last_label())
            serving.write_snapshot()
        store.close()

    def _learn(
        self, predictor: Predictor, features: Sequence[Features], before: int, samples: int
    ) -> None:
        """Each picture as often as it comes: the same sums as one after the other."""
        times = np.bincount(np.arange(before, samples) % len(features), minlength=len(features))
        for f, label, weight in zip(features, self.labels, times, strict=True):
            predictor.readout.learn(f, label, weight=float(weight))
        predictor.refresh()

    def _log(self, store: Store, monitor: Monitor, n: int, prediction: Prediction) -> None:
        position = n % len(self.images)
        sample = Sample(f"past-{n:07d}", SOURCE, float(n), None, self.images[position])
        body = predictors.to_message(
            prediction, schema=PREDICTION_SCHEMA, sample_id=sample.id, ts=sample.ts)
        labelled = store.record(
            sample, (prediction.label, body), self.labels[position]).labelled
        assert labelled is not None  # the id is new
        monitor.scored(SOURCE, labelled.event, bool(labelled.hit))


def with_blocks(config: Config, labels: int) -> Manifest:
    """A generation on offer with all planned blocks, never trained: of the size and cost that
    trained ones have. The first `labels` labels of the log are in its readout."""
    keys, folder = Keys(config.state), config.state.generations
    number = max(generation.numbers(folder))
    served = generation.load(folder / generation.name_of(number), keys.trusted, config.input)
    rows = Rows.at(Reader(config.state.log), config.input, labels)
    with tempfile.TemporaryDirectory(dir=config.state.folder) as work:
        grower = Grower(
            Growth(1, labels, {"epochs": 0}), served, rows, folder=Path(work),
            plan=Plan.restored(served.manifest.plan), report=lambda _: None)
        trunk = grower.grown()
        evaluation = grower.evaluator.evaluate(trunk)
        manifest = generation.base_manifest(
            config.node, config.input, parent=served.manifest.digest, cursor=labels, growth=1,
            alpha=evaluation.answers.alpha, temperature=evaluation.answers.temperature,
            plan=served.manifest.plan, recipe=served.manifest.recipe)
        candidate = Path(work) / "candidate"
        generation.write(candidate, manifest=manifest, trunk=trunk, readout=evaluation.readout)
        return generation.adopt(candidate, folder, keys.signing)


def serve(config: Config, number: int) -> None:
    """Have a node that is stopped serve generation `number` from its next start on."""
    config.state.live_readout(0).unlink(missing_ok=True)  # of what served until now
    store = Store(config.state.log)
    with store.transaction():
        store.set_meta(meta.SERVING, number)
    store.close()
