"""Few labels: accuracy after 1, 5 and 20 a class, then in a style of pictures never seen.

The stem as the daemon compiles it, the readout as the daemon learns it. A third of the emoji is
never taught in any style. Then as many labels of the second style are learnt on top, and both
styles are asked again: what was gained in the new one, and what was lost in the first.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgecc.bench import emoji, figures
from edgecc.bench.emoji import STYLES, Emoji
from edgecc.checkpoint.generation import base_manifest
from edgecc.config.loading import load
from edgecc.learn.readout import Features, Readout, scores, to_integers
from edgecc.plan.budget import planned
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.serving.predictor import ridge_strength
from edgecc.trunk.interpreter import Interpreter

SIDE = 96  # pixels
SHOTS = (1, 5, 20)  # labels a class
STEMS = ("patches", "efficientnet-lite0", "efficientnet-lite0:16")
_DRAWS = 10  # of the labels that are taught
_HELD_OUT = 1 / 3
_SEED = 20261124
_COLUMNS = ("first", "second_before", "second", "first_after")


@dataclass(frozen=True)
class Stemmed:
    """All pictures through one stem."""

    features: dict[str, Features]  # by style (n, dim), integers
    milliseconds: float  # of CPU a picture, median
    model_bytes: int


def run(*, quick: bool, stems: Sequence[str], json_path: Path | None) -> None:
    """Fetch, measure, print the table; write the figures."""
    data = emoji.load(SIDE)
    taught, asked = split(data)
    summary: dict[str, Any] = {"pictures": len(data.labels) * len(STYLES), "asked": len(asked)}
    summary["majority"] = float(max(np.mean(data.labels[asked] == c) for c in set(data.labels)))
    click.echo(f"{len(set(data.labels))} classes, {len(taught)} emoji to teach with and "
               f"{len(asked)} to ask, in the styles {' and '.join(STYLES)}; "
               f"majority {summary['majority']:.3f}\n")
    click.echo(f"{'stem':24} labels  {STYLES[0]:>8} {STYLES[1]:>8} | then {STYLES[1]:>8} "
               f"{STYLES[0]:>8}")
    summary["stems"] = {}
    for name in stems or STEMS:
        stemmed = through(name, data)
        rows = measure(stemmed, data.labels, taught, asked, draws=2 if quick else _DRAWS)
        summary["stems"][name] = {
            "shots": rows, "milliseconds": stemmed.milliseconds,
            "model_bytes": stemmed.model_bytes, "features": stemmed.features[STYLES[0]].shape[1],
        }
        _print(name, rows, stemmed)
    if json_path is not None:
        figures.write(json_path, "few-shot", summary)


def split(data: Emoji) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to teach with and to ask, a third of every class."""
    generator, asked = np.random.default_rng(_SEED), []
    for label in sorted(set(data.labels)):
        members = generator.permutation(np.flatnonzero(data.labels == label))
        asked.append(members[: int(len(members) * _HELD_OUT)])
    held = np.sort(np.concatenate(asked))
    return np.setdiff1d(np.arange(len(data.labels)), held), held


def through(stem: str, data: Emoji) -> Stemmed:
    """Features as the daemon would compute them with this stem."""
    config = load(None, overrides={"stem": stem, "input.shape": (3, SIDE, SIDE)})
    plan, opened = planned(config)
    trunk = stem_trunk(plan, config.input, config.seed, opened)
    model = trunk.compile()
    interpreter, spent = Interpreter(model), []
    features = {}
    for style, pictures in data.pictures.items():
        rows = []
        for picture in pictures:
            started = time.process_time()
            rows.append(to_integers(interpreter.run(trunk.scale(picture))))
            spent.append(time.process_time() - started)
        features[style] = np.array(rows)
    return Stemmed(features, 1000 * float(np.median(spent)), len(model))


def measure(
    stemmed: Stemmed, labels: NDArray[np.str_], taught: NDArray[np.int64],
    asked: NDArray[np.int64], *, draws: int,
) -> dict[str, dict[str, float]]:
    """By labels a class: accuracies on the asked emoji, mean over the draws."""
    rows = {}
    for shots in (*SHOTS, None):
        generator = np.random.default_rng((_SEED, shots or 0))
        several = [
            _once(stemmed, labels, asked, [_draw(labels, taught, shots, generator) for _ in STYLES])
            for _ in range(draws if shots else 1)
        ]
        means, spread = np.mean(several, axis=0), np.std(several, axis=0)
        rows[str(shots or "all")] = dict(zip(_COLUMNS, means.tolist(), strict=True)) | {
            "first_spread": float(spread[0]), "second_spread": float(spread[2])}
    return rows


def _draw(
    labels: NDArray[np.str_], taught: NDArray[np.int64], shots: int | None,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """`shots` positions of every class; all of them for None."""
    mixed = generator.permutation(taught)
    return np.concatenate([mixed[labels[mixed] == one][:shots] for one in sorted(set(labels))])


def _once(
    stemmed: Stemmed, labels: NDArray[np.str_], asked: NDArray[np.int64],
    drawn: Sequence[NDArray[np.int64]],
) -> list[float]:
    """_COLUMNS: the first style taught, then the second as well."""
    first, second = (stemmed.features[style] for style in STYLES)
    readout = Readout(first.shape[1])
    manifest = base_manifest("few-shot", Input("image", (3, SIDE, SIDE)))

    def accuracies() -> list[float]:
        weights = readout.weights(ridge_strength(manifest, readout))
        classes = np.array(readout.classes)
        return [float(np.mean(classes[scores(weights, f[asked]).argmax(1)] == labels[asked]))
                for f in (first, second)]

    for position in drawn[0]:
        readout.learn(first[position], str(labels[position]))
    before = accuracies()
    for position in drawn[1]:
        readout.learn(second[position], str(labels[position]))
    after = accuracies()
    return [before[0], before[1], after[1], after[0]]


def _print(name: str, rows: dict[str, dict[str, float]], stemmed: Stemmed) -> None:
    for shots, row in rows.items():
        first, before, second, after = (row[column] for column in _COLUMNS)
        click.echo(f"{name:24} {shots:>6}  {first:8.3f} {before:8.3f} |      {second:8.3f} "
                   f"{after:8.3f}")
    dim = stemmed.features[STYLES[0]].shape[1]
    click.echo(f"{'':24} {dim} features, {stemmed.milliseconds:.2f} ms a picture, "
               f"{stemmed.model_bytes / 1e6:.2f} MB")
