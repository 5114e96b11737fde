"""`edgecc predict`: a checkpoint's folder, or this node's own state, without a broker."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgecc import generation, sample, signing
from edgecc.config import Config
from edgecc.errors import CheckpointError, ConfigError, MessageError
from edgecc.generation import Generation
from edgecc.predictor import Predictor
from edgecc.sample import Input
from edgecc.trust import key_for_folder


def predict(
    config: Config, files: tuple[Path, ...], checkpoint: Path | None, key: str | None,
    as_json: bool,
) -> None:
    """One line (or JSON object) per picture, window or row of an npy batch."""
    predictor = Predictor(_checkpoint(config, checkpoint, key))
    predictor.refresh()
    given = predictor.generation.manifest.node_input
    spec = Input(given["kind"], tuple(given["shape"]))
    for name, x in _arrays(files, spec):
        found = predictor.predict(predictor.features(x), time.perf_counter())
        if as_json:
            click.echo(json.dumps({"file": name, "label": found.label, "score": found.score,
                                   "top": found.top}))
        else:
            click.echo(f"{name}  {found.label}  {found.score:.3f}")


def _checkpoint(config: Config, folder: Path | None, key: str | None) -> Generation:
    if folder is not None:
        return generation.load(folder, [key_for_folder(folder, key)])
    generations = config.state / "generations"
    numbers = generation.numbers(generations) if generations.exists() else []
    if not numbers:
        raise CheckpointError(f"no generation in {generations}; give --checkpoint FOLDER")
    own = signing.load_or_make_key(config.state / "node.key").verify_key
    return generation.load(generations / generation.name_of(numbers[-1]), [own])


def _arrays(files: tuple[Path, ...], spec: Input) -> Iterator[tuple[str, Any]]:
    for path in files:
        try:
            for name, x in _samples_in(path, spec):
                yield name, x
        except MessageError as error:
            raise ConfigError(f"{path}: {error}") from error


def _samples_in(path: Path, spec: Input) -> Iterator[tuple[str, Any]]:
    """One sample, or each of an npy batch (n, ...)."""
    data = path.read_bytes()
    if path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
        if array.ndim == len(spec.shape) + 1:
            for number, one in enumerate(array):
                yield f"{path}[{number}]", sample.fit(one, spec)
            return
    yield str(path), sample.decode(data, None, spec)
