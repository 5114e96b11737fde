"""A client that asks a running node, one sample at a time, and takes the time."""

import itertools
import json
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import NDArray

from edgecc.bench.data import Data
from edgecc.capture.dataset import npy_bytes
from edgecc.config.schema import Config
from edgecc.errors import NotRunning
from edgecc.mqtt.client import Client
from edgecc.protocol.messages import to_json

_PATIENCE = 30.0  # seconds
_SILENCE = 10.0  # seconds; a busy learner reports more often


class Probe:
    """Publishes as source `probe`; ids are new every time."""

    def __init__(self, client: Client, config: Config, data: Data) -> None:
        self._client, self._topics, self._data = client, config.topics, data
        self._run, self._number = secrets.token_hex(4), itertools.count()
        client.subscribe([self._topics.out("probe", "prediction"), self._topics / "train"])
        self._training = False

    def ask(self, payload: bytes) -> tuple[str, dict[str, Any], float]:
        """(id, prediction, seconds) of one unlabelled sample."""
        identity = f"probe-{self._run}-{next(self._number)}"
        started = time.perf_counter()
        self._client.publish(
            self._topics.sample("probe"), payload, ContentType="application/x-npy",
            UserProperty=[("id", identity)],
        )
        return identity, self._answer(identity), time.perf_counter() - started

    def label_to_prediction(self, position: int) -> float:
        """Seconds from publishing a label to the first prediction that it changed."""
        payload = self._data.npy(position)
        identity, before, _ = self.ask(payload)
        started = time.perf_counter()
        self._client.publish(
            self._topics.label("probe"),
            to_json({"id": identity, "label": self._data.labels[position]}),
        )
        while True:
            _, after, _ = self.ask(payload)
            if after["readout"] > before["readout"] and after["top"] != before["top"]:
                return time.perf_counter() - started

    def while_training(self, spare: Iterator[int], count: int) -> list[float]:
        """As `label_to_prediction`, up to `count` times, each begun while a block trains."""
        seconds: list[float] = []
        for position in itertools.islice(spare, count):
            if not self._trains():
                break
            seconds.append(self.label_to_prediction(position))
        return seconds

    def predictions(self, images: Iterable[NDArray[Any]]) -> tuple[list[str], list[float]]:
        """Labels and seconds, one sample after the other."""
        asked = [self.ask(npy_bytes(image)) for image in images]
        return [body["label"] for _, body, _ in asked], [seconds for _, _, seconds in asked]

    def await_generation(self, number: int) -> None:
        """Until predictions come from generation `number`."""
        payload = self._data.npy(0)
        deadline = time.monotonic() + _PATIENCE
        while self.ask(payload)[1]["generation"] != number:
            if time.monotonic() > deadline:
                raise NotRunning(f"generation {number} does not serve")

    def _answer(self, identity: str) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            message = self._client.next_message(left)
            if message is None:
                break
            body: dict[str, Any] = json.loads(message.payload)
            if message.topic.endswith("/train"):
                self._training = body["phase"] == "training"
            elif body["sample_id"] == identity:
                return body
        raise NotRunning("no prediction came for a sample")

    def _trains(self) -> bool:
        """True once a block trains; False where the learner stays silent or has finished."""
        while not self._training:
            message = self._client.next_message(_SILENCE)
            if message is None:
                return False
            if message.topic.endswith("/train"):
                self._training = json.loads(message.payload)["phase"] == "training"
        return True
