"""What the plan says of memory, and what the kernel counts: one stream under several budgets.

The whole of a node's life under each: pictures arrive over MQTT and blocks grow, which is when
accuracy is measured; then it gets all that the plan has room for: classes, with one more growth on
them, heavy messages all at once, and the largest picture. Threads are pinned to one.
"""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgecc.bench import figures
from edgecc.bench.data import Data, load
from edgecc.bench.delivery.node import Node, running
from edgecc.bench.device.memory_meter import Group, Tally
from edgecc.bench.figures import Figures
from edgecc.bench.learning.untrained_control import random_frozen
from edgecc.capture.dataset import npy_bytes
from edgecc.errors import BudgetError, EdgeccError
from edgecc.host.memory import children, proportional_memory
from edgecc.plan.budget import planned
from edgecc.plan.costs import MIB
from edgecc.plan.plan import Allowed, Plan, most_classes
from edgecc.protocol.sample import Input
from edgecc.serving.load import live

BUDGETS = (1024, 512, 384, 320, 256, 224, 192, 180, 160, 128)  # MiB
TORCH_ALONE = (320,)  # MiB
IDLE_AT = 384  # MiB
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}



@dataclass(frozen=True)
class Size:
    budgets: tuple[int, ...] = BUDGETS
    torch_alone: tuple[int, ...] = TORCH_ALONE
    samples: int = 12_000
    tests: int = 10_000
    calm: float = 25.0  # seconds without a learner before the daemon is idle; see upkeep._RELEASE


def run(
    *, quick: bool, out: Path, json_path: Path | None, budgets: tuple[int, ...] = (),
    torch_alone: tuple[int, ...] = ()
) -> None:
    """Print the table; figures and logs are left in `out`."""
    size = Size((192,), (), samples=120, tests=100, calm=1.0) if quick else Size()
    if budgets or torch_alone:
        size = replace(size, budgets=budgets, torch_alone=torch_alone)
    data, rounds = load(), list[Figures]()
    under: list[tuple[int, Allowed]] = [(budget, "auto") for budget in size.budgets]
    for budget, backend in under + [(budget, "torch") for budget in size.torch_alone]:
        try:
            rounds.append(_round(budget, backend, data, size, out / "memory"))
            click.echo("\n".join(_lines(rounds[-1])))
        except BudgetError as error:
            click.echo(f"{budget} MiB: {error}")
    summary = _summary(rounds)
    figures.save("memory", summary | {"budgets": rounds}, out=out, json_path=json_path)
    _table(rounds, summary)


# --- under one budget ---


def _round(budget: int, backend: Allowed, data: Data, size: Size, work: Path) -> Figures:
    """What was planned, what the kernel counted, and how well it then predicts."""
    group = Group(f"edgecc-bench-{os.getpid()}")
    settings: Figures = {
        "budget": f"{budget}MiB", "first": size.samples // 4, "shape": list(data.shape),
        "backend": backend,
        "mirror": "true" if data.name == "Fashion-MNIST" else "false",
    }
    environ = _ONE_THREAD | {"EDGECC_GROW__IDLE_EXIT": "2"}
    try:
        with running(work, within=group.within, environ=environ, **settings) as node:
            plan, _ = planned(node.config)
            with Tally(node.process.pid, group) as tally:
                fresh = _idle(node, size)
                extra = _extra(plan, node.config.input, size)
                number = _teach(node, data, size.samples - len(extra))
                accuracy = _accuracy(node, data, size.tests)
                control = _control(node, data, size.tests, number)
                _fill(node, data, extra, size)
                idle = _idle(node, size)
                health = node.health()
            tally.learner = max(tally.learner, health["memory"]["learner_peak"])
    finally:
        group.close()
    trained = [event["data"] for event in node.events if event["type"] == "verdict"]
    return {
        "budget": budget, "plan_mib": plan.total / MIB, "plan": plan.describe(),
        "backend": plan.backend, "alone": backend != "auto", "where": plan.where,
        "peak_mib": tally.peak / MIB, "daemon_mib": tally.daemon / MIB,
        "learner_mib": tally.learner / MIB, "pss_mib": tally.proportional / MIB,
        "cgroup_mib": tally.resident / MIB if group.folder else None, "fresh_mib": fresh / MIB,
        "idle_mib": idle / MIB, "planned_daemon_mib": _planned(plan, "daemon"),
        "planned_learner_mib": _planned(plan, "learner"),
        "plan_error": abs(plan.total - tally.peak) / tally.peak, "verdicts": len(trained),
        "memory_deaths": sum(event["type"] == "learner-memory" for event in node.events),
        "blocks": max((v["block"] for v in trained if v["accepted"]), default=0),
        "accuracy": accuracy, "control_accuracy": control,
    }


def _planned(plan: Plan, process: str) -> float:
    return sum(size for use, size in plan.where.items() if use.startswith(process)) / MIB


def _extra(plan: Plan, spec: Input, size: Size) -> list[str]:
    """Labels, each twice, that use up the classes the plan has room for."""
    count = min(most_classes(plan, spec) - 10, size.samples // 8)
    return [f"another {n}" for n in range(count)] * 2


def _teach(node: Node, data: Data, samples: int) -> int:
    """A mixed stream of labelled pictures, and growths; the number of what then serves."""
    each = samples // len(data.pairs)
    chosen = np.concatenate([*(pair[:each] for pair in data.pairs), data.pairs[0][each:]])[:samples]
    order = np.random.default_rng(0).permutation(chosen)
    lines = b"".join(data.json_line(int(position)) for position in order)
    node.command("stream", "-", "--source", "train", input=lines)
    return int(node.idle(labels=samples)["generation"])


def _fill(node: Node, data: Data, extra: list[str], size: Size) -> None:
    """Noise of many classes, up to the label of one more growth; then pictures of every weight."""
    generator, topic = np.random.default_rng(1), node.config.topics.sample("extra")
    for n, label in enumerate(extra):
        noise = generator.integers(0, 256, data.shape, np.uint8)
        node.client.publish(topic, npy_bytes(noise), ContentType="application/x-npy",
                            UserProperty=[("id", f"extra-{n}"), ("label", label)])
        node.client.wait(0.0)
    node.idle(labels=size.samples)
    pictures = node.work / "pictures" / "any"
    pictures.mkdir(parents=True)
    for n in range(128):
        noise = generator.integers(0, 256, (120, 180, 3), np.uint8)
        (pictures / f"{n:03}.png").write_bytes(_png(Image.fromarray(noise)))
    (pictures / "largest.png").write_bytes(_largest(node.config.input.max_pixels))
    node.command("stream", "--unlabelled", "--source", "camera", str(pictures.parent))


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _largest(pixels: int) -> bytes:
    """The largest picture allowed, grey of 16 bits: decoding no other kind takes as much."""
    width = int(np.sqrt(pixels * 4 / 3))
    return _png(Image.new("I;16", (width, pixels // width), 9_000))


def _idle(node: Node, size: Size) -> int:
    """Pss of the daemon once it has been without a learner for a while."""
    deadline = time.monotonic() + 60.0
    while children(node.process.pid):
        if time.monotonic() > deadline:
            raise EdgeccError(f"the idle learner does not exit; see {node.work}/daemon.log")
        node.client.wait(0.5)
    calm = time.monotonic() + size.calm
    while (left := calm - time.monotonic()) > 0:
        node.client.wait(left)
    return proportional_memory(node.process.pid)


def _accuracy(node: Node, data: Data, tests: int) -> float:
    predict = live(node.config).predict
    named = [predict(x)[0] for x in _tests(data, tests)]
    return float(np.mean(np.array(named) == np.array(data.test_labels[:tests])))


def _control(node: Node, data: Data, tests: int, number: int) -> float | None:
    """The best of three networks that were never trained; None where no block serves."""
    if not live(node.config).predictor.generation.manifest.blocks[1:]:
        return None
    return random_frozen(node.config, number, _tests(data, tests), data.test_labels[:tests],
                         report=lambda _: None)


def _tests(data: Data, count: int) -> NDArray[np.uint8]:
    return data.test_images[:count]


# --- all of them ---


def _summary(rounds: list[Figures]) -> Figures:
    at = {one["budget"]: one for one in rounds if not one["alone"]}
    trained = [one for one in rounds if one["verdicts"] and one["peak_mib"] <= one["budget"]]
    return {
        "peak_mib_at_384": at[IDLE_AT]["peak_mib"] if IDLE_AT in at else None,
        "smallest_budget_mib": min((one["budget"] for one in trained), default=None),
        "torch_alone_mib": min((one["budget"] for one in trained if one["alone"]), default=None),
        "plan_error": max((one["plan_error"] for one in rounds), default=None),
        "idle_mib": at[IDLE_AT]["idle_mib"] if IDLE_AT in at else None,
    }


def _lines(one: Figures) -> Iterator[str]:
    control = "no block serves" if one["control_accuracy"] is None else (
        f"control {one['control_accuracy']:.4f}")
    widths = ", ".join(str(block["channels"]) for block in one["plan"]["blocks"]) or "none"
    yield (f"{one['budget']} MiB ({one['backend']}, blocks {widths}, batch "
           f"{one['plan']['batch']}): peak {one['peak_mib']:.0f} MiB, planned "
           f"{one['plan_mib']:.0f}, {one['plan_error']:.1%} off; accuracy {one['accuracy']:.4f}, "
           f"{control}")
    for process in ("daemon", "learner"):
        yield (f"  {process}: peak {one[f'{process}_mib']:.1f} MiB, planned "
               f"{one[f'planned_{process}_mib']:.1f}")
    yield f"  idle: {one['fresh_mib']:.1f} MiB after its start, {one['idle_mib']:.1f} in the end"


def _table(rounds: list[Figures], summary: Figures) -> None:
    click.echo(f"{'budget':>8}{'plan':>8}{'peak':>8}{'Pss':>8}{'cgroup':>8}{'off':>8}"
               f"{'trained':>9}{'accuracy':>10}{'control':>9}")
    for one in rounds:
        click.echo("".join(_columns(one)))
    for name, value in summary.items():
        click.echo(f"{name:24} {'-' if value is None else format(value, '.4g')}")


def _columns(one: Figures) -> Iterable[str]:
    yield f"{one['budget']:8}"
    for name in ("plan_mib", "peak_mib", "pss_mib", "cgroup_mib"):
        yield f"{'-':>8}" if one[name] is None else f"{one[name]:8.0f}"
    yield f"{one['plan_error']:8.1%}{'yes' if one['verdicts'] else 'no':>9}{one['accuracy']:10.4f}"
    control = one["control_accuracy"]
    yield f"{'-':>9}" if control is None else f"{control:9.4f}"
