"""What `edgecc bench accuracy` measures: everything at once, many passes."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecc.bench.learning.baselines import EndToEnd, network_accuracy
from edgecc.bench.learning.published_recipe import CompatNetwork
from edgecc.bench.learning.simulated_node import Device
from edgecc.bench.streams import Stream, split
from edgecc.learn.blocks import Linear
from edgecc.learn.methods.base import Method
from edgecc.learn.methods.spela import Spela
from edgecc.learn.network import Network
from edgecc.learn.symmetric_vectors import symmetric_vectors
from edgecc.plan.plan import BlockSize, Plan
from edgecc.protocol.sample import Input
from edgecc.training.dataset import Maps
from edgecc.training.growth import CALIBRATION_ROWS
from edgecc.training.recipe import Recipe

_NETWORKS = {
    "wide": (BlockSize(96, 3, 2, 2), BlockSize(192, 3, 1, 3), BlockSize(768, 0, 1, 1)),
    "narrow": (BlockSize(32, 3, 1, 2), BlockSize(64, 3, 2, 3), BlockSize(256, 0, 1, 1)),
}


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
    return {"accuracy": device.accuracy(data), "head": head, "method": method,
            "state": device.state(), "verdicts": device.verdicts}


def untrained(*, name: str, seed: int, limit: int | None, network: str) -> dict[str, Any]:
    """The control: three seeds of blocks that were never trained."""
    data, device = _taught(name, seed, limit, network, "contextual")
    return device.control(data)


def spela_dense(*, name: str, seed: int, limit: int | None, epochs: float) -> dict[str, Any]:
    """SPELA (Somasundaram et al. 2025) on the pixels, 784-1000-34, but with the softmax of cosines:
    LeakyReLU 0.001, then the identity; Adam at 2e-3 falling along a half cosine.
    """
    data = split(name, seed=seed, limit=limit).mixed(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    sizes, slopes = (data.images[0].size, 1000, 34), (0.001, 1.0)
    network = Network([
        Spela(
            Linear(below, width, norm="none", slope=slope, generator=generator),
            vectors=symmetric_vectors(10, width, generator=generator), loss="softmax")
        for (below, width), slope in zip(itertools.pairwise(sizes), slopes, strict=True)
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
