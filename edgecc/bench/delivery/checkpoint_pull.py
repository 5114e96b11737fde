"""How fast a checkpoint is pulled, beside the same bytes from one plain paho client to another."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from edgecc.bench.delivery.node import Node
from edgecc.bench.device.aged_node import with_blocks
from edgecc.checkpoint import transfer
from edgecc.checkpoint.keyring import Keys
from edgecc.checkpoint.manifest import CHUNK
from edgecc.mqtt.client import Client

_MB = 10**6
_TOPIC = "bare/raw"


def pulled(node: Node, labels: int, rounds: int) -> dict[str, Any]:
    """Pull a checkpoint that has all planned blocks, and `labels` labels in its readout."""
    node.stop()
    offered = with_blocks(node.config, labels)
    node.start()
    size = sum(file.size for file in offered.files.values())
    ours, delivered, raw = [], [], []
    for _ in range(rounds):
        raw.append(size / _MB / _raw_seconds(node.config.mqtt.port, size))
        arrived, done = _pull_seconds(node, offered.number)
        delivered.append(size / _MB / arrived)
        ours.append(size / _MB / done)
    return {
        "pull_mb_per_s": median(ours), "raw_mb_per_s": median(raw), "pulled_mb": size / _MB,
        "pull_ratio": median(a / b for a, b in zip(ours, raw, strict=True)),
        "delivered_mb_per_s": median(delivered),
        "delivered_ratio": median(a / b for a, b in zip(delivered, raw, strict=True)),
    }


def _pull_seconds(node: Node, number: int) -> tuple[float, float]:
    """Seconds until the last chunk is here and checked, and until the packed sums are as well."""
    config, arrived = node.config, 0.0

    def progress(_done: int, _total: int) -> None:
        nonlocal arrived
        arrived = time.perf_counter() - started

    with tempfile.TemporaryDirectory(dir=node.work) as folder, Client(config) as client:
        started = time.perf_counter()
        transfer.pull(
            client, config.topics, number, folder=Path(folder), trusted=Keys(config.state).trusted,
            progress=progress)
        return arrived, time.perf_counter() - started


def _raw_seconds(port: int, size: int) -> float:
    """Seconds from the first publish to the last receive, in messages of a chunk's size."""
    count = -(-size // CHUNK)
    subprocess.run(_bare("receive", port, "raw", _TOPIC, 0), check=True, stdout=subprocess.DEVNULL)
    receiver = subprocess.Popen(
        _bare("receive", port, "raw", _TOPIC, count), stdout=subprocess.PIPE)
    assert receiver.stdout is not None
    receiver.stdout.readline()  # it is connected
    done = subprocess.run(
        _bare("publish", port, _TOPIC, size // count, count), check=True, stdout=subprocess.PIPE)
    last, _ = receiver.communicate(timeout=60)
    return float(last) - float(done.stdout.split()[0])


def _bare(what: str, port: int, *arguments: Any) -> list[str]:
    module = "edgecc.bench.delivery.plain_paho"
    return [sys.executable, "-m", module, what, str(port), *map(str, arguments)]
