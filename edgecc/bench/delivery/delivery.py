"""What durability costs: a node beside plain paho, on the same broker, in one run.

Rounds alternate; figures are medians, of rounds or of single messages.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from edgecc.bench import figures
from edgecc.bench.data import load
from edgecc.bench.delivery.answers import Answers, settle
from edgecc.bench.delivery.checkpoint_pull import pulled
from edgecc.bench.delivery.listener import Listener, Received
from edgecc.bench.delivery.node import Node, running
from edgecc.bench.delivery.processor_time import processor_time
from edgecc.bench.delivery.sender import SHAPE, SOURCE, Sender
from edgecc.host.memory import peak_memory
from edgecc.mqtt.local_broker import Mosquitto

BUDGET = "512MiB"
RATE = 200.0  # samples a second
TAUGHT = 200  # labelled samples before anything is measured
_AS_SHIPPED = "autosave_on_changes true\nautosave_interval 20"  # of deploy/mosquitto.conf
_MB = 10**6

Figures = dict[str, Any]


@dataclass(frozen=True)
class Size:
    rounds: int = 5
    pulls: int = 15  # of a fiftieth of a second each
    queued: int = 3000  # samples in the queue of each round
    paced: int = 3000  # samples at RATE
    kills: int = 5
    unsaved: int = 500  # labels that no snapshot has when it is killed


def run(*, quick: bool, out: Path, json_path: Path | None) -> None:
    """Print the table; figures and logs are left in `out`."""
    size = Size(rounds=1, pulls=1, queued=300, paced=200, kills=1, unsaved=50) if quick else Size()
    data, values = load(), dict[str, Any](
        rounds=size.rounds, pulls=size.pulls, queued=size.queued, rate=RATE)
    settings: dict[str, Any] = {"budget": BUDGET, "first": 10**6, "mirror": "false", "shape": SHAPE}
    with running(out / "delivery", **settings) as node, _listener(node) as listener:
        sender = Sender(node, data)
        values |= _throughput(node, sender, listener, size)
        values |= processor_time(node, sender, listener, rounds=size.rounds, queued=size.queued)
        values |= _latency(sender, listener, size)
        values |= _recovery(node, sender, listener, size)
        values |= pulled(node, TAUGHT, size.pulls)
        values["daemon_peak_mib"] = peak_memory(node.process.pid) / 2**20
    with running(out / "wear", saving=_AS_SHIPPED, **settings) as node, _listener(node) as listener:
        values |= _wear(Sender(node, data), listener, node, size)
    for path in {out / "delivery.json", json_path or out / "delivery.json"}:
        figures.write(path, "delivery", values)
    _table(values)


def _listener(node: Node) -> Listener:
    topics = node.config.topics
    return Listener(node.work / "heard", node.config.mqtt.port,
                    [topics.out(SOURCE, "receipt"), topics.out(SOURCE, "prediction")],
                    retained=topics / "status")


# --- a queue filled beforehand ---


def _throughput(node: Node, sender: Sender, listener: Listener, size: Size) -> Figures:
    """Samples a second, of which one in ten is labelled; every round fills two queues."""
    _bare(node, 0)
    node.stop()
    _durable(node, listener, sender.send(TAUGHT, label_every=1))
    _bare(node, TAUGHT)
    rates: dict[str, list[float]] = {
        "bare": [], "durable": [], "bare beside": [], "unpredicted": []}
    written = []
    for _ in range(size.rounds):
        for bare, name in (("bare", "durable"), ("bare beside", "unpredicted")):
            node.stop()
            ids = sender.send(size.queued)
            rates[bare].append(len(ids) / _bare(node, len(ids)))
            predicted = name == "durable"
            rates[name].append(len(ids) / _durable(node, listener, ids, predicted=predicted))
            if predicted:
                written.append(_written(node.process.pid) / len(ids) * 1000 / _MB)
        click.echo(", ".join(f"{name} {values[-1]:.0f}" for name, values in rates.items()) + " /s")
    node.stop()
    node.start()
    return {
        "bare_per_s": median(rates["bare"] + rates["bare beside"]),
        "durable_per_s": median(rates["durable"]),
        "durable_unpredicted_per_s": median(rates["unpredicted"]),
        "throughput_ratio": _ratio(rates["durable"], rates["bare"]),
        "throughput_ratio_unpredicted": _ratio(rates["unpredicted"], rates["bare beside"]),
        "throughput_rounds": rates, "written_mb_per_1000_queued": median(written),
    }


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def _bare(node: Node, count: int) -> float:
    """Seconds from connect to the last of `count` messages in a paho client's queue."""
    done = subprocess.run(
        [sys.executable, "-m", "edgecc.bench.delivery.plain_paho", "receive",
         str(node.config.mqtt.port), "bare", node.config.topics.sample(SOURCE), str(count)],
        stdout=subprocess.PIPE, check=True)
    connected, last = done.stdout.split()
    return float(last) - float(connected)


def _durable(node: Node, listener: Listener, ids: list[str], *, predicted: bool = True) -> float:
    """Seconds from the daemon's connect to the last receipt and the last prediction."""
    listener.forget()
    answers = Answers(ids, predicted=predicted)
    node.start(EDGECC_PREDICT=json.dumps(predicted))
    last = listener.until(answers.complete, lambda: f"{answers}")
    return last.at - node.connected_at


# --- a steady stream ---


def _latency(sender: Sender, listener: Listener, size: Size) -> Figures:
    """Milliseconds from publishing a sample to its receipt and to its prediction."""
    listener.forget()
    receipts, predictions = _paced(sender, listener, size)
    return {
        "receipt_p50_ms": _quantile(receipts, 0.5), "receipt_p99_ms": _quantile(receipts, 0.99),
        "prediction_p50_ms": _quantile(predictions, 0.5),
        "prediction_p99_ms": _quantile(predictions, 0.99), "paced": size.paced,
    }


def _paced(sender: Sender, listener: Listener, size: Size) -> tuple[list[float], list[float]]:
    """Seconds until each receipt and each prediction of a stream at RATE."""
    ids = sender.send(size.paced, rate=RATE)
    answers, receipts, predictions = Answers(ids), list[float](), list[float]()

    def complete(message: Received) -> bool:
        if message.topic.endswith("/prediction"):
            predictions.append(message.at - sender.sent[message.json["sample_id"]])
        else:
            receipts.extend(message.at - sender.sent[entry["id"]] for entry in message.json)
        return answers.complete(message)

    listener.until(complete, lambda: f"{answers}")
    return receipts, predictions


def _quantile(seconds: list[float], share: float) -> float:
    return float(np.quantile(seconds, share) * 1000)


def _recovery(node: Node, sender: Sender, listener: Listener, size: Size) -> Figures:
    """Seconds from a SIGKILL, the daemon started again at once, to the first prediction."""
    seconds = []
    for _ in range(size.kills):
        settle(sender, listener, size.unsaved, label_every=1)
        node.kill()
        killed = time.time()
        node.launch()
        sender.send(1)
        first = listener.until(
            lambda message: message.topic.endswith("/prediction"),
            lambda: "a prediction after a kill")
        seconds.append(first.at - killed)
    return {"recovery_s": median(seconds), "recoveries_s": seconds, "unsaved": size.unsaved}


def _wear(sender: Sender, listener: Listener, node: Node, size: Size) -> Figures:
    """MB written for 1,000 samples at RATE, by the daemon and by a broker as it is shipped."""
    settle(sender, listener, TAUGHT, label_every=1)
    assert isinstance(node.broker, Mosquitto)  # as there is a mosquitto_sub
    writers = {
        "written_mb_per_1000": node.process.pid, "broker_written_mb_per_1000": node.broker.pid}
    before = {name: _written(pid) for name, pid in writers.items()}
    _paced(sender, listener, size)
    return {name: (_written(pid) - before[name]) / size.paced * 1000 / _MB
            for name, pid in writers.items()}


def _written(pid: int) -> int:
    """Bytes that a process has had written to disk."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def _table(values: Figures) -> None:
    """Every line names what it is measured against."""
    rounds = f"median of {values['rounds']} rounds"
    lines = [
        ("plain paho, QoS 1, keeps nothing", f"{values['bare_per_s']:.0f} msg/s",
         f"{values['queued']} samples of 3 KB in its queue; {rounds}"),
        ("durable, with predictions and receipts", f"{values['durable_per_s']:.0f} msg/s",
         f"{values['throughput_ratio']:.2f} of plain paho"),
        ("durable, predict: false", f"{values['durable_unpredicted_per_s']:.0f} msg/s",
         f"{values['throughput_ratio_unpredicted']:.2f} of plain paho"),
        ("daemon's processor time a sample", f"{values['daemon_us_per_sample']:.0f} µs",
         f"with predictions, {values['queued']} samples queued while it was stopped; {rounds}"),
        ("publish to receipt, p50 / p99",
         f"{values['receipt_p50_ms']:.1f} / {values['receipt_p99_ms']:.1f} ms",
         f"{values['paced']} samples at {values['rate']:.0f} a second"),
        ("publish to prediction, p50 / p99",
         f"{values['prediction_p50_ms']:.1f} / {values['prediction_p99_ms']:.1f} ms", "the same"),
        ("checkpoint pull", f"{values['pull_mb_per_s']:.1f} MB/s",
         f"{values['pull_ratio']:.2f} of the same {values['pulled_mb']:.1f} MB from a plain paho "
         f"publisher to a plain paho subscriber; median of {values['pulls']}"),
        ("… until its last chunk is checked", f"{values['delivered_mb_per_s']:.1f} MB/s",
         f"{values['delivered_ratio']:.2f} of the same; the rest checks what the sums hold"),
        ("SIGKILL to the first prediction", f"{values['recovery_s']:.2f} s",
         f"median of {len(values['recoveries_s'])}, {values['unsaved']} labels in no snapshot"),
        ("written for 1,000 samples, daemon", f"{values['written_mb_per_1000']:.1f} MB",
         f"at {values['rate']:.0f} a second; {values['written_mb_per_1000_queued']:.1f} MB from a "
         "full queue; 3.1 MB arrive"),
        ("written for 1,000 samples, mosquitto", f"{values['broker_written_mb_per_1000']:.1f} MB",
         "at the same rate, saving as in deploy/mosquitto.conf"),
        ("daemon's peak memory", f"{values['daemon_peak_mib']:.0f} MiB", f"of {BUDGET}"),
    ]
    for name, value, beside in lines:
        click.echo(f"{name:40} {value:>16}   {beside}")
