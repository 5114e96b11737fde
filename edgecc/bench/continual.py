"""`edgecc bench continual`: classes two at a time, one pass, no task ids; ours beside its controls
and rivals, every figure with the bytes it used.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgecc import planner
from edgecc.bench import figures, metrics
from edgecc.bench.cells import Cells
from edgecc.bench.device import Device
from edgecc.bench.rivals import EndToEnd, replayed, streaming_lda
from edgecc.bench.streams import Stream, split
from edgecc.planner import Plan
from edgecc.recipe import Recipe
from edgecc.sample import Input

MIB = 2**20
BUDGET = 1536 * MIB
METHODS = (
    "contextual-hardest", "contextual-random", "contextual-bias", "contextual-scale", "spela",
    "supervised",
)
ROOMS = {"4 MB": 4_000_000, "0.4 MB": 400_000}  # of stored samples
STEM_ALONE = Plan(128, 4, (), 16, 64, {})
REPLAY = (200, 500, 1000, 5000)  # samples
DRAWS = 10  # replay draws per received sample, in all growths together
_REFRESH = 500  # samples between two solutions of the readout while predicting before learning


@dataclass(frozen=True)
class Scale:
    """How large the bench is; `quick` is a smoke test and its figures mean nothing."""

    name: str = "fashion"
    pairs: int = 3  # of seed and class order
    limit: int | None = None  # samples of the stream
    first: int = 3750  # labels at the first growth: doubling ends at the 60,000th
    epochs: float = 5.0  # of each growth: all of them together stay under DRAWS
    replay: tuple[int, ...] = REPLAY
    methods: tuple[str, ...] = METHODS


QUICK = Scale(pairs=1, limit=1200, first=600, epochs=1.0, replay=(200,), methods=("supervised",))


def run(*, quick: bool, folder: Path, json_path: Path | None, out: Path) -> None:
    """Measure what is missing, then print the table and write figures and plots."""
    import torch

    torch.set_num_threads(2)
    scale, cells = QUICK if quick else Scale(), Cells(folder)
    found = _measure(scale, cells)
    for line in table(found):
        click.echo(line)
    figures.write(out / "continual.json", "continual", found)
    if json_path:
        figures.write(json_path, "continual", found)
    from edgecc.bench import plot

    plot.continual(out / "continual.png", found)


def _measure(scale: Scale, cells: Cells) -> dict[str, Any]:
    """Cells in the order of what matters most, so that an interrupted bench says the most."""
    setting = {"name": scale.name, "limit": scale.limit, "epochs": scale.epochs}
    seeds = range(scale.pairs)
    streams = [cells.get(stream, seed=seed, first=scale.first, **setting) for seed in seeds]
    controls = [cells.get(control, seed=seed, **setting) for seed in seeds]
    rooms = {label: [cells.get(final, seed=seed, room=room, **setting) for seed in seeds]
             for label, room in ROOMS.items()}
    alone = [cells.get(stem_alone, seed=seed, **setting) for seed in seeds]
    small = [cells.get(one_megabyte, seed=seed, **setting) for seed in seeds]
    flipped = [cells.get(final, seed=seed, flips=0.2, **setting) for seed in seeds]
    oracles = [cells.get(joint, seed=0, experiences=i, **setting) for i in range(1, 6)]
    others = {method: cells.get(final, seed=0, method=method, **setting)
              for method in (*scale.methods, "backpropagation")}
    shuffled = cells.get(final, seed=0, shuffled=True, **setting)
    lda = [cells.get(lda_alone, seed=seed, **setting) for seed in seeds]
    replays = {str(room): cells.get(replay, seed=0, room=room, draws=DRAWS, **setting)
               for room in (*scale.replay, 0)}
    return _summary(streams, oracles) | {
        "control_accuracy": _mean(max(one["accuracies"]) for one in controls),
        "control_gain": _mean(
            ours["accuracy"] - max(one["accuracies"])
            for ours, one in zip(streams, controls, strict=True)),
        "final_acc_1mb": _mean(one["accuracy"] for one in small),
        "flip20_loss": _mean(
            ours["accuracy"] - one["accuracy"]
            for ours, one in zip(streams, flipped, strict=True)),
        "rooms": {label: _mean(one["accuracy"] for one in cells_)
                  for label, cells_ in rooms.items()} | {
            "none": _mean(one["accuracy"] for one in alone)},
        "streams": streams, "oracles": oracles, "methods": others, "shuffled": shuffled,
        "lda": lda, "replay": replays, "one_megabyte": small, "alone": alone,
        "of_rooms": rooms, "flipped": flipped, "revision": cells.revision,
    }


def _summary(streams: list[dict[str, Any]], oracles: list[dict[str, Any]]) -> dict[str, Any]:
    """What is said of ours alone, and against the oracles on the first pair."""
    first = streams[0]
    joint_matrix = [one["groups"] + [0.0] * (5 - len(one["groups"])) for one in oracles]
    seen = [float(np.mean(row[: i + 1])) for i, row in enumerate(first["matrix"])]
    return {
        "final_acc": _mean(one["accuracy"] for one in streams),
        "average_incremental": _mean(one["average_incremental"] for one in streams),
        "forgetting": _mean(one["forgetting"] for one in streams),
        "bwt": _mean(one["bwt"] for one in streams),
        "excess_forgetting": first["forgetting"] - metrics.forgetting(joint_matrix),
        "joint_gap": oracles[-1]["accuracy"] - first["accuracy"],
        "omega_all": metrics.omega(seen, [one["accuracy"] for one in oracles]),
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


# --- cells: each a function of its arguments ---


def stream(
    *, name: str, seed: int, limit: int | None, epochs: float, first: int
) -> dict[str, Any]:
    """The whole stream, growing at labels first·2^(r-1), everything kept."""
    data, device = _device(name, seed, limit, epochs, first=first)
    matrix, right, shares = [], 0, (np.bincount(data.targets) / len(data)).tolist()
    for position, (x, target) in enumerate(zip(data.images, data.targets, strict=True)):
        if position % _REFRESH == 0:
            device.predictor.refresh()
        features = device.predictor.features(x)
        right += device.predictor.predict(features, 0.0).label == str(target)
        device.learn(x, int(target), features)
        if device.due:
            device.grow()
        if device.labels in data.ends:
            matrix.append(device.accuracies(data))
    return metrics.of_matrix(matrix) | {
        "accuracy": device.accuracy(data), "matrix": matrix, "draws": device.draws / len(data),
        "prequential": right / len(data), "kappa": metrics.kappa(right / len(data), shares),
        "state": device.state(), "verdicts": device.verdicts,
    }


def final(
    *, name: str, seed: int, limit: int | None, epochs: float,
    method: str = "contextual", room: int | None = None, flips: float = 0.0,
    shuffled: bool = False,
) -> dict[str, Any]:
    """The last growth alone: it starts from the stem, so what grew before does not matter."""
    data, device = _device(name, seed, limit, epochs, method=method, room=room)
    arriving = data.flipped(flips, seed=seed) if flips else data
    arriving = arriving.shuffled(seed=seed) if shuffled else arriving
    _learn_all(device, arriving)
    spent = epochs * len(data) / max(len(device.kept), 1)
    recipe = replace(device.recipe, epochs=min(spent, 30.0))
    if device.plan.blocks:
        device.grow(recipe, network=EndToEnd if method == "backpropagation" else None)
    return {"accuracy": device.accuracy(data), "state": device.state(),
            "kept": len(device.kept), "draws": device.draws / len(data),
            "verdicts": device.verdicts}


def control(*, name: str, seed: int, limit: int | None, epochs: float) -> dict[str, Any]:
    """Blocks never trained, three seeds; all else the same."""
    data, device = _device(name, seed, limit, epochs)
    _learn_all(device, data)
    return {"accuracies": device.control(data), "state": device.state()}


def joint(
    *, name: str, seed: int, limit: int | None, epochs: float, experiences: int
) -> dict[str, Any]:
    """An oracle: the classes seen so far at once, in random order, with all the draws."""
    whole, device = _device(name, seed, limit, 2 * epochs)
    part = whole.first(experiences)
    _learn_all(device, part.mixed(seed=seed))
    device.grow()
    return {"accuracy": device.accuracy(part), "groups": device.accuracies(part)}


def stem_alone(
    *, name: str, seed: int, limit: int | None, epochs: float
) -> dict[str, Any]:
    """No sample is stored: a wide stem and the exact readout."""
    data = split(name, seed=seed, limit=limit)
    device = Device(_spec(data), STEM_ALONE, _recipe(seed, epochs), first=10**9)
    _learn_all(device, data, keep=False)
    return {"accuracy": device.accuracy(data), "state": device.state()}


def one_megabyte(
    *, name: str, seed: int, limit: int | None, epochs: float
) -> dict[str, Any]:
    """The widest stem and readout of which, with no stored samples, all files are under 1 MB."""
    data = split(name, seed=seed, limit=limit)
    device = Device(_spec(data), Plan(14, 4, (), 16, 64, {}), _recipe(seed, epochs), first=10**9)
    _learn_all(device, data, keep=False)
    return {"accuracy": device.accuracy(data), "state": device.state()}


def lda_alone(
    *, name: str, seed: int, limit: int | None, epochs: float
) -> dict[str, Any]:
    data, device = _device(name, seed, limit, epochs)
    _learn_all(device, data, keep=False)
    return streaming_lda(device, data) | {"state": device.state()}


def replay(
    *, name: str, seed: int, limit: int | None, epochs: float, room: int, draws: int
) -> dict[str, Any]:
    """The same network by backpropagation, online."""
    data = split(name, seed=seed, limit=limit)
    recipe = replace(_recipe(seed, epochs), method="supervised")
    return replayed(data, _plan(data), recipe, room=room, draws=draws if room else 1)


def _device(
    name: str, seed: int, limit: int | None, epochs: float, *, first: int = 10**9,
    method: str = "contextual", room: int | None = None,
) -> tuple[Stream, Device]:
    data = split(name, seed=seed, limit=limit)
    taught = "supervised" if method == "backpropagation" else method
    recipe = replace(_recipe(seed, epochs), method=taught)
    plan = _plan(data) if room is None else _plan_of_room(data, room)
    return data, Device(_spec(data), plan, recipe, first=first, room=room)


def _recipe(seed: int, epochs: float) -> Recipe:
    return Recipe(epochs=epochs, seed=seed, mirror=True)


def _spec(data: Stream) -> Input:
    return Input("image", tuple(data.images.shape[1:]))


def _plan(data: Stream) -> Plan:
    return planner.plan(BUDGET, _spec(data), max_payload=MIB, blocks=3)


def _plan_of_room(data: Stream, room: int) -> Plan:
    """A wider stem, which alone knows the samples that left; 1380 MiB by the planner's costs.

    Under a megabyte so few stay that blocks on such a stem have nothing to add.
    """
    if room < 1_000_000:
        return STEM_ALONE
    plan = _plan(data)
    first, second, dense = plan.blocks
    return replace(plan, stem_filters=64, stem_grid=4, where={},
                   blocks=(first, replace(second, grid=2), dense))


def _learn_all(device: Device, data: Stream, *, keep: bool = True) -> None:
    for x, target in zip(data.images, data.targets, strict=True):
        device.learn(x, int(target), keep=keep)


# --- the table ---


def table(found: dict[str, Any]) -> Iterable[str]:
    """Lines: accuracy after the last experience, with the bytes used."""
    yield f"{'':44}  accuracy   weights   readout   samples  (MB)"
    yield _line("edgecc, everything kept (mean of pairs)", found["final_acc"],
                found["streams"][0]["state"])
    for label, rows in found["of_rooms"].items():
        yield _line(f"edgecc, {label} of samples", found["rooms"][label], rows[0]["state"])
    yield _line("edgecc, no samples: wide stem", found["rooms"]["none"],
                found["alone"][0]["state"])
    yield _line("edgecc, 1 MB in all", found["final_acc_1mb"], found["one_megabyte"][0]["state"])
    yield _line("control: blocks never trained, best of 3", found["control_accuracy"])
    yield _line("labels shuffled", found["shuffled"]["accuracy"])
    for method, one in found["methods"].items():
        yield _line(f"first pair, {method}", one["accuracy"], one["state"])
    yield _line("streaming LDA on the stem", _mean(one["accuracy"] for one in found["lda"]))
    for room, one in found["replay"].items():
        yield _line("naive backpropagation" if room == "0" else
                    f"backpropagation, replay of {room} samples", one["accuracy"])
    for name in ("average_incremental", "forgetting", "excess_forgetting", "bwt", "joint_gap",
                 "omega_all", "control_gain", "flip20_loss"):
        yield f"{name:44}  {found[name]:8.4f}"


def _line(name: str, accuracy: float, state: dict[str, int] | None = None) -> str:
    sizes = "" if state is None else "".join(
        f"{state[part] / 1e6:10.2f}" for part in ("weights", "readout", "samples"))
    return f"{name:44}  {accuracy:8.4f}{sizes}"

