"""One question at a time over MQTT, and how long its answer takes: a sample, a label, an echo."""

import itertools
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgecc.bench.delivery.node import Node
from edgecc.errors import NotRunning
from edgecc.mqtt.client import Client
from edgecc.protocol.messages import to_json

SOURCE = "asked"
ECHO_IN, ECHO_OUT = "bare/in", "bare/out"
_PATIENCE = 60.0  # seconds
_APART = 0.02  # seconds


@dataclass(frozen=True)
class Answer:
    """Seconds from publishing a sample to its prediction and to its receipt."""

    prediction: float
    receipt: float


class Asker:
    """Asks `node` about pictures (N, C, H, W) in turn, under ids that are new every time."""

    def __init__(self, node: Node, client: Client, images: NDArray[Any], labels: list[str]) -> None:
        self._client, self._topics = client, node.config.topics
        self._payloads, self._labels = [x.tobytes() for x in images], labels
        self._run, self._numbers = secrets.token_hex(4), itertools.count()
        self._position, self._identity, self._readout = 0, "", 0  # of the last sample asked about
        client.subscribe(
            [*(self._topics.out(SOURCE, what) for what in ("prediction", "receipt")), ECHO_OUT])

    def ask(self) -> Answer:
        """Ask about one unlabelled sample."""
        started = self.send()
        said = {"prediction": 0.0, "receipt": 0.0}
        while not all(said.values()):
            topic, body = self._next()
            what = topic.rpartition("/")[2]
            if any(self._identity == one.get("sample_id", one.get("id")) for one in body):
                said[what] = time.perf_counter() - started
                self._readout = body[0].get("readout", self._readout)
        return Answer(**said)

    def send(self) -> float:
        """Publish the next sample without waiting; the time of it, by time.perf_counter."""
        number = next(self._numbers)
        self._position, self._identity = number % len(self._payloads), f"{self._run}-{number}"
        started = time.perf_counter()
        self._client.publish(
            self._topics.sample(SOURCE), self._payloads[self._position],
            ContentType="application/octet-stream", UserProperty=[("id", self._identity)])
        return started

    def label(self) -> float:
        """Seconds from publishing the label of the last sample to its receipt."""
        identity, started = self._identity, time.perf_counter()
        self._client.publish(self._topics.label(SOURCE), to_json(
            {"id": identity, "label": self._labels[self._position]}))
        self._until(lambda one: one.get("id") == identity and "label" in one)
        return time.perf_counter() - started

    def known(self) -> float:
        """Seconds from publishing a label to the first prediction of a readout that knows it."""
        self.ask()
        before, started = self._readout, time.perf_counter()
        self.label()
        while self._readout <= before:
            time.sleep(_APART)  # every question is stored, and makes the log longer
            self.ask()
        return time.perf_counter() - started

    def burst(self, count: int) -> float:
        """Seconds from publishing `count` samples at once to the last one's receipt."""
        started = time.perf_counter()
        for _ in range(count):
            self.send()
        self._until(lambda one: one.get("id") == self._identity)
        return time.perf_counter() - started

    def predicted(self) -> None:
        """Wait until the last sample sent is predicted."""
        self._until(lambda one: one.get("sample_id") == self._identity)

    def echo(self) -> float:
        """Seconds until a message of a sample's size has come back from `bare echo`."""
        token = secrets.token_bytes(8) + self._payloads[0][8:]
        started = time.perf_counter()
        self._client.publish(ECHO_IN, token)
        while (message := self._client.next_message(_PATIENCE)) is not None:
            if message.payload == token:
                return time.perf_counter() - started
        raise NotRunning("no echo came")

    def _until(self, right: Callable[[dict[str, Any]], bool]) -> None:
        while not any(right(one) for one in self._next()[1]):
            pass

    def _next(self) -> tuple[str, list[dict[str, Any]]]:
        """The next message: its topic, and its body as a list."""
        message = self._client.next_message(_PATIENCE)
        if message is None:
            raise NotRunning(f"the node has said nothing for {_PATIENCE:.0f} s")
        body = json.loads(message.payload)
        return message.topic, body if isinstance(body, list) else [body]


def processor_seconds(pid: int) -> float:
    """Seconds of processor time that all threads of a process have had."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
