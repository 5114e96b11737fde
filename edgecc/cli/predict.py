"""Predictions without a broker: a checkpoint's folder, or this node's own state."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgecc.checkpoint import generation
from edgecc.checkpoint.keyring import Keys
from edgecc.checkpoint.pinned_keys import keys_for_folder
from edgecc.config.schema import Config
from edgecc.errors import CheckpointError, ConfigError, MessageError
from edgecc.protocol import sample
from edgecc.protocol.sample import Input
from edgecc.serving.catch_up import learn_event, revive
from edgecc.serving.predictor import Predictor
from edgecc.store import meta
from edgecc.store.reader import Reader


def predict(
    config: Config, files: tuple[Path, ...], checkpoint: Path | None, key: str | None,
    as_json: bool,
) -> None:
    """One line (or JSON object) per picture, window or row of an npy batch."""
    predictor = live(config) if checkpoint is None else pulled(checkpoint, key)
    given = predictor.generation.manifest.node_input
    spec = Input(given["kind"], tuple(given["shape"]))
    for name, x in _arrays(files, spec):
        found = predictor.predict(predictor.features(x), time.perf_counter())
        if as_json:
            click.echo(json.dumps({"file": name, "label": found.label, "score": found.score,
                                   "top": found.top}))
        else:
            click.echo(f"{name}  {found.label}  {found.score:.3f}")


def pulled(folder: Path, key: str | None = None) -> Predictor:
    """What a checkpoint's folder predicts."""
    predictor = Predictor(generation.load(folder, keys_for_folder(folder, key)))
    predictor.refresh()
    return predictor


def live(config: Config) -> Predictor:
    """What this node predicts now: its serving generation, and the log after its cursor."""
    path = config.state.log
    if not path.exists():
        raise CheckpointError(f"no state in {config.state}; give --checkpoint FOLDER")
    store = Reader(path)
    generations = config.state.generations
    number = store.meta(meta.SERVING)
    if number is None:
        number = max(generation.numbers(generations), default=0)
    if not config.state.key.exists():
        raise CheckpointError(f"no key in {config.state}; give --checkpoint FOLDER")
    trusted = Keys(config.state).trusted
    predictor = Predictor(
        generation.load(generations / generation.name_of(number), trusted, config.input_spec)
    )
    revive(config.state, predictor, store)
    while events := store.labels_after(predictor.cursor, 256):
        for event in events:
            learn_event(predictor, event, None, store, config.input_spec)
    predictor.refresh()
    return predictor


def _arrays(files: tuple[Path, ...], spec: Input) -> Iterator[tuple[str, Any]]:
    for path in files:
        try:
            yield from _samples_in(path, spec)
        except MessageError as error:
            raise ConfigError(f"{path}: {error}") from error


def _samples_in(path: Path, spec: Input) -> Iterator[tuple[str, Any]]:
    """One sample, or each of an npy batch (n, ...)."""
    data = path.read_bytes()
    if path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
        if array.ndim == len(spec.shape) + 1:
            yield from ((f"{path}[{i}]", sample.fit(one, spec)) for i, one in enumerate(array))
            return
    yield str(path), sample.decode(data, None, spec)
