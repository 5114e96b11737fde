"""How long a user waits, and whether that stays so: trunk, way over MQTT, age and classes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import BinaryIO

import click
import numpy as np

from edgecc.bench import figures, plot
from edgecc.bench.device import scaling as ageing
from edgecc.bench.device import trunks
from edgecc.bench.device.aged_node import Past
from edgecc.bench.device.round_trip import ECHO_IN, ECHO_OUT
from edgecc.bench.device.scaling import Aged, Size, aged
from edgecc.bench.figures import Figures
from edgecc.bench.streams import split

_STORED = 4000  # samples of the node that is compared with an echo
_SYNCED = 16 * 1024  # bytes that a sample committed by itself writes



def run(*, quick: bool, out: Path, json_path: Path | None) -> None:
    """Print the table; figures, the plot and logs are left in `out`."""
    size = ageing.QUICK if quick else Size()
    measured = trunks.measured(quick=quick)
    measured |= _overhead(out / "latency", size)
    measured["by_samples"] = ageing.by_samples(out / "latency", size)
    measured["by_classes"] = ageing.by_classes(out / "latency", size)
    measured["classes_ratio"] = measured["by_classes"][-1]["ratio"]["prediction"]
    oldest = measured["by_samples"][-1]["ratio"]
    measured["log_ratio"] = max(oldest["prediction"], oldest["label"])
    figures.save("latency", measured, out=out, json_path=json_path)
    plot.costs(out / "costs.png", measured["by_samples"], measured["by_classes"])
    _table(measured)


def _overhead(out: Path, size: Size) -> Figures:
    """Milliseconds of a prediction beside those of an echo by a bare paho client, same broker."""
    stream = split("fashion", seed=0).mixed(seed=0)
    stored = min(_STORED, size.pictures)
    past = Past(stream.images[:stored], [str(target) for target in stream.targets[:stored]])
    with aged(out / "beside-echo", past, stored) as one, _echo(one.node.config.mqtt.port):
        rounds = [_asked(one, size.asks) for _ in range(size.rounds + 1)][1:]  # the first warms up
    predictions, echoes, syncs = (np.array(kind) * 1000 for kind in zip(*rounds, strict=True))
    return {
        "sync_p50_ms": float(np.median(syncs)),
        "prediction_p50_ms": float(np.median(predictions)), "echo_p50_ms": float(np.median(echoes)),
        "prediction_p99_ms": float(np.quantile(predictions, 0.99)),
        "echo_p99_ms": float(np.quantile(echoes, 0.99)),
        "prediction_overhead_ms": median(
            float(np.median(ours) - np.median(theirs))
            for ours, theirs in zip(predictions, echoes, strict=True)),
    }


def _asked(one: Aged, count: int) -> Iterator[tuple[float, ...]]:
    """Seconds of so many predictions, of as many echoes, and of as many writes to the node's disk,
    in turn."""
    with (one.node.work / "synced").open("wb") as file:
        taken = [(one.asker.ask().prediction, one.asker.echo(), _synced(file))
                 for _ in range(count)]
    return zip(*taken, strict=True)


def _synced(file: BinaryIO) -> float:
    """Until a write of a sample's size would survive a power cut."""
    started = perf_counter()
    file.write(bytes(_SYNCED))
    file.flush()
    os.fdatasync(file.fileno())
    return perf_counter() - started


@contextmanager
def _echo(port: int) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgecc.bench.delivery.plain_paho", "echo", str(port),
         ECHO_IN, ECHO_OUT],
        stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()  # it listens
        yield
    finally:
        process.kill()
        process.communicate()


def _table(measured: Figures) -> None:
    """Every line names what it is measured against."""
    us, first, last = measured["trunk_us"], measured["by_samples"][0], measured["by_samples"][-1]
    few, many = measured["by_classes"][0], measured["by_classes"][-1]
    lines = [
        ("trunk, int8 on LiteRT", f"{us['int8']:.0f} µs",
         f"torch eager {us['torch']:.0f} µs: {measured['trunk_speedup']:.1f} times as fast"),
        ("trunk, float32 on LiteRT", f"{us['float32']:.0f} µs",
         f"{measured['trunk_speedup_float32']:.1f} times as fast as torch eager"),
        ("", "", f"int8 beside torch.jit, frozen: {measured['trunk_speedup_jit']:.1f} times; "
         f"beside channels-last: {measured['trunk_speedup_channels_last']:.1f} times"),
        ("lost by int8", f"{measured['int8_loss']:.2f} points",
         f"± {measured['int8_loss_error']:.2f}; {measured['float32_accuracy']:.4f} in float32, "
         f"{measured['tests']} test pictures"),
        ("MQTT in to prediction out, p50", f"{measured['prediction_p50_ms']:.2f} ms",
         f"{measured['prediction_overhead_ms']:.2f} ms above an echo by plain paho; a write that "
         f"survives a power cut takes {measured['sync_p50_ms']:.2f}"),
    ]
    for what, unit in (("prediction", "ms"), ("label", "ms"), ("store", "ms"), ("recovery", "s")):
        key = f"{what}_{unit}"
        lines.append((
            f"{what}, {last['samples']} samples stored", f"{last[key]:.2f} {unit}",
            f"{last['ratio'][what]:.2f} times as long as with {first['samples']}"))
        lines.append((
            f"{what}, {many['classes']} classes", f"{many[key]:.2f} {unit}",
            f"{many['ratio'][what]:.2f} times as long as with {few['classes']}"))
    for line in lines:
        click.echo("  ".join((f"{line[0]:44}", f"{line[1]:>12}", line[2])))
