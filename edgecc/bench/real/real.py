"""`edgecc bench real`: learning curves on real data, the node beside ordinary learners."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edgecc.bench import figures
from edgecc.bench.learning.result_cache import Call, Results
from edgecc.bench.real import draws, node, scores
from edgecc.bench.real.baselines import BASELINES, measure
from edgecc.bench.real.datasets import SETS, RealSet, load
from edgecc.bench.real.scores import NODE, Curves
from edgecc.errors import ConfigError

MIB = 2**20
_BASELINES = (  # the sources that a baseline's results depend on
    "bench/real/baselines.py", "bench/real/datasets.py", "bench/real/draws.py",
    "bench/real/features.py", "trunk/efficientnet.py",
)
_NODE = (  # and the node's
    "bench/delivery/node.py", "bench/real/datasets.py", "bench/real/draws.py",
    "bench/real/node.py", "cli/config.py", *(
        f"{room}/**/*.py" for room in (
            "checkpoint", "config", "daemon", "ingest", "learn", "plan", "protocol", "serving",
            "store", "training", "trunk")),
)


def run(
    *, sets: str, labels: str, validate: bool, stems: Sequence[str], processes: int | None,
    folder: Path, json_path: Path | None,
) -> None:
    """Measure what is missing, print the tables; write the figures."""
    names, counts = _names(sets), draws.chosen(labels)
    data = {name: load(name) for name in names}
    curves = _curves(
        data, counts, validate, [None, *stems], folder / "real", processes or os.cpu_count() or 1)
    for name, of_set in curves.items():
        _print_set(data[name], of_set, validate)
    totals = scores.summary(curves)
    _print_summary(totals)
    if json_path is not None:
        described = {name: _described(data[name]) | {"curves": of_set}
                     for name, of_set in curves.items()}
        figures.write(json_path, "real", totals | {"validate": validate, "sets": described})


def _names(sets: str) -> list[str]:
    names = sets.split(",") if sets else list(SETS)
    unknown = [name for name in names if name not in SETS]
    if unknown:
        raise ConfigError(f"no data set {', '.join(unknown)}; there are {', '.join(SETS)}")
    return names


def _curves(
    data: Mapping[str, RealSet], labels: list[str], validate: bool,
    stems: Sequence[str | None], folder: Path, processes: int,
) -> dict[str, Curves]:
    """By set and contender; the baselines first, each call in a fresh process for its memory."""
    shared: dict[str, Any] = {"labels": labels, "validate": validate}
    plain = Results(folder, processes=processes, sources=_BASELINES, fresh=True).get({
        name: [Call(measure, {"name": name, "baseline": baseline} | shared)
               for baseline in _baselines(of)] for name, of in data.items()})
    nodes = Results(folder, processes=processes, sources=_NODE).get({
        f"{name} {stem}": [
            Call(node.streamed, {"name": name, "draw": draw, "stem": stem} | shared)
            for draw in range(max(draws.DRAWS[count] for count in labels))]
        for name in data for stem in stems})
    return {name: {
        **dict(zip(_baselines(of), [one["points"] for one in plain[name]], strict=True)),
        **{NODE if stem is None else f"{NODE} {stem}":
           scores.joined([one["points"] for one in nodes[f"{name} {stem}"]]) for stem in stems},
    } for name, of in data.items()}


def _baselines(data: RealSet) -> list[str]:
    return [name for name, baseline in BASELINES.items() if data.kind in baseline.kinds]


def _described(data: RealSet) -> dict[str, Any]:
    return {"kind": data.kind, "shape": list(data.shape), "classes": len(data.classes),
            "train": len(data.y), "test": len(data.test_y), "licence": data.licence,
            "source": data.source}


def _print_set(data: RealSet, curves: Curves, validate: bool) -> None:
    counts = list(curves[NODE])
    asked = "held-out training rows" if validate else f"{len(data.test_y)} test rows"
    click.echo(f"\n{data.name}: {data.kind} {list(data.shape)}, {len(data.classes)} classes, "
               f"{len(data.y)} training rows; balanced accuracy on {asked}\n"
               f"{data.source}; {data.licence}")
    head = " ".join(f"{count:>6}" for count in counts)
    click.echo(f"{'labels a class':24} {head}   CPU s  ms each    MiB   state kB")
    for name, points in curves.items():
        click.echo(f"{name:24} {_accuracies(points, counts)} {_costs(points[counts[-1]])}")
    gaps = scores.gaps({data.name: curves})
    click.echo(f"{'points to the best':24} " + " ".join(
        f"{gaps[data.name, count]:+6.1f}" for count in counts))


def _accuracies(points: scores.Points, counts: Sequence[str]) -> str:
    return " ".join(f"{scores.mean(points[count]):6.3f}" for count in counts)


def _costs(point: Mapping[str, Any]) -> str:
    """At the most labels: to learn, to predict one row, peak memory, state."""
    return (f"{point['cpu_s']:7.2f} {point['predict_ms']:8.3f} {point['peak_bytes'] / MIB:6.0f} "
            f"{point['state_bytes'] / 1000:10.0f}")


def _print_summary(totals: Mapping[str, Any]) -> None:
    click.echo(f"\nworst_gap {totals['worst_gap']:+.1f} points, {' '.join(totals['worst_gap_at'])}"
               f"\nmean_gap {totals['mean_gap']:+.1f} points"
               f"\nmonotone_violations {totals['monotone_violations']}"
               + "".join(f", {name} {count}" for name, count in totals["monotone_violations_at"]))
    for at, error in totals["heldout_error"].items():
        click.echo(f"heldout_error {error:.3f}, {at}")
    if "auto_gap" in totals:
        click.echo(f"auto_gap {totals['auto_gap']:+.1f} points")
