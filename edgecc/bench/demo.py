"""`edgecc demo`: broker, daemon, stream, learning and retrieval, once, on real data, measured.

All of it as a user would do it: by commands and over MQTT.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgecc.bench import figures, plot
from edgecc.bench.data import Data, load
from edgecc.bench.delivery.node import Node, running
from edgecc.bench.device import probe
from edgecc.config.units import format_size
from edgecc.host.memory import peak_memory
from edgecc.mqtt.client import Client
from edgecc.serving.load import live

MIB = 2**20
BUDGET = "512MiB"
PER_PAIR = 4000  # training samples of each pair of classes
PROBES = 25  # labels timed while a block trains, and as many while none does
HELD_OUT = 1000  # test samples whose predictions are collected over MQTT


def run(out: Path, json_path: Path | None, count: int | None) -> None:
    """The whole demo; figures and plot are left in `out`."""
    started = time.monotonic()
    data = load()
    per_pair = PER_PAIR if count is None else count // 5
    per_pair = min([per_pair, *(len(part) for part in data.pairs)])
    out.mkdir(parents=True, exist_ok=True)
    first = max(200, per_pair * 5 // 8)
    clothes = "true" if data.name == "Fashion-MNIST" else "false"
    with running(
        out / "work", budget=BUDGET, first=first, mirror=clothes, shape=list(data.shape)
    ) as node:
        click.echo(f"daemon ready in {node.ready:.2f} s; {data.name}, {per_pair * 5} pictures")
        results: dict[str, Any] = {"ready_s": node.ready}
        matrix = []
        for number, pair in enumerate(data.pairs):
            _stream(node, data, pair[:per_pair])
            if number == len(data.pairs) - 1:  # the last growth has just begun
                results |= _counts(node, data)
                results |= _label_probes(node, data)
            node.idle(labels=per_pair * (number + 1))
            matrix.append(_evaluate(node, data))
            click.echo(_row(number, matrix[-1], data))
        results |= _accuracy_figures(np.array(matrix))
        results |= _retrieval(node, data)
        results |= _memory(node)
    results["control_accuracy"] = _control(node, data, results["generation"])
    results["seconds"] = time.monotonic() - started
    plot.demo(out / "demo.png", node.config, np.array(matrix), data.groups, node.events, per_pair)
    for path in {out / "figures.json", json_path or out / "figures.json"}:
        figures.write(path, "demo", results)
    _table(results, np.array(matrix), data, out)


def _stream(node: Node, data: Data, chosen: NDArray[np.int64]) -> None:
    """`edgecc stream -` of the chosen training samples, as JSON lines."""
    lines = b"".join(data.json_line(int(index)) for index in chosen)
    done = node.command(
        "stream", "-", "--json", "--source", "train", "--limit", str(len(chosen)), input=lines
    )
    counts: dict[str, int] = json.loads(done.stdout)
    data.streamed["sent"] += counts["sent"]
    data.streamed["receipted"] += sum(
        counts.get(status, 0) for status in ("stored", "duplicate", "rejected")
    )


def _evaluate(node: Node, data: Data) -> list[float]:
    """Accuracy on each pair's test images of what serves now, classes not yet seen included."""
    predict = live(node.config).predict
    named = [predict(x)[0] for x in data.test_images]
    right = np.array(named) == np.array(data.test_labels)
    return [float(right[group].mean()) for group in data.test_groups]


def _accuracy_figures(matrix: NDArray[np.float64]) -> dict[str, Any]:
    """Final accuracy, per pair, forgetting and the average, of R[i][j]: pair j once i is learnt."""
    last = len(matrix) - 1
    best = matrix[:-1, :-1].max(axis=0) if last else matrix[0, :0]
    seen = [matrix[i, : i + 1].mean() for i in range(last + 1)]
    return {
        "heldout_accuracy": float(matrix[last].mean()),
        "group_accuracy": [float(value) for value in matrix[last]],
        "forgetting": float((best - matrix[last, :-1]).mean()) if last else 0.0,
        "average_incremental": float(np.mean(seen)),
    }


def _counts(node: Node, data: Data) -> dict[str, Any]:
    """How many samples were sent, and what became of them, as the node counts."""
    sent = data.streamed["sent"]
    health = node.health()
    while health["log"]["samples"] < sent or health["acked"] < sent:
        health = node.health()
    past = health["prequential"]
    return {
        "sent": sent, "stored": health["log"]["samples"], "acked": health["acked"],
        "receipted": data.streamed["receipted"],
        "prequential_accuracy": past["cumulative"], "prequential_window": past["window"],
        "classes": len(health["classes"]),
    }


def _label_probes(node: Node, data: Data) -> dict[str, Any]:
    """Seconds from a label to the first prediction it changes: while a block trains, and idle."""
    spare = iter(data.spare)
    with Client(node.config) as client:
        asking = probe.Probe(client, node.config, data)
        training = asking.while_training(spare, PROBES)
        node.idle(labels=0)
        idle = [asking.label_to_prediction(next(spare)) for _ in range(PROBES)]
    for times, when in ((training, "while a block trains"), (idle, "while no learner runs")):
        if times:
            click.echo(f"label to changed prediction {when}: p95 {np.quantile(times, 0.95):.3f} s "
                       f"of {len(times)}")
    return {
        "label_to_prediction_p95_s": float(np.quantile([*training, *idle], 0.95)),
        "labels_while_training": len(training), "labels_while_idle": len(idle),
    }


def _retrieval(node: Node, data: Data) -> dict[str, Any]:
    """Ask the daemon over MQTT; pull its checkpoint to another folder, and ask that."""
    saved = json.loads(node.command("checkpoint", "save").stdout)
    with Client(node.config) as client:
        asking = probe.Probe(client, node.config, data)
        asking.await_generation(saved["generation"])
        named, seconds = asking.predictions(data.test_images[:HELD_OUT])
    elsewhere = node.work / "elsewhere"
    elsewhere.mkdir()
    np.save(elsewhere / "held-out.npy", data.test_images[:HELD_OUT])
    here = dict(
        os.environ, EDGECC_NODE="bench", EDGECC_MQTT__HOST="127.0.0.1",
        EDGECC_MQTT__PORT=str(node.config.mqtt.port),
    )
    pulled = _elsewhere(elsewhere, here, "checkpoint", "pull", "--json")
    about = json.loads(pulled)
    lines = _elsewhere(
        elsewhere, here, "predict", "--checkpoint", about["folder"], "--json", "held-out.npy"
    )
    theirs = [json.loads(line)["label"] for line in lines.splitlines()]
    return {
        "generation": saved["generation"],
        "pulled_agreement": float(np.mean(np.array(theirs) == np.array(named))),
        "pulled_samples": len(theirs), "checkpoint_bytes": about["bytes"],
        "blocks": len(about["blocks"]) - 1,
        "mqtt_heldout_accuracy": float(
            np.mean(np.array(named) == np.array(data.test_labels[:HELD_OUT]))
        ),
        "prediction_p50_ms": float(np.quantile(seconds, 0.5) * 1000),
        "prediction_p95_ms": float(np.quantile(seconds, 0.95) * 1000),
    }


def _elsewhere(folder: Path, environ: dict[str, str], *arguments: str) -> bytes:
    return subprocess.run(
        [sys.executable, "-m", "edgecc", *arguments],
        cwd=folder, env=environ, check=True, stdout=subprocess.PIPE,
    ).stdout


def _memory(node: Node) -> dict[str, Any]:
    """Sum of VmHWM of the daemon and of the learner's largest life."""
    daemon = peak_memory(node.process.pid)
    learner = node.health()["memory"]["learner_peak"]
    return {
        "peak_memory_mib": (daemon + learner) / MIB, "daemon_peak_mib": daemon / MIB,
        "learner_peak_mib": learner / MIB,
    }


def _control(node: Node, data: Data, number: int) -> float:
    from edgecc.bench.learning.untrained_control import random_frozen

    click.echo("random frozen blocks, three seeds: ", nl=False)
    best = random_frozen(
        node.config, number, data.test_images, data.test_labels,
        report=lambda accuracy: click.echo(f"{accuracy:.4f} ", nl=False),
    )
    click.echo()
    return best


def _row(number: int, row: list[float], data: Data) -> str:
    seen = ", ".join(
        f"{' '.join(group)} {accuracy:.3f}"
        for group, accuracy in zip(data.groups[: number + 1], row, strict=False)
    )
    return f"after pair {number + 1}: {seen}"


def _table(results: dict[str, Any], matrix: NDArray[np.float64], data: Data, out: Path) -> None:
    click.echo()
    for group, accuracy in zip(data.groups, matrix[-1], strict=True):
        click.echo(f"  {' '.join(group):24} {accuracy:.4f}")
    shown = {
        "accuracy on all test images": f"{results['heldout_accuracy']:.4f}",
        "control, random frozen blocks": f"{results['control_accuracy']:.4f}",
        "forgetting": f"{results['forgetting']:.4f}",
        "prequential accuracy": f"{results['prequential_accuracy']:.4f}",
        "sent / stored / acked / receipted": " / ".join(
            str(results[name]) for name in ("sent", "stored", "acked", "receipted")),
        "peak memory, daemon + learner": f"{results['peak_memory_mib']:.0f} MiB of {BUDGET}",
        "prediction over MQTT, p50 / p95": f"{results['prediction_p50_ms']:.1f} / "
                                           f"{results['prediction_p95_ms']:.1f} ms",
        "label to changed prediction, p95": f"{results['label_to_prediction_p95_s']:.2f} s",
        "pulled checkpoint agrees": f"{results['pulled_agreement']:.4f} of "
                                    f"{results['pulled_samples']}",
        "checkpoint": f"{results['blocks']} blocks, {format_size(results['checkpoint_bytes'])}",
    }
    for name, value in shown.items():
        click.echo(f"{name:34} {value}")
    click.echo(f"{results['seconds']:.0f} s; figures and plot in {out}/")
