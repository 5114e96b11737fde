"""Samples of 3 KB to a node, with ids that are new every time."""

import time

import numpy as np

from edgecc.bench.data import Data
from edgecc.bench.delivery.node import Node

SHAPE = [3, 32, 32]  # 3072 bytes
LABEL_EVERY = 10  # samples: one in so many brings its label
SOURCE = "bench"


class Sender:
    """`sent` has every id with the time it was handed to the client, seconds since 1970."""

    def __init__(self, node: Node, data: Data) -> None:
        self._node, self._data = node, data
        self._topic = node.config.topics.sample(SOURCE)
        self._waiting: set[int] = set()  # packet ids
        self.sent: dict[str, float] = {}

    def send(
        self, count: int, *, label_every: int = LABEL_EVERY, rate: float | None = None
    ) -> list[str]:
        """The ids of `count` samples, once the broker has them all; rate: samples a second."""
        client, started, ids = self._node.client, time.monotonic(), []
        for number in range(count):
            while rate and (left := started + number / rate - time.monotonic()) > 0:
                client.wait(left)
            while len(self._waiting) >= client.window:
                client.wait(0.05)
                self._waiting = {mid for mid in self._waiting if not client.arrived(mid)}
            ids.append(self._publish(labelled=number % label_every == 0))
        while self._waiting:
            client.arrived(self._waiting.pop(), wait=True)
        return ids

    def _publish(self, *, labelled: bool) -> str:
        number = len(self.sent)
        position, identity = number % len(self._data.images), f"s{number:06d}"
        user = [("id", identity)] + [("label", self._data.labels[position])] * labelled
        payload = _picture(self._data, position)
        self.sent[identity] = time.time()
        self._waiting.add(self._node.client.publish(
            self._topic, payload, ContentType="application/octet-stream", UserProperty=user))
        return identity


def _picture(data: Data, position: int) -> bytes:
    """A picture of SHAPE, lighter from channel to channel."""
    grey = data.images[position][0]
    grey = np.kron(grey, np.ones((28 // len(grey),) * 2, np.uint8))
    grey = np.pad(grey, (SHAPE[1] - len(grey)) // 2)
    return np.stack([grey // 3, grey // 2, grey]).tobytes()
