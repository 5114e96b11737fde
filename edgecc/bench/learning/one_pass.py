"""What `edgecc bench continual` measures: one pass over a stream, each a function of its arguments.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from edgecc.bench import metrics
from edgecc.bench.learning.baselines import EndToEnd, replayed, streaming_lda
from edgecc.bench.learning.simulated_node import Device
from edgecc.bench.streams import Stream, split
from edgecc.errors import BudgetError
from edgecc.plan.plan import Plan
from edgecc.protocol.sample import Input
from edgecc.training.recipe import Recipe

_REFRESH = 500  # samples between two solutions of the readout while predicting before learning
STEM_ALONE = Plan(57, 6, (), 16, 64, {})  # 4104 features
_MOST_EPOCHS = 30.0  # over few stored samples


Planned = dict[str, Any]  # what the planner chose, as `Plan.describe` gives it


def stream(
    *, name: str, seed: int, limit: int | None, plan: Planned, epochs: float, first: int
) -> dict[str, Any]:
    """The whole stream, growing at labels first·2^(r-1), everything kept."""
    data, device = _device(name, seed, limit, plan, epochs, first=first)
    matrix, right, shares = [], 0, (np.bincount(data.targets) / len(data)).tolist()
    for position, (x, target) in enumerate(zip(data.images, data.targets, strict=True)):
        if position % _REFRESH == 0:
            device.predictor.refresh()
        features = device.predictor.features(x)
        right += device.predictor.predict(features[None], 0.0)[0].label == str(target)
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
    *, name: str, seed: int, limit: int | None, plan: Planned, epochs: float,
    method: str = "contextual", room: int | None = None, flips: float = 0.0,
    shuffled: bool = False,
) -> dict[str, Any]:
    """The last growth alone: it starts from the stem, so what grew before does not matter."""
    data, device = _device(name, seed, limit, plan, epochs, method=method, room=room)
    arriving = data.flipped(flips, seed=seed) if flips else data
    arriving = arriving.shuffled(seed=seed) if shuffled else arriving
    _learn_all(device, arriving)
    spent = epochs * len(data) / max(len(device.kept), 1)
    recipe = replace(device.recipe, epochs=min(spent, _MOST_EPOCHS))
    if device.plan.blocks:
        device.grow(recipe, network=EndToEnd if method == "backpropagation" else None)
    return {"accuracy": device.accuracy(data), "state": device.state(),
            "method": method, "arrived": len(data), "kept": len(device.kept),
            "draws": device.draws / len(data), "verdicts": device.verdicts}


def control(
    *, name: str, seed: int, limit: int | None, plan: Planned, epochs: float
) -> dict[str, Any]:
    """Blocks never trained, three seeds; all else the same."""
    data, device = _device(name, seed, limit, plan, epochs)
    _learn_all(device, data)
    return device.control(data)


def joint(
    *, name: str, seed: int, limit: int | None, plan: Planned, epochs: float, experiences: int
) -> dict[str, Any]:
    """An oracle: the classes seen so far at once, in random order, with all the draws."""
    whole, device = _device(name, seed, limit, plan, 2 * epochs)
    part = whole.first(experiences)
    _learn_all(device, part.mixed(seed=seed))
    device.grow()
    return {"accuracy": device.accuracy(part), "groups": device.accuracies(part)}


def stem_alone(*, name: str, seed: int, limit: int | None) -> dict[str, Any]:
    """No sample is stored: a wide stem and the exact readout."""
    return _alone(split(name, seed=seed, limit=limit), STEM_ALONE, seed)


def one_megabyte(
    *, name: str, seed: int, limit: int | None, filters: int, grid: int, waves: int, widest: int
) -> dict[str, Any]:
    """As many mixtures of filters as leave all files under 1 MB, no sample being stored."""
    data = split(name, seed=seed, limit=limit)
    for mixed in range(widest, 0, -1):
        plan = Plan(filters, grid, (), 16, 64, {}, stem_mixed=mixed, stem_waves=waves)
        result = _alone(data, plan, seed)
        if sum(result["state"].values()) <= 10**6:
            return result | {"mixed": mixed}
    raise BudgetError("no stem and readout are under 1 MB")


def _alone(data: Stream, plan: Plan, seed: int) -> dict[str, Any]:
    device = Device(_spec(data), plan, Recipe(seed=seed), first=10**9)
    _learn_all(device, data, keep=False)
    return {"accuracy": device.accuracy(data), "state": device.state()}


def lda_alone(
    *, name: str, seed: int, limit: int | None, plan: Planned, epochs: float
) -> dict[str, Any]:
    data, device = _device(name, seed, limit, plan, epochs)
    _learn_all(device, data, keep=False)
    return streaming_lda(device, data) | {"state": device.state()}


def replay(
    *, name: str, seed: int, limit: int | None, plan: Planned, epochs: float, room: int,
    draws: int,
) -> dict[str, Any]:
    """The same network by backpropagation, online."""
    data = split(name, seed=seed, limit=limit)
    recipe = replace(_recipe(seed, epochs), method="supervised")
    return replayed(
        data, Plan.restored(plan), recipe, room=room, draws=draws if room else 1)


def _device(
    name: str, seed: int, limit: int | None, plan: Planned, epochs: float, *,
    first: int = 10**9, method: str = "contextual", room: int | None = None,
) -> tuple[Stream, Device]:
    data = split(name, seed=seed, limit=limit)
    taught = "supervised" if method == "backpropagation" else method
    recipe = replace(_recipe(seed, epochs), method=taught)
    chosen = Plan.restored(plan) if room is None else _plan_of_room(Plan.restored(plan), room)
    return data, Device(_spec(data), chosen, recipe, first=first, room=room)


def _recipe(seed: int, epochs: float) -> Recipe:
    return Recipe(epochs=epochs, seed=seed, mirror=True)


def _spec(data: Stream) -> Input:
    return Input("image", tuple(data.images.shape[1:]))


def _plan_of_room(plan: Plan, room: int) -> Plan:
    """A wider stem, which alone knows the samples that left; 1380 MiB by the planner's costs.

    Under a megabyte so few stay that blocks on such a stem have nothing to add.
    """
    if room < 1_000_000:
        return STEM_ALONE
    first, second, dense = plan.blocks
    return replace(plan, stem_filters=64, stem_grid=4, where={},
                   blocks=(first, replace(second, grid=2), dense))


def _learn_all(device: Device, data: Stream, *, keep: bool = True) -> None:
    for x, target in zip(data.images, data.targets, strict=True):
        device.learn(x, int(target), keep=keep)
