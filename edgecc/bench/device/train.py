"""What a training step costs: block-local learning beside backpropagation on the same network.

Every figure is taken in a fresh process of one thread, contenders in turns; seconds are of the
processor, bytes the kernel's peak above the resident memory just before the network is made (with
everything imported, the pictures loaded and a tiny network trained). An epoch is Fashion-MNIST's
60,000 draws, each through the frozen stem, whose time counts for everyone.
"""

import ctypes
import gc
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch

from edgecc.bench import figures
from edgecc.bench.data import FASHION_FOLDER
from edgecc.bench.learning.baselines import EndToEnd, LastLayer, MicroBatched
from edgecc.bench.streams import Stream, split
from edgecc.host.memory import peak_memory, resident_memory
from edgecc.learn import backends
from edgecc.learn.backends import Backend
from edgecc.learn.network import Network
from edgecc.plan.plan import BlockSize, Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.training.dataset import Maps, Rows
from edgecc.training.recipe import Recipe, methods_on

# The stem's 5x5 filters make 32 channels of 14x14: the first block. These are the second and third.
PLAN = Plan(16, 3, (BlockSize(64, 3, 2, 2), BlockSize(128, 3, 1, 3)), 64, 64, {})
TINY = replace(PLAN, blocks=(BlockSize(4, 3, 2, 2), BlockSize(8, 3, 1, 3)), batch=8)
EPOCH = 60_000  # draws
ROUNDS = 5
_STEPS = 60
_ALIKE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
          "MALLOC_ARENA_MAX": "1"}  # as the learner
_RATE = 1e-3
_PRODUCT = 1024  # sides of the matrices whose product is the hardware's limit
OURS = "contextual"

CONTENDERS: dict[str, tuple[type[Network], Backend]] = {  # what trains the blocks, and on what
    "contextual": (Network, "torch"),  # every block by its own local update, in one sweep
    "on numpy": (Network, "numpy"),
    "backpropagation": (EndToEnd, "torch"),
    "micro-batches": (MicroBatched, "torch"),
    "last layer": (LastLayer, "torch"),
}

Row = dict[str, float]  # figures of one contender by name


def run(*, quick: bool, json_path: Path | None) -> None:
    """Print the table; `quick` takes a few steps of the first three, once."""
    os.environ.update(_ALIKE)
    rounds, steps, names = (1, 3, list(CONTENDERS)[:3]) if quick else (
        ROUNDS, _STEPS, list(CONTENDERS))
    results = [{name: _alone(name, steps) for name in names} for _ in range(rounds)]
    table = {name: _middle([one[name] for one in results]) for name in names}
    ratios = {
        "train_time_ratio": _ratio(results, "epoch_seconds", "backpropagation", "epoch_seconds"),
        "train_memory_ratio": _ratio(results, "peak_bytes", "backpropagation", "peak_bytes"),
        "peak_fraction": _ratio(results, "blocks_gflops", OURS, "product_gflops"),
    }
    _show(table, ratios)
    if json_path is not None:
        figures.write(json_path, "train", ratios | {
            "contenders": table, "rounds": rounds, "plan": PLAN.describe()})


def _alone(contender: str, steps: int) -> Row:
    """Measured in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, contender, steps).result()


def _middle(rounds: Sequence[Row]) -> Row:
    return {name: median(one[name] for one in rounds) for name in rounds[0]}


def _ratio(rounds: Sequence[Mapping[str, Row]], figure: str, other: str, over: str) -> float:
    """Ours to another contender's, within each round."""
    return median(one[OURS][figure] / one[other][over] for one in rounds)


def _show(table: Mapping[str, Row], ratios: Row) -> None:
    click.echo(f"{'':16} {'s an epoch':>10} {'of it stem':>10} {'peak MiB':>9} "
               f"{'block 2':>8} {'block 3':>8} {'product':>8}  GFLOP/s")
    for name, one in table.items():
        speeds = [one.get(key) for key in ("block2_gflops", "block3_gflops", "product_gflops")]
        click.echo(f"{name:16} {one['epoch_seconds']:>10.1f} {one['stem_seconds']:>10.1f} "
                   f"{one['peak_bytes'] / 2**20:>9.1f} "
                   + " ".join(f"{speed:>8.1f}" for speed in speeds if speed is not None))
    for name, value in ratios.items():
        click.echo(f"{name}: {value:.2f}")


# --- in a process of its own ---


def measured(contender: str, steps: int) -> Row:
    """Seconds of an epoch, of its stem's features, and the bytes that training takes."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    stream = _pictures()
    list(_steps(contender, TINY, stream, 2))
    before = _settled()
    taken = list(_steps(contender, PLAN, stream, steps))
    costs = {
        "peak_bytes": float(peak_memory() - before),
        "stem_seconds": median(stem for stem, _ in taken) * EPOCH / PLAN.batch,
        "epoch_seconds": median(stem + step for stem, step in taken) * EPOCH / PLAN.batch,
    }
    return costs | (
        _speed(contender, stream, steps) if CONTENDERS[contender][0] is Network else {})


def _pictures() -> Stream:
    """A few pictures: each costs the same."""
    return split("fashion" if FASHION_FOLDER.exists() else "digits", seed=0, limit=2000)


def _settled() -> int:
    """Resident bytes after free memory went back to the kernel; its peak counts from here."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_memory()


def _steps(
    contender: str, plan: Plan, stream: Stream, count: int
) -> Iterator[tuple[float, float]]:
    """Seconds of the stem's features and of the update, step by step."""
    network, batches = _made(contender, plan, stream)
    for _ in range(count):
        start = time.process_time()
        batch = list(next(batches))
        middle = time.process_time()
        network.sweep(batch.pop(0), batch.pop(), rate=_RATE)  # which may free them
        yield middle - start, time.process_time() - middle


def _made(contender: str, plan: Plan, stream: Stream) -> tuple[Network, Iterator[tuple[Any, Any]]]:
    """The contender's network, untrained, and batches for it."""
    kind, backend = CONTENDERS[contender]
    plan = replace(plan, backend=backend)
    rows = Rows(
        read=stream.images.__getitem__, classes=[str(k) for k in range(10)],
        targets=stream.targets, held=np.zeros(len(stream), bool), weights=np.ones(10))
    maps = Maps(stem_trunk(plan, Input("image", tuple(stream.images.shape[1:])), 0), rows)
    draws, xp = np.random.default_rng(0), backends.named(plan.backend).namespace

    def batches() -> Iterator[tuple[Any, Any]]:
        while True:
            batch = draws.integers(0, len(stream), plan.batch)
            yield xp.asarray(maps.batch(batch)), xp.asarray(stream.targets[batch])

    return kind(list(methods_on(maps, plan, Recipe(), 10, draws))), batches()


def _speed(contender: str, stream: Stream, steps: int) -> Row:
    """Arithmetic a second of the convolutions of a step, block by block on inputs at hand, and of
    a product of two large matrices."""
    network, batches = _made(contender, PLAN, stream)
    x, y = next(batches)
    seconds, arithmetic, speeds = 0.0, 0.0, {}
    for number, method in enumerate(network.methods, start=2):
        took = median(_timed(partial(method.step, x, y, rate=_RATE)) for _ in range(steps))
        outputs, *fan_in = method.block.weights[0].shape  # forward, and the weights' gradient
        work = 2 * 2 * outputs * math.prod(fan_in) * x.shape[0] * x.shape[2] * x.shape[3]
        speeds[f"block{number}_gflops"] = work / took / 1e9
        seconds, arithmetic = seconds + took, arithmetic + work
        x = method.block.forward(x).a
    xp = backends.namespace(x)
    square = xp.ones((_PRODUCT, _PRODUCT), dtype=xp.float32)
    product = min(_timed(partial(xp.matmul, square, square)) for _ in range(steps))
    return speeds | {"blocks_gflops": arithmetic / seconds / 1e9,
                    "product_gflops": 2 * _PRODUCT**3 / product / 1e9}


def _timed(do: Callable[[], Any]) -> float:
    start = time.process_time()
    do()
    return time.process_time() - start
