"""`edgecc bench continual`: classes two at a time, one pass, no task ids; ours beside its controls
and rivals, every figure with the bytes it used.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgecc.bench import figures, metrics
from edgecc.bench.learning.one_pass import (
    control,
    final,
    joint,
    lda_alone,
    one_megabyte,
    replay,
    stem_alone,
    stream,
)
from edgecc.bench.learning.result_cache import Cell, Cells, Found
from edgecc.plan import planner
from edgecc.protocol.sample import Input

MIB = 2**20
BUDGET = 1536 * MIB
METHODS = (
    "contextual", "contextual-hardest", "contextual-random", "contextual-bias",
    "contextual-scale", "spela", "supervised", "backpropagation",
)
ROOMS = {"4 MB": 4_000_000, "0.4 MB": 400_000}  # of stored samples
REPLAY = (200, 500, 1000, 5000, 0)  # samples; none is the naive net
ONE_MEGABYTE = {"filters": 48, "grid": 12, "waves": 25, "widest": 38}  # docs/experiments.md
DRAWS = 10  # replay draws per received sample, in all growths together


@dataclass(frozen=True)
class Scale:
    """How large the bench is; `quick` is a smoke test and its figures mean nothing."""

    name: str = "fashion"
    pairs: int = 3  # of seed and class order
    limit: int | None = None  # samples of the stream
    compared: int = 20_000  # of the stream on which methods and rivals stand beside each other
    first: int = 3750  # labels at the first growth: doubling ends at the 60,000th
    epochs: float = 5.0  # of each growth: all of them together stay under DRAWS
    replay: tuple[int, ...] = REPLAY
    methods: tuple[str, ...] = METHODS


QUICK = Scale(
    pairs=1, limit=1200, compared=600, first=600, epochs=1.0, replay=(200, 0),
    methods=("contextual", "backpropagation"))


def run(
    *, quick: bool, rivals: bool, folder: Path, json_path: Path | None, out: Path
) -> None:
    """Measure what is missing, then print the table and write figures and plots."""
    cells, scale = Cells(folder), QUICK if quick else Scale()
    wanted = ours(scale) | (compared(scale) if rivals else {})
    found = _summary(cells.get(wanted))
    found["revision"] = cells.revision
    for line in table(found):
        click.echo(line)
    figures.write(out / "continual.json", "continual", found)
    if json_path:
        figures.write(json_path, "continual", found)
    from edgecc.bench import plot

    plot.continual(out / "continual.png", found)


def ours(scale: Scale) -> dict[str, list[Cell]]:
    """The whole stream: cells of edgecc, its control and its oracles; what matters most first."""
    setting = {"name": scale.name, "limit": scale.limit, "epochs": scale.epochs,
               "plan": planned()}
    pairs = [setting | {"seed": seed} for seed in range(scale.pairs)]
    alone = [{"name": scale.name, "limit": scale.limit, "seed": one["seed"]} for one in pairs]
    return {
        "streams": [Cell(stream, pair | {"first": scale.first}) for pair in pairs],
        "controls": [Cell(control, pair) for pair in pairs],
        "one_megabyte": [Cell(one_megabyte, pair | ONE_MEGABYTE) for pair in alone],
        "alone": [Cell(stem_alone, pair) for pair in alone],
        **{label: [Cell(final, pair | {"room": room}) for pair in pairs]
           for label, room in ROOMS.items()},
        "flipped": [Cell(final, pair | {"flips": 0.2}) for pair in pairs],
        "oracles": [Cell(joint, pairs[0] | {"experiences": i}) for i in range(1, 6)],
    }


def planned() -> dict[str, Any]:
    """What `BUDGET` buys."""
    spec = Input("image", (1, 28, 28))
    return planner.plan(BUDGET, spec, max_payload=MIB, blocks=3).describe()


def compared(scale: Scale) -> dict[str, list[Cell]]:
    """A part of the stream: cells of every method and of the rivals."""
    small = {"name": scale.name, "limit": scale.compared, "epochs": scale.epochs,
             "plan": planned(), "seed": 0}
    return {
        "methods": [Cell(final, small | {"method": method}) for method in scale.methods],
        "shuffled": [Cell(final, small | {"shuffled": True})],
        "untrained": [Cell(control, small)],
        "lda": [Cell(lda_alone, small)],
        "replay": [Cell(replay, small | {"room": room, "draws": DRAWS if room else 1})
                   for room in scale.replay],
    }


def _summary(found: dict[str, list[Found]]) -> dict[str, Any]:
    ours, controls = found["streams"], found["controls"]
    return _of_streams(ours, found["oracles"]) | {
        "control_accuracy": _mean(max(one["accuracies"]) for one in controls),
        "control_gain": _mean(
            one["accuracy"] - max(other["accuracies"])
            for one, other in zip(ours, controls, strict=True)),
        "final_acc_1mb": _accuracy(found["one_megabyte"]),
        "flip20_loss": _accuracy(ours) - _accuracy(found["flipped"]),
        "rooms": {"everything": _accuracy(ours),
                  **{label: _accuracy(found[label]) for label in ROOMS},
                  "none": _accuracy(found["alone"])},
        "cells": found,
    }


def _of_streams(streams: Sequence[Found], oracles: Sequence[Found]) -> dict[str, Any]:
    """What is said of ours alone, and against the oracles on the first pair."""
    first = streams[0]
    joint_matrix = [one["groups"] + [0.0] * (5 - len(one["groups"])) for one in oracles]
    seen = [float(np.mean(row[: i + 1])) for i, row in enumerate(first["matrix"])]
    return {
        "final_acc": _accuracy(streams),
        "average_incremental": _mean(one["average_incremental"] for one in streams),
        "forgetting": _mean(one["forgetting"] for one in streams),
        "bwt": _mean(one["bwt"] for one in streams),
        "excess_forgetting": first["forgetting"] - metrics.forgetting(joint_matrix),
        "joint_gap": oracles[-1]["accuracy"] - first["accuracy"],
        "omega_all": metrics.omega(seen, [one["accuracy"] for one in oracles]),
    }


def _accuracy(cells: Iterable[Found]) -> float:
    return _mean(one["accuracy"] for one in cells)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


# --- the table ---


def table(found: dict[str, Any]) -> Iterator[str]:
    """Lines: accuracy after the last experience, with the bytes used."""
    cells = found["cells"]
    yield f"{'mean of pairs, the whole stream':48}  accuracy   weights   readout   samples  (MB)"
    yield _line("edgecc, everything kept", cells["streams"])
    for label in ROOMS:
        yield _line(f"edgecc, {label} of samples", cells[label])
    yield _line("edgecc, no samples: the stem alone", cells["alone"])
    yield _line("edgecc, 1 MB in all", cells["one_megabyte"])
    yield _line("edgecc, one label in five flipped", cells["flipped"])
    yield _line("control: blocks never trained, best of 3", cells["controls"])
    if "methods" in cells:
        yield from _compared(cells)
    for name in ("average_incremental", "forgetting", "excess_forgetting", "bwt", "joint_gap",
                 "omega_all", "control_gain", "flip20_loss"):
        yield f"{name:48}  {found[name]:8.4f}"


def _compared(cells: dict[str, list[Found]]) -> Iterator[str]:
    count = cells["methods"][0]["arrived"]
    yield f"first pair, {count} samples of the stream"
    for one in cells["methods"]:
        yield _line(f"  {one['method']}", [one])
    yield _line("  control: blocks never trained, best of 3", cells["untrained"])
    yield _line("  labels shuffled", cells["shuffled"])
    yield _line("  streaming LDA on the stem", cells["lda"])
    for one in cells["replay"]:
        yield _line(
            f"  backpropagation, {one['kept']} samples replayed" if one["kept"] else
            "  naive backpropagation", [one])


def _line(name: str, cells: Sequence[Found]) -> str:
    accuracy = _mean(max(one.get("accuracies", [one.get("accuracy")])) for one in cells)
    state = cells[0]["state"]
    sizes = "".join(f"{state[part] / 1e6:10.2f}" for part in ("weights", "readout", "samples"))
    return f"{name:48}  {accuracy:8.4f}{sizes}"
