"""A grown trunk on LiteRT beside the same layers in torch: time of a sample, and what int8 costs.

The trunk is grown here, with the widths that the planner takes for BUDGET. One thread, batch 1;
rounds alternate, and times are of processor time, so that what else runs counts little.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecc.bench.figures import Figures
from edgecc.bench.learning.simulated_node import Device
from edgecc.bench.streams import Stream, split
from edgecc.config.units import parse_size
from edgecc.learn.geometry import pool_window
from edgecc.learn.readout import scores, to_integers
from edgecc.plan import planner
from edgecc.protocol.sample import Input
from edgecc.store.growth_log import Growth
from edgecc.training.dataset import Rows
from edgecc.training.evaluation import evaluate
from edgecc.training.growth import Grower
from edgecc.training.recipe import Recipe
from edgecc.trunk.compile import Layer
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.trunk import Trunk

BUDGET = "512MiB"
_CALLS = 100  # of each in a round
_REAL = 200  # test pictures on which features are compared

Run = Callable[[NDArray[np.float32]], Any]  # of a scaled sample (H, W, C)


@dataclass(frozen=True)
class Size:
    pictures: int = 10_000
    epochs: float = 2.0
    rounds: int = 15
    tests: int = 10_000


def measured(*, quick: bool) -> Figures:
    size = Size(pictures=200, epochs=1.0, rounds=1, tests=200) if quick else Size()
    torch.set_num_threads(1)
    stream = split("fashion", seed=0).mixed(seed=0)
    trunk, rows = grown(stream, size)
    click.echo(f"a trunk of {[len(layer.bias) for layer in trunk.layers]} channels has grown on "
               f"{len(rows)} pictures")
    speed = _agreement(trunk, stream) | _speed(trunk, stream, size)
    return speed | _loss(trunk, rows, stream, size)


def grown(stream: Stream, size: Size) -> tuple[Trunk, Rows]:
    """All blocks that are planned, trained on the first pictures of the stream; int8."""
    spec = Input("image", (1, 28, 28))
    plan = planner.plan(parse_size(BUDGET), spec, max_payload=2**20, blocks=3)
    device = Device(spec, plan, Recipe(epochs=size.epochs), first=10**9)
    for x, target in zip(stream.images[: size.pictures], stream.targets, strict=False):
        device.learn(x, int(target))
    rows = device.kept.rows(device.predictor.readout)
    growth = Growth(1, device.labels, asdict(device.recipe))
    with tempfile.TemporaryDirectory() as work:
        grower = Grower(
            growth, device.predictor.generation, rows, plan=plan, folder=Path(work),
            report=lambda _: None)
        return grower.grown(), rows


# --- the same in torch ---


class InTorch(nn.Module):
    """The layers as torch modules, batch norm folded in: (1, C, H, W) to features (1, d)."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.roots = [layer.root for layer in trunk.layers]
        self.blocks, self.pools = nn.ModuleList(), nn.ModuleList()
        x = torch.zeros(1, *trunk.shape)
        for layer in trunk.layers:
            self.blocks.append(_block(layer))
            x = self.blocks[-1](x)
            windows = map(pool_window, x.shape[2:], layer.grid)
            (kh, sh), (kw, sw) = windows
            self.pools.append(nn.AvgPool2d((kh, kw), (sh, sw)))

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for block, pool, root in zip(self.blocks, self.pools, self.roots, strict=True):
            x = block(x)
            pooled = pool(x).sqrt() if root else pool(x)
            parts.append(pooled.permute(0, 2, 3, 1).flatten(1))
        return torch.cat(parts, 1)


def _block(layer: Layer) -> nn.Module:
    """Convolution, ReLU, and the max-pool where there is one."""
    (kernels,) = layer.convs
    out, into, height, width = kernels.shape
    conv = nn.Conv2d(into, out, (height, width), padding=layer.padding).requires_grad_(False)
    conv.weight.copy_(torch.from_numpy(kernels))
    nn.init.zeros_(conv.bias).add_(torch.from_numpy(layer.bias))  # type: ignore[arg-type]
    pool = [nn.MaxPool2d(layer.pool)] if layer.pool != (1, 1) else []
    return nn.Sequential(conv, nn.ReLU(), *pool).eval()


def contestants(trunk: Trunk, sample: NDArray[np.float32]) -> Mapping[str, Run]:
    """Whatever computes the features of a scaled sample (H, W, C)."""
    eager = InTorch(trunk).eval()
    last = InTorch(trunk).eval()
    for weights in last.parameters():
        if weights.ndim == 4:
            weights.data = weights.contiguous(memory_format=torch.channels_last)
    example = torch.from_numpy(sample.transpose(2, 0, 1)[None].copy())
    with torch.inference_mode():
        traced = torch.jit.trace(eager, example)  # type: ignore[no-untyped-call]
        frozen = torch.jit.freeze(traced)

    def of(module: Callable[[Tensor], Tensor], layout: Any = torch.contiguous_format) -> Run:
        def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.inference_mode():
                entering = torch.from_numpy(x.transpose(2, 0, 1)[None])
                features: NDArray[np.float32] = module(
                    entering.contiguous(memory_format=layout)).numpy()[0]
                return features

        return run

    return {
        "int8": Interpreter(trunk.compile()).run,
        "float32": Interpreter(replace(trunk, ranges=None).compile()).run,
        "torch": of(eager), "torch_channels_last": of(last, torch.channels_last),
        "torch_jit": of(frozen),
    }


# --- what is measured ---


def _agreement(trunk: Trunk, stream: Stream) -> Figures:
    """How close the features are to torch's on real samples: largest error, least cosine."""
    scaled = [trunk.scale(x) for x in stream.test_images[:_REAL]]
    run = contestants(trunk, scaled[0])
    wanted = np.array([run["torch"](x) for x in scaled])
    float32, int8 = (np.array([run[name](x) for x in scaled]) for name in ("float32", "int8"))
    norms = np.linalg.norm(int8, axis=1) * np.linalg.norm(wanted, axis=1)
    return {
        "float32_error": float(np.abs(float32 - wanted).max() / np.abs(wanted).max()),
        "int8_cosine": float(((int8 * wanted).sum(1) / norms).min()),
    }


def _speed(trunk: Trunk, stream: Stream, size: Size) -> Figures:
    """Microseconds of each for one sample, and int8's and float32's speed beside torch's."""
    scaled = [trunk.scale(x) for x in stream.test_images[:_CALLS]]
    run = contestants(trunk, scaled[0])
    times: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(size.rounds + 1):
        for name, one in run.items():
            times[name].append(median(_seconds(one, x) for x in scaled))
    times = {name: taken[1:] for name, taken in times.items()}  # the first round warms up

    def faster(name: str, than: str) -> float:
        return median(b / a for a, b in zip(times[name], times[than], strict=True))

    return {
        "trunk_us": {name: median(taken) * 1e6 for name, taken in times.items()},
        "trunk_speedup": faster("int8", "torch"),
        "trunk_speedup_jit": faster("int8", "torch_jit"),
        "trunk_speedup_channels_last": faster("int8", "torch_channels_last"),
        "trunk_speedup_float32": faster("float32", "torch"),
    }


def _seconds(run: Run, x: NDArray[np.float32]) -> float:
    started = time.thread_time()
    run(x)
    return time.thread_time() - started


def _loss(trunk: Trunk, rows: Rows, stream: Stream, size: Size) -> Figures:
    """Points of test accuracy that int8 costs, each readout taught on its own trunk's features;
    and the standard error of that."""
    int8 = _right(trunk, rows, stream, size.tests)
    float32 = _right(replace(trunk, ranges=None), rows, stream, size.tests)
    lost = 100.0 * (float32.astype(float) - int8)
    return {
        "int8_accuracy": float(int8.mean()), "float32_accuracy": float(float32.mean()),
        "int8_loss": float(lost.mean()), "int8_loss_error": float(lost.std() / len(lost) ** 0.5),
        "tests": size.tests,
    }


def _right(trunk: Trunk, rows: Rows, stream: Stream, tests: int) -> NDArray[np.bool_]:
    """Which test pictures the readout that `rows` give this trunk gets right."""
    evaluation, run = evaluate(trunk, rows, lambda _: None), Interpreter(trunk.compile()).run
    features = np.array([to_integers(run(trunk.scale(x))) for x in stream.test_images[:tests]])
    named = scores(evaluation.readout.weights(evaluation.answers.alpha), features).argmax(axis=1)
    classes = np.array([int(name) for name in rows.classes])
    return np.asarray(classes[named] == stream.test_targets[:tests])
