"""The node on one data set: configured as `edgecc init` does it, and a learning curve.

A broker, a daemon, and samples over MQTT: rows are taught label count by label count, each group by
a source of its own, and what serves then is asked. Half a second of processor time is all that a
draw takes without growths, so nothing is simulated.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from edgecc.bench.delivery.node import Node, foreign, serving
from edgecc.bench.metrics import balanced_accuracy
from edgecc.bench.real import draws
from edgecc.bench.real.datasets import RealSet, load
from edgecc.capture import producer
from edgecc.capture.dataset import npy_bytes
from edgecc.capture.item import Item
from edgecc.config.schema import Config
from edgecc.errors import EdgeccError
from edgecc.host.memory import children, peak_memory
from edgecc.mqtt.client import Client
from edgecc.serving.load import live

_SIDE = 160  # of grey pictures, at most: as `init` has it for colour


def streamed(
    *, name: str, draw: int, labels: Sequence[str], validate: bool, stem: str | None
) -> dict[str, Any]:
    """`points` of one draw on one data set, by labels a class."""
    data = load(name)
    return {"points": stream(draws.held_out(data) if validate else data, draw=draw, labels=labels,
                             stem=stem)}


def initial(data: RealSet, stem: str | None, **settings: Any) -> str:
    """The edgecc.yaml that `edgecc init` writes for such data, with `settings` above it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "edgecc", "init", "--node", "bench", *_asked_for(data)],
            cwd=folder, check=True, capture_output=True, env=foreign())
        written: dict[str, Any] = yaml.safe_load((Path(folder) / "edgecc.yaml").read_text())
    if stem is not None:
        written["stem"] = stem
    return yaml.safe_dump(written | settings, sort_keys=False)


def stream(
    data: RealSet, *, draw: int, labels: Sequence[str], stem: str | None = None
) -> dict[str, dict[str, Any]]:
    """By labels a class: what a daemon answers that was taught over MQTT, and what it took."""
    points = {}
    with tempfile.TemporaryDirectory() as folder, serving(
        Path(folder) / "node", lambda state, port: initial(
            data, stem, state_dir=str(state), mqtt={"host": "127.0.0.1", "port": port},
            governor={"max_celsius": 150, "heed_throttling": False})
    ) as node:
        for count, rows, total in _lessons(data, draw, labels):
            _teach(node, data, rows)
            health = node.idle(labels=total)
            learner = health["memory"]["learner_peak"]
            points[count] = _asked(node.config, data) | _believed(health["held_out"]) | {
                "taught": total, "cpu_s": _processor_seconds(node.process.pid),
                "peak_bytes": peak_memory(node.process.pid) + learner,
                "state_bytes": _size(node.config.state.folder)}
    return points


def payload(row: NDArray[Any]) -> tuple[bytes, str]:
    """A row as a producer would send it, and its content type: pictures as PNG."""
    if row.dtype != np.uint8:
        return npy_bytes(row), "application/x-npy"
    from PIL import Image

    file, channels = BytesIO(), row.transpose(1, 2, 0)
    Image.fromarray(channels[..., 0] if len(row) == 1 else channels).save(file, "PNG")
    return file.getvalue(), "image/png"


def _asked_for(data: RealSet) -> list[str]:
    """What a user of such data would write after `edgecc init`."""
    if data.kind == "values":
        return ["--kind", "sensor", "--shape", f"{data.shape[0]},1"]
    channels, *size = data.shape
    if data.kind == "image" and max(size) > _SIDE:
        if channels == 3:
            return ["--kind", "image"]
        size = [_SIDE, _SIDE]
    return ["--kind", data.kind, "--shape", ",".join(map(str, (channels, *size)))]


def _lessons(
    data: RealSet, draw: int, labels: Sequence[str]
) -> Iterator[tuple[str, NDArray[np.int64], int]]:
    """For each label count that has such a draw: the rows to add, and how many there are then."""
    before = np.array([], np.int64)
    for count in draws.steps(data.y, labels):
        if draw < draws.DRAWS[count]:
            rows = draws.taught(data.y, count, draw)
            yield count, rows[~np.isin(rows, before)], len(rows)
            before = rows


def _teach(node: Node, data: RealSet, rows: NDArray[np.int64]) -> None:
    """Send rows, each group of several rows as a source of its own."""
    shared = len(np.unique(data.groups)) < len(data.groups)
    for group in np.unique(data.groups[rows]) if shared else [None]:
        chosen = rows if group is None else rows[data.groups[rows] == group]
        source = "bench" if group is None else f"group-{group}"
        with Client(node.config) as client:
            sending = producer.Stream(client, node.config.topics, source)
            sending.run((_item(data, int(row)) for row in chosen), lambda _: None)
        if sending.counts["stored"] != len(chosen):
            raise EdgeccError(f"the node stored {dict(sending.counts)} of {len(chosen)} samples: "
                              f"{dict(sending.reasons)}")


def _item(data: RealSet, row: int) -> Item:
    body, kind = payload(data.x[row])
    return Item(f"row-{row:06d}", body, kind, str(data.y[row]), float(data.times[row]))


def _asked(config: Config, data: RealSet) -> dict[str, Any]:
    """How what serves now does on the test rows."""
    classifier, bodies = live(config), [payload(row)[0] for row in data.test_x]
    started = time.process_time()
    named = np.array([classifier.predict(body)[0] for body in bodies])
    seconds = (time.process_time() - started) / len(named)
    return {
        "accuracy": balanced_accuracy(data.test_y, named), "predict_ms": 1000 * seconds,
        "plain": float(np.mean(named == data.test_y)),
    }


def _believed(held_out: dict[str, float]) -> dict[str, float]:
    """The held-out accuracy that the node publishes: by source or run, where it has that."""
    by = next((by for by in ("by_source", "by_run", "by_sample") if by in held_out), None)
    return {} if by is None else {"held_out": held_out[by]}


def _processor_seconds(pid: int) -> float:
    """User and system time of a process, of its children, and of those that have ended."""
    ticks = 0
    for process in (pid, *children(pid)):
        with suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

