"""What a node's age costs: prediction, label, store and recovery, by stored samples and by classes.

Each older node is asked in turn with a young one, message by message, so that whatever else the
machine does falls on both alike. Their pasts are written at once (aged_node.py).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any, TypeVar

import click
import numpy as np

from edgecc.bench.delivery.node import Node, running
from edgecc.bench.device.aged_node import Past, serve, with_blocks
from edgecc.bench.device.round_trip import Asker, processor_seconds
from edgecc.bench.figures import Figures
from edgecc.bench.streams import split
from edgecc.config.schema import Config
from edgecc.mqtt.client import Client

BUDGET = "512MiB"
BUDGET_OF_CLASSES = "640MiB"  # with room for 1,000 classes, blocks are as wide as without in BUDGET
RATIOS = ("prediction", "store", "label", "known", "burst", "processor", "recovery")
_NEVER = 10**9  # labels: no growth while costs are measured

_SETTLED = 1.0  # seconds after which every label is known

_T = TypeVar("_T")


@dataclass(frozen=True)
class Size:
    samples: tuple[int, ...] = (10**3, 10**4, 10**5, 10**6)
    classes: tuple[int, ...] = (10, 100, 1000)
    pictures: int = 4000  # of the nodes with many classes
    rounds: int = 5
    asks: int = 40  # a round
    known: int = 4
    burst: int = 50  # samples sent at once
    recoveries: int = 3


QUICK = Size((100, 300), (10, 20), pictures=100, rounds=1, asks=4, known=1, recoveries=1)


@dataclass(frozen=True)
class Aged:
    """A node with a past, and a client that asks it."""

    node: Node
    past: Past
    asker: Asker

    def age(self, samples: int) -> None:
        """Store samples until there are `samples`."""
        self.node.stop()
        self.past.write(self.node.config, samples)
        self.node.start()


def by_samples(out: Path, size: Size) -> list[Figures]:
    """Figures for each number of stored samples, small ones (1, 8, 8) of ten classes."""
    stream = split("digits", seed=0).mixed(seed=0)
    past = Past(stream.images, [str(target) for target in stream.targets])
    first, *more = size.samples
    rows: list[Figures] = []
    with aged(out / "old", past, first) as old:
        for samples in more:
            old.age(samples)
            with aged(out / "young", past, first) as young:
                before, after = _beside(young, old, size)
            rows = rows or [before | {"samples": first}]
            rows.append(after | {"samples": samples})
            _say(f"{samples} samples", after)
    return rows


def by_classes(out: Path, size: Size) -> list[Figures]:
    """Figures for each number of classes: pictures (1, 28, 28), their ten classes subdivided."""
    stream = split("fashion", seed=0).mixed(seed=0)
    images, targets = stream.images[: size.pictures], stream.targets[: size.pictures]
    first, *more = size.classes
    rows: list[Figures] = []

    def past(classes: int) -> Past:
        parts = classes // 10
        return Past(images, [f"{target}-{n % parts}" for n, target in enumerate(targets)])

    room = {"classes": max(size.classes), "budget": BUDGET_OF_CLASSES}
    with aged(out / "few", past(first), size.pictures, **room) as few:
        for classes in more:
            with aged(out / "many", past(classes), size.pictures, **room) as many:
                before, after = _beside(few, many, size)
            rows = rows or [before | {"classes": first}]
            rows.append(after | {"classes": classes})
            _say(f"{classes} classes", after)
    return rows


@contextmanager
def aged(work: Path, past: Past, samples: int, **settings: Any) -> Iterator[Aged]:
    """A node that has stored so many samples, and serves all planned blocks, never trained."""
    def live(config: Config) -> None:
        config.state.make()
        past.write(config, samples)
        serve(config, with_blocks(config, samples).number)
        past.write(config, samples)

    settings = dict[str, Any]({"budget": BUDGET, "first": _NEVER, "mirror": "false"}) | settings
    with (running(work, shape=list(past.images.shape[1:]), past=live, **settings) as node,
          Client(node.config) as client):
        yield Aged(node, past, Asker(node, client, past.images, list(past.labels)))


# --- one beside the other ---


def _beside(young: Aged, old: Aged, size: Size) -> tuple[Figures, Figures]:
    """Figures of both nodes; the old one's with its ratios to the young one's."""
    taken = [defaultdict[str, list[float]](list) for _ in range(2)]
    _round((young, old), size)  # both warm up
    for _ in range(size.rounds):
        for figures, one in zip(taken, _round((young, old), size), strict=True):
            for name, values in one.items():
                figures[name].append(median(values))
                figures[f"all {name}"] += values
    for _ in range(size.recoveries):
        for figures, aged in zip(taken, (young, old), strict=True):
            figures["recovery"].append(_recovery(aged))
    before, after = (_figures(aged, figures) for aged, figures in zip(
        (young, old), taken, strict=True))
    ratios = {name: median(b / a for a, b in zip(taken[0][name], taken[1][name], strict=True))
              for name in RATIOS}
    return before, after | {"ratio": ratios}


def _round(pair: tuple[Aged, Aged], size: Size) -> list[dict[str, list[float]]]:
    """Seconds of every operation, on the two nodes in turn."""
    taken = [defaultdict[str, list[float]](list) for _ in pair]
    both = list(zip(taken, pair, strict=True))
    before = [processor_seconds(aged.node.process.pid) for aged in pair]
    for one, aged in _turns(both, size.asks):
        answer = aged.asker.ask()
        one["prediction"].append(answer.prediction)
        one["store"].append(answer.receipt)
    for (one, aged), started in zip(both, before, strict=True):
        spent = processor_seconds(aged.node.process.pid) - started
        one["processor"].append(spent / size.asks)
    for one, aged in _turns(both, size.asks):
        aged.asker.ask()
        one["label"].append(aged.asker.label())
    sleep(_SETTLED)
    for one, aged in _turns(both, size.known):
        one["known"].append(aged.asker.known())
    for one, aged in both:
        one["burst"].append(aged.asker.burst(size.burst) / size.burst)
    return [dict(one) for one in taken]


def _turns(both: Sequence[_T], count: int) -> Iterator[_T]:
    """Each node so many times, taking turns at going first."""
    for number in range(count):
        yield from both if number % 2 else reversed(both)


def _recovery(aged: Aged) -> float:
    """Seconds from the start of a process, after a SIGKILL, to its first prediction."""
    aged.node.kill()
    aged.asker.send()
    started = perf_counter()
    aged.node.launch()
    aged.asker.predicted()
    return perf_counter() - started


def _figures(aged: Aged, taken: dict[str, list[float]]) -> Figures:
    def ms(name: str, share: float) -> float:
        return float(np.quantile(taken[f"all {name}"], share) * 1000)

    log = aged.node.config.state.log
    return {
        "prediction_ms": ms("prediction", 0.5), "prediction_p99_ms": ms("prediction", 0.99),
        "store_ms": ms("store", 0.5), "label_ms": ms("label", 0.5), "known_ms": ms("known", 0.5),
        "burst_ms": ms("burst", 0.5), "processor_ms": ms("processor", 0.5),
        "recovery_s": median(taken["recovery"]), "log_mb": log.stat().st_size / 1e6,
        "daemon_peak_mib": aged.node.health()["memory"]["daemon_peak"] / 2**20,
    }


def _say(what: str, row: Figures) -> None:
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in row["ratio"].items())
    click.echo(f"{what} beside the fewest: {ratios}")
