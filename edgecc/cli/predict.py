"""`edgecc predict`: from a checkpoint's folder or this node's own state, without a broker."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgecc.cli.common import json_option, with_config
from edgecc.config.schema import Config
from edgecc.errors import ConfigError, MessageError
from edgecc.protocol.sample import Input
from edgecc.serving.load import live, load


@click.command()
@click.argument("files", nargs=-1, required=True,
                type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path),
              help="A pulled checkpoint's folder; else this node's own state.")
@click.option("--key", help="Public key (hex) that must have signed it.")
@json_option
@with_config
def predict(
    config: Config, files: tuple[Path, ...], checkpoint: Path | None, key: str | None,
    as_json: bool,
) -> None:
    """Classify files here, without a broker.

    FILES are JPEG, PNG, JSON or npy; an npy may hold one sample or many. One line for each sample.
    """
    classifier = live(config) if checkpoint is None else load(checkpoint, key)
    for path in files:
        try:
            for name, x in _samples_in(path, classifier.input):
                answer = classifier.answer(x)
                if as_json:
                    click.echo(json.dumps({"file": name, "label": answer.label,
                                           "score": answer.score, "top": answer.top}))
                else:
                    click.echo(f"{name}  {answer.label}  {answer.score:.3f}")
        except MessageError as error:
            raise ConfigError(f"{path}: {error}") from error


def _samples_in(path: Path, spec: Input) -> Iterator[tuple[str, Any]]:
    """The file's one sample, or each of an npy batch (n, ...)."""
    if path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
        if array.ndim == len(spec.shape) + 1:
            yield from ((f"{path}[{number}]", one) for number, one in enumerate(array))
            return
    yield str(path), path.read_bytes()
