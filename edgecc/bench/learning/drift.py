"""How soon drift is seen, how often wrongly, and what it is worth to act on it.

Fashion-MNIST, one pass, on the real stem, readout and detector. `detector` restarts the readout
from the labels that ADWIN keeps; `always` restarts it at every check; `never` goes on learning.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgecc.bench import figures
from edgecc.bench.data import Data, load
from edgecc.config.schema import Config
from edgecc.ingest.drift import Adwin
from edgecc.learn.readout import Floats, Readout, scores, to_integers
from edgecc.plan.planner import plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.trunk.interpreter import Interpreter

SEEDS = (0, 1, 2)
CHANGE = 2000  # label at which the world changes
LENGTH = 4000  # labels of a stream that changes
CALM = 10_000  # labels of a stream that does not
CHECK = 250  # labels after which `always` fires
_SOLVE_EVERY = 25  # labels between two solves of the readout, as in a busy daemon
_ALPHA = 3e-3
_GRADUAL = 1000  # labels over which the gradual change is drawn out
_CLASSES = 10


@dataclass(frozen=True)
class Stream:
    features: Floats  # (n, dim)
    labels: NDArray[np.int64]  # (n,)


@dataclass(frozen=True)
class Run:
    hits: NDArray[np.bool_]
    fired: list[int]  # labels


class Pictures:
    """Features of pictures as they are and with their light and dark exchanged."""

    def __init__(self, data: Data, count: int) -> None:
        spec = Input("image", data.shape)
        budget = Config().memory_budget
        trunk = stem_trunk(plan(budget, spec, max_payload=2**20, blocks=2), spec, 0)
        run = Interpreter(trunk.compile()).run
        names = sorted(set(data.labels))
        chosen = np.random.default_rng(0).permutation(len(data.images))[:count]
        images = data.images[chosen]
        self.labels = np.array([names.index(data.labels[n]) for n in chosen])
        self.plain, self.inverted = (
            np.array([to_integers(run(trunk.scale(x))) for x in seen]) for seen in (
                images, 255 - images))

    def stream(self, kind: str, seed: int) -> Stream:
        """`length` pictures in random order, whose world changes as `kind` says."""
        draw = np.random.default_rng((seed, len(kind)))
        order = draw.permutation(len(self.labels))[: CALM if kind == "none" else LENGTH]
        t, labels = np.arange(len(order)), self.labels[order]
        new = np.zeros(len(order), bool) if kind == "none" else t >= CHANGE
        if kind == "gradual":
            new = draw.random(len(order)) < (t - CHANGE) / _GRADUAL
        if kind == "recurring":
            new &= t < (CHANGE + LENGTH) // 2
        if kind == "labels":
            return Stream(self.plain[order], np.where(new, (labels + 1) % _CLASSES, labels))
        features = np.where(new[:, None], self.inverted[order], self.plain[order])
        return Stream(features, labels)


Fire = Callable[[int, bool], int | None]  # label, hit: how many of the newest to keep


def never(_label: int, _hit: bool) -> int | None:
    return None


def always(label: int, _hit: bool) -> int | None:
    return 0 if (label + 1) % CHECK == 0 else None


def detector() -> Fire:
    adwin = Adwin(delta=Config().drift.delta)

    def fire(_label: int, hit: bool) -> int | None:
        change = adwin.add(not hit)
        return None if change is None else change.kept

    return fire


def follow(stream: Stream, fire: Fire) -> Run:
    """Predict, score, learn, label by label."""
    readout = Readout(stream.features.shape[1])
    weights, fired, hits = readout.weights(_ALPHA), list[int](), []
    for n, (features, label) in enumerate(zip(stream.features, stream.labels, strict=True)):
        hit = bool(len(weights)) and readout.classes[
            int(scores(weights, features).argmax())] == str(label)
        hits.append(hit)
        readout.learn(features, str(label))
        kept = fire(n, hit)
        if kept is not None:
            fired.append(n)
            readout = Readout(stream.features.shape[1])
            for back in range(n + 1 - kept, n + 1):
                readout.learn(stream.features[back], str(stream.labels[back]))
        if kept is not None or n % _SOLVE_EVERY == 0:
            weights = readout.weights(_ALPHA)
    return Run(np.array(hits), fired)


def run(*, quick: bool, json_path: Path | None) -> None:
    """Print the table; `quick` takes one seed."""
    data, seeds = load(), SEEDS[:1] if quick else SEEDS
    pictures = Pictures(data, CALM)
    table: dict[str, Any] = {"data": data.name, "seeds": len(seeds), "change": CHANGE}
    click.echo(f"{'stream':10} {'fires':9} {'delay':>12} {'false per 10,000':>17} "
               f"{'accuracy after':>15}")
    for kind in ("none", "labels", "inverted", "gradual", "recurring"):
        streams = [pictures.stream(kind, seed) for seed in seeds]
        for name, make in (("never", lambda: never), ("always", lambda: always),
                           ("detector", detector)):
            row = _measured([follow(stream, make()) for stream in streams], calm=kind == "none")
            table[f"{kind}.{name}"] = row
            click.echo(f"{kind:10} {name:9} {_delays(row['delays']):>12} "
                       f"{_shown(row['false_per_10000'], '.1f'):>17} "
                       f"{_shown(row['accuracy_after'], '.3f'):>15}")
    if json_path is not None:
        figures.write(json_path, "drift", table)


def _measured(runs: list[Run], *, calm: bool) -> dict[str, Any]:
    """Delays (None: not seen), false alarms, accuracy from the change (calm: all) to the end."""
    change = len(runs[0].hits) if calm else CHANGE
    after = 0 if calm else CHANGE
    alarms = sum(sum(label < change for label in one.fired) for one in runs)
    return {
        "delays": [] if calm else [
            next((label + 1 - change for label in one.fired if label >= change), None)
            for one in runs],
        "false_per_10000": alarms / (change * len(runs)) * 10_000,
        "accuracy_after": float(np.mean([one.hits[after:].mean() for one in runs])),
    }


def _delays(delays: Iterable[int | None]) -> str:
    return "/".join("-" if delay is None else str(delay) for delay in delays)


def _shown(value: float, form: str) -> str:
    return format(value, form)
