"""What edgecc is compared with: the same network by backpropagation, replayed and not, and
streaming discriminant analysis on the stem's features. The only place where a graph is built.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgecc.bench.learning.simulated_node import Device
from edgecc.bench.streams import Stream
from edgecc.learn.blocks import Block, Pass
from edgecc.learn.methods.base import Method
from edgecc.learn.methods.contexts import LinearContext
from edgecc.learn.methods.optimisers import Adam
from edgecc.learn.methods.scored import Scored
from edgecc.learn.network import Network
from edgecc.learn.norms import EPS
from edgecc.learn.readout import Floats, Readout
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input, Sample
from edgecc.training.dataset import Maps, Rows
from edgecc.training.recipe import Recipe, methods_on

ARRIVING = 10  # samples of one batch of the stream
_MICRO = 8  # samples of a part of a batch
_RATE = 1e-3  # of the replay baselines; it stays, since the end of a stream is not known


class EndToEnd(Network):
    """The same blocks by backpropagation of cross-entropy at the last one's scores."""

    def __init__(self, methods: Sequence[Method]) -> None:
        super().__init__(methods)
        last = self.methods[-1]
        assert isinstance(last, Scored)
        self._head = last.context
        assert isinstance(self._head, LinearContext)
        self.parameters = [w for method in self.methods for w in method.block.weights]
        self.parameters += list(self._head.own.values())
        self._adam = Adam(self.parameters)

    def sweep(self, x: Tensor, y: Tensor, *, rate: float) -> list[Tensor]:
        """One step of every block against the gradient of the whole network."""
        scores, gradients = self._against(x, y)
        self._adam.step(gradients, rate)
        return [scores]

    def _against(self, x: Tensor, y: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Scores, and the mean loss's gradients."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            for method in self.methods:
                x = _through(method.block, x)
            scores, _ = self._head.forward(Pass(x, x, x))
            gradients = torch.autograd.grad(F.cross_entropy(scores, y), self.parameters)
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        return scores.detach(), gradients


class MicroBatched(EndToEnd):
    """Backpropagation in parts of a batch, one step for all; batch norms know only their part."""

    def sweep(self, x: Tensor, y: Tensor, *, rate: float) -> list[Tensor]:
        scores, total = list[Tensor](), [torch.zeros_like(p) for p in self.parameters]
        for part, labels in zip(torch.split(x, _MICRO), torch.split(y, _MICRO), strict=True):
            before, gradients = self._against(part, labels)
            scores.append(before)
            for into, gradient in zip(total, gradients, strict=True):
                into.add_(gradient, alpha=len(part) / len(x))
        self._adam.step(total, rate)
        return [torch.cat(scores)]


class LastLayer(Network):
    """Only the scores at the last block learn; the blocks stay as they were drawn."""

    def __init__(self, methods: Sequence[Method]) -> None:
        super().__init__(methods)
        last = self.methods[-1]
        assert isinstance(last, Scored)
        self._last = last
        self._adam = Adam(list(last.context.own.values()))

    def sweep(self, x: Tensor, y: Tensor, *, rate: float) -> list[Tensor]:
        for method in self.methods[:-1]:
            x = method.block.forward(x).a
        last = self._last.local(self._last.block.forward(x), y)
        self._adam.step(last.own, rate)
        return [last.scores]


def _through(block: Block, h: Tensor) -> Tensor:
    """A block's training pass with a graph, which blocks themselves never build."""
    n = F.batch_norm(block.affine(h), None, None, training=True, eps=EPS)
    return F.max_pool2d(n.relu(), block.pool)


def replayed(
    stream: Stream, plan: Plan, recipe: Recipe, *, room: int, draws: int
) -> dict[str, Any]:
    """Experience replay: each batch that arrives, with draws from a reservoir of `room` samples.

    draws: presentations per arriving sample, its own arrival among them; room 0 is the naive net.
    """
    network, maps, generator = _network(stream, plan, recipe)
    kept: list[int] = []
    for start in range(0, len(stream), ARRIVING):
        arriving = np.arange(start, min(start + ARRIVING, len(stream)))
        again = min(len(kept), ARRIVING * (draws - 1))
        batch = np.concatenate([arriving, generator.choice(kept or [0], again).astype(np.int64)])
        change = recipe.change(generator)
        network.sweep(
            torch.from_numpy(maps.batch(batch, change)),
            torch.from_numpy(stream.targets[batch]), rate=_RATE)
        for position in arriving:
            _reservoir(kept, int(position), room, generator)
    calibration = np.asarray(kept or range(len(stream) - 500, len(stream)), np.int64)[-1000:]
    classes = sorted(set(stream.targets.tolist()))
    weights = sum(w.numel() * w.element_size() for w in network.parameters)
    samples = sum(len(Sample("", "", 0.0, None, stream.images[n]).pack()) for n in kept)
    return {"accuracy": network_accuracy(network, maps, calibration, stream, classes),
            "kept": len(kept), "state": {"weights": weights, "readout": 0, "samples": samples}}


def streaming_lda(device: Device, stream: Stream) -> dict[str, float]:
    """Class means and one shrunk covariance over the stem's features (Hayes & Kanan 2020)."""
    readout = device.predictor.readout
    weights = lda_weights(readout)
    features = np.array([device.predictor.features(x) for x in stream.test_images])
    named = (features @ weights[:, 1:].T + weights[:, 0]).argmax(axis=1)
    classes = np.array([int(name) for name in readout.classes])
    return {"accuracy": float(np.mean(classes[named] == stream.test_targets))}


def lda_weights(readout: Readout, *, shrinkage: float = 1e-4) -> Floats:
    """(classes, dim+1): equal priors; means and pooled scatter follow exactly from the sums."""
    a, b = readout.sums()
    counts = b[:, :1]
    means = b[:, 1:] / counts
    scatter = (a[1:, 1:] - (means * counts).T @ means) / a[0, 0]
    scatter = (1 - shrinkage) * scatter
    scatter.flat[:: len(scatter) + 1] += shrinkage * np.trace(scatter) / len(scatter)
    slopes = np.linalg.solve(scatter, means.T).T
    return np.hstack([-0.5 * (slopes * means).sum(axis=1, keepdims=True), slopes])


def _network(
    stream: Stream, plan: Plan, recipe: Recipe
) -> tuple[EndToEnd, Maps, np.random.Generator]:
    classes = sorted(set(stream.targets.tolist()))
    rows = Rows(
        read=stream.images.__getitem__, classes=[str(k) for k in classes], targets=stream.targets,
        held=np.zeros(len(stream), bool), weights=np.ones(len(classes)),
    )
    spec = Input("image", tuple(stream.images.shape[1:]))
    maps = Maps(stem_trunk(plan, spec, recipe.seed), rows)
    generator = np.random.default_rng((recipe.seed, 4))
    return EndToEnd(list(methods_on(maps, plan, recipe, len(classes), generator))), maps, generator


def _reservoir(kept: list[int], position: int, room: int, generator: np.random.Generator) -> None:
    """Vitter's algorithm R: every sample so far is kept with the same chance."""
    if len(kept) < room:
        kept.append(position)
    elif room:
        place = int(generator.integers(position + 1))
        if place < room:
            kept[place] = position


def network_accuracy(
    network: Network, maps: Maps, calibration: NDArray[np.int64], stream: Stream,
    classes: Sequence[int],
) -> float:
    """Test accuracy at the last block's scores, batch norms measured on `calibration`."""
    names = np.asarray(classes)
    network.calibrate(torch.from_numpy(maps.batch(calibration)))
    right = 0
    for start in range(0, len(stream.test_targets), 500):
        part = slice(start, start + 500)
        x = torch.from_numpy(maps.of(stream.test_images[part]))
        named = names[network.predict(x).numpy()]
        right += int((named == stream.test_targets[part]).sum())
    return right / len(stream.test_targets)
