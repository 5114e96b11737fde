"""`edgecc bench accuracy`: many passes over everything at once; every method beside its controls,
backpropagation on the same network, and what was published.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecc.bench import figures
from edgecc.bench.cells import Cells
from edgecc.bench.device import Device
from edgecc.bench.rivals import EndToEnd, network_accuracy
from edgecc.bench.streams import Stream, split
from edgecc.growth import CALIBRATION_ROWS
from edgecc.learn.blocks import Linear
from edgecc.learn.methods.base import Method
from edgecc.learn.methods.compat import CompatNetwork
from edgecc.learn.methods.spela import Spela
from edgecc.learn.network import Network
from edgecc.learn.symmetric_vectors import symmetric_vectors
from edgecc.planner import Block, Plan
from edgecc.recipe import METHODS, Recipe
from edgecc.rows import Maps
from edgecc.sample import Input

PUBLISHED = {  # accuracy on Fashion-MNIST in the papers named
    "CFSE (Papachristodoulou et al. 2024)": 0.9231, "DeeperForward (Sun et al. 2025)": 0.9313,
    "ASGE": 0.9341, "CAW-Conv": 0.9455, "SPELA, 784-1000-34": 0.8977,
    "local error signals, VGG8b (Nøkland & Eidnes 2019)": 0.9535,
}
_NETWORKS = {
    "wide": (Block(64, 3, 1, 2), Block(128, 3, 2, 3), Block(256, 3, 1, 2), Block(512, 0, 1, 1)),
    "narrow": (Block(32, 3, 1, 2), Block(64, 3, 2, 3), Block(256, 0, 1, 1)),
}


@dataclass(frozen=True)
class Scale:
    """How large the bench is; `quick` is a smoke test and its figures mean nothing."""

    limit: int | None = None
    epochs: float = 20.0  # of the method that is claimed, and of backpropagation
    compared: float = 5.0  # of every method, beside each other
    seeds: int = 1
    published: float = 10.0  # of the published recipes, a block or in all
    fashion: str = "wide"  # the network
    methods: tuple[str, ...] = tuple(METHODS)


QUICK = Scale(
    limit=600, epochs=1.0, compared=1.0, published=0.2, fashion="narrow", methods=("supervised",))


def run(*, quick: bool, folder: Path, json_path: Path | None, out: Path) -> None:
    """Measure what is missing, then print the tables and write the figures."""
    torch.set_num_threads(2)
    found = _measure(QUICK if quick else Scale(), Cells(folder))
    for line in table(found):
        click.echo(line)
    figures.write(out / "accuracy.json", "accuracy", found)
    if json_path:
        figures.write(json_path, "accuracy", found)


def _measure(scale: Scale, cells: Cells) -> dict[str, Any]:
    found: dict[str, Any] = {"revision": cells.revision}
    for name in ("digits", "fashion"):
        network = scale.fashion if name == "fashion" else "narrow"
        cell = partial(cells.get, name=name, limit=scale.limit, network=network)
        alone = partial(cells.get, name=name, limit=scale.limit)
        most = scale.epochs if name == "fashion" else 10 * scale.epochs
        ours = [cell(offline, seed=seed, epochs=most) for seed in range(scale.seeds)]
        rivals = [cell(offline, seed=seed, epochs=most, method="backpropagation")
                  for seed in range(scale.seeds)]
        few = scale.compared * (1 if name == "fashion" else 10)
        found[name] = {
            "ours": ours, "backpropagation": rivals,
            "control": cell(untrained, seed=0),
            "shuffled": cell(offline, seed=0, epochs=few, shuffled=True),
            "methods": {method: cell(offline, seed=0, epochs=few, method=method)
                        for method in (*scale.methods, "backpropagation")},
            "spela_dense": alone(spela_dense, seed=0, epochs=2 * scale.published),
            "compat": alone(compat, seed=0, epochs=scale.published),
        }
    fashion = found["fashion"]
    accuracy = _mean(one["accuracy"] for one in fashion["ours"])
    rival = _mean(max(one["accuracy"], one["head"]) for one in fashion["backpropagation"])
    return {"offline_acc": accuracy, "backprop_gap": rival - accuracy} | found


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


# --- cells ---


def offline(
    *, name: str, seed: int, limit: int | None, network: str, epochs: float,
    method: str = "contextual", shuffled: bool = False,
) -> dict[str, Any]:
    """One growth on everything, in random order; the readout's accuracy and the last block's."""
    data, device = _taught(name, seed, limit, network, method, shuffled=shuffled)
    trained: list[Network] = []

    def make(methods: list[Method]) -> Network:
        trained.append((EndToEnd if method == "backpropagation" else Network)(methods))
        return trained[0]

    device.grow(replace(device.recipe, epochs=epochs), network=make)
    rows = device.kept.rows(device.predictor.readout)
    maps = Maps(device.predictor.generation.trunk.first(0), rows)
    head = network_accuracy(
        trained[0], maps, rows.training[:CALIBRATION_ROWS], data, [int(k) for k in rows.classes])
    return {"accuracy": device.accuracy(data), "head": head, "state": device.state(),
            "verdicts": device.verdicts}


def untrained(*, name: str, seed: int, limit: int | None, network: str) -> dict[str, Any]:
    """The control: three seeds of blocks that were never trained."""
    data, device = _taught(name, seed, limit, network, "contextual")
    return {"accuracies": device.control(data)}


def spela_dense(*, name: str, seed: int, limit: int | None, epochs: float) -> dict[str, Any]:
    """SPELA on the pixels, 784-1000-34, (1 - cos)², LeakyReLU 0.001 (Somasundaram et al. 2025).

    Adam at 2e-3 falling along a half cosine, not the published 200 epochs of SGD.
    """
    data = split(name, seed=seed, limit=limit).mixed(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    sizes = (data.images[0].size, 1000, 34)
    network = Network([
        Spela(
            Linear(below, width, norm="none", slope=0.001, generator=generator),
            vectors=symmetric_vectors(10, width, generator=generator), loss="squared")
        for below, width in itertools.pairwise(sizes)
    ])
    x, y = _tensors(data.images), torch.from_numpy(data.targets)
    for batch, rate in _batches(len(y), epochs, size=50, rate=2e-3, generator=generator):
        network.sweep(x[batch], y[batch], rate=rate)
    test = _tensors(data.test_images)
    return {"accuracy": _right(network.predict(test), data),
            "hidden": _right(network.predict(test, block=0), data)}


def compat(*, name: str, seed: int, limit: int | None, epochs: float) -> dict[str, Any]:
    """The published recipe of contextual convolution, evaluated without a label."""
    data = split(name, seed=seed, limit=limit).mixed(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    size = (data.images.shape[2], data.images.shape[3])
    network = CompatNetwork(1, classes=10, size=size, generator=generator)
    x, y = _tensors(data.images), torch.from_numpy(data.targets)
    for block in range(len(network.methods)):
        for batch, _ in _batches(len(y), epochs, size=64, rate=1e-3, generator=generator):
            network.step(x[batch], y[batch], block=block, rate=1e-3)
    named = [network.predict(_tensors(part)) for part in np.array_split(data.test_images, 20)]
    return {"accuracy": _right(torch.cat(named), data)}


def _taught(
    name: str, seed: int, limit: int | None, network: str, method: str, *, shuffled: bool = False
) -> tuple[Stream, Device]:
    """A device that was sent everything in random order and has not grown yet."""
    data = split(name, seed=seed, limit=limit)
    mixed = data.mixed(seed=seed)
    arriving = mixed.shuffled(seed=seed) if shuffled else mixed
    taught = "supervised" if method == "backpropagation" else method
    recipe = Recipe(seed=seed, method=taught, mirror=name == "fashion")
    plan = Plan(16, 3, _NETWORKS[network], 64, 64, {})
    device = Device(Input("image", tuple(data.images.shape[1:])), plan, recipe, first=10**9)
    for image, target in zip(arriving.images, arriving.targets, strict=True):
        device.learn(image, int(target))
    return data, device


def _batches(
    count: int, epochs: float, *, size: int, rate: float, generator: torch.Generator
) -> Iterator[tuple[Tensor, float]]:
    """Positions without replacement within an epoch, and a rate that falls along a half cosine."""
    per_epoch = count // size
    steps = int(epochs * per_epoch)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(count, generator=generator)
        place = step % per_epoch * size
        yield order[place : place + size], rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def _tensors(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.astype(np.float32) / 255)


def _right(named: Tensor, data: Stream) -> float:
    return float(np.mean(named.numpy() == data.test_targets))


# --- the tables ---


def table(found: dict[str, Any]) -> Iterator[str]:
    """Lines for digits and Fashion-MNIST, then what was published."""
    for name in ("digits", "fashion"):
        of = found[name]
        yield f"{name:44}  readout      head   seconds"
        for title, one in (("contextual, many passes", of["ours"][0]),
                           ("backpropagation, many passes", of["backpropagation"][0])):
            yield _line(title, one)
        for method, one in of["methods"].items():
            yield _line(f"{method}, few passes", one)
        best = max(of["control"]["accuracies"])
        yield f"{'control: blocks never trained, best of 3':44}  {best:7.4f}"
        yield _line("labels shuffled", of["shuffled"])
        yield f"{'SPELA, 1000-34 on the pixels':44}  {of['spela_dense']['accuracy']:7.4f}"
        yield f"{'published contextual recipe, no label seen':44}  {of['compat']['accuracy']:7.4f}"
    for title, accuracy in PUBLISHED.items():
        yield f"{'published: ' + title:62}  {accuracy:.4f}"
    yield f"offline_acc {found['offline_acc']:.4f}  backprop_gap {found['backprop_gap']:.4f}"


def _line(title: str, one: dict[str, Any]) -> str:
    return f"{title:44}  {one['accuracy']:7.4f}  {one['head']:8.4f}  {one['seconds']:8.0f}"
