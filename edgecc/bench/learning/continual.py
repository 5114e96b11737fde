"""`edgecc bench continual`: classes two at a time, one pass, no task ids; ours beside its controls
and baselines, every figure with the bytes it used.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgecc.bench import figures, metrics
from edgecc.bench.figures import Figures
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
from edgecc.bench.learning.result_cache import Call, Results
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
    compared: int = 20_000  # of the stream on which methods and baselines stand beside each other
    first: int = 3750  # labels at the first growth: doubling ends at the 60,000th
    epochs: float = 5.0  # of each growth: all of them together stay under DRAWS
    replay: tuple[int, ...] = REPLAY
    methods: tuple[str, ...] = METHODS


QUICK = Scale(
    pairs=1, limit=1200, compared=600, first=600, epochs=1.0, replay=(200, 0),
    methods=("contextual", "backpropagation"))


def run(
    *, quick: bool, baselines: bool, folder: Path, json_path: Path | None, out: Path
) -> None:
    """Measure what is missing, then print the table and write figures and plots."""
    results, scale = Results(folder), QUICK if quick else Scale()
    wanted = ours(scale) | (compared(scale) if baselines else {})
    summary = _summary(results.get(wanted))
    summary["revision"] = results.revision
    for line in table(summary):
        click.echo(line)
    figures.save("continual", summary, out=out, json_path=json_path)
    from edgecc.bench import plot

    plot.continual(out / "continual.png", summary)


def ours(scale: Scale) -> dict[str, list[Call]]:
    """The whole stream: calls of edgecc, its control and its oracles; what matters most first."""
    setting = {"name": scale.name, "limit": scale.limit, "epochs": scale.epochs,
               "plan": planned()}
    pairs = [setting | {"seed": seed} for seed in range(scale.pairs)]
    alone = [{"name": scale.name, "limit": scale.limit, "seed": one["seed"]} for one in pairs]
    return {
        "streams": [Call(stream, pair | {"first": scale.first}) for pair in pairs],
        "controls": [Call(control, pair) for pair in pairs],
        "one_megabyte": [Call(one_megabyte, pair | ONE_MEGABYTE) for pair in alone],
        "alone": [Call(stem_alone, pair) for pair in alone],
        **{label: [Call(final, pair | {"room": room}) for pair in pairs]
           for label, room in ROOMS.items()},
        "flipped": [Call(final, pair | {"flips": 0.2}) for pair in pairs],
        "oracles": [Call(joint, pairs[0] | {"experiences": i}) for i in range(1, 6)],
    }


def planned() -> dict[str, Any]:
    """What `BUDGET` buys."""
    spec = Input("image", (1, 28, 28))
    return planner.plan(BUDGET, spec, max_payload=MIB, blocks=3).describe()


def compared(scale: Scale) -> dict[str, list[Call]]:
    """A part of the stream: calls of every method and the baselines."""
    small = {"name": scale.name, "limit": scale.compared, "epochs": scale.epochs,
             "plan": planned(), "seed": 0}
    return {
        "methods": [Call(final, small | {"method": method}) for method in scale.methods],
        "shuffled": [Call(final, small | {"shuffled": True})],
        "untrained": [Call(control, small)],
        "lda": [Call(lda_alone, small)],
        "replay": [Call(replay, small | {"room": room, "draws": DRAWS if room else 1})
                   for room in scale.replay],
    }


def _summary(results: dict[str, list[Figures]]) -> dict[str, Any]:
    ours, controls = results["streams"], results["controls"]
    return _of_streams(ours, results["oracles"]) | {
        "control_accuracy": _mean(max(one["accuracies"]) for one in controls),
        "control_gain": _mean(
            one["accuracy"] - max(other["accuracies"])
            for one, other in zip(ours, controls, strict=True)),
        "final_acc_1mb": _accuracy(results["one_megabyte"]),
        "flip20_loss": _accuracy(ours) - _accuracy(results["flipped"]),
        "rooms": {"everything": _accuracy(ours),
                  **{label: _accuracy(results[label]) for label in ROOMS},
                  "none": _accuracy(results["alone"])},
        "results": results,
    }


def _of_streams(streams: Sequence[Figures], oracles: Sequence[Figures]) -> dict[str, Any]:
    """Of ours alone, and against the oracles on the first pair."""
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


def _accuracy(results: Iterable[Figures]) -> float:
    return _mean(one["accuracy"] for one in results)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


# --- the table ---


def table(summary: dict[str, Any]) -> Iterator[str]:
    """Lines: accuracy after the last experience, with the bytes used."""
    results = summary["results"]
    yield f"{'mean of pairs, the whole stream':48}  accuracy   weights   readout   samples  (MB)"
    yield _line("edgecc, everything kept", results["streams"])
    for label in ROOMS:
        yield _line(f"edgecc, {label} of samples", results[label])
    yield _line("edgecc, no samples: the stem alone", results["alone"])
    yield _line("edgecc, 1 MB in all", results["one_megabyte"])
    yield _line("edgecc, one label in five flipped", results["flipped"])
    yield _line("control: blocks never trained, best of 3", results["controls"])
    if "methods" in results:
        yield from _compared(results)
    for name in ("average_incremental", "forgetting", "excess_forgetting", "bwt", "joint_gap",
                 "omega_all", "control_gain", "flip20_loss"):
        yield f"{name:48}  {summary[name]:8.4f}"


def _compared(results: dict[str, list[Figures]]) -> Iterator[str]:
    count = results["methods"][0]["arrived"]
    yield f"first pair, {count} samples of the stream"
    for one in results["methods"]:
        yield _line(f"  {one['method']}", [one])
    yield _line("  control: blocks never trained, best of 3", results["untrained"])
    yield _line("  labels shuffled", results["shuffled"])
    yield _line("  streaming LDA on the stem", results["lda"])
    for one in results["replay"]:
        yield _line(
            f"  backpropagation, {one['kept']} samples replayed" if one["kept"] else
            "  naive backpropagation", [one])


def _line(name: str, results: Sequence[Figures]) -> str:
    accuracy = _mean(max(one.get("accuracies", [one.get("accuracy")])) for one in results)
    state = results[0]["state"]
    sizes = "".join(f"{state[part] / 1e6:10.2f}" for part in ("weights", "readout", "samples"))
    return f"{name:48}  {accuracy:8.4f}{sizes}"
