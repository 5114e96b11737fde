"""The retained messages in which a node describes itself: status, info, health, train."""

import platform
import time
from typing import Any

import edgecc
from edgecc.checkpoint.keyring import Keys
from edgecc.config.schema import Config
from edgecc.daemon.governor import Governor
from edgecc.mqtt.outbox import Outbox
from edgecc.protocol.health import Health
from edgecc.protocol.messages import SAMPLE_SCHEMA, to_json
from edgecc.training.supervisor import Supervisor


class Status:
    def __init__(
        self, config: Config, keys: Keys, outbox: Outbox, governor: Governor,
        supervisor: Supervisor,
    ) -> None:
        self._config, self._keys, self._outbox = config, keys, outbox
        self._governor, self._supervisor = governor, supervisor
        self._started = time.time()
        self._progress: dict[str, Any] = {}  # the learner's newest message

    def online(self) -> None:
        self._retain("status", b"online")
        self._retain("info", to_json(self._info()))

    def offline(self) -> None:
        self._retain("status", b"offline")

    def health(self, health: Health) -> None:
        self._retain("health", health.to_json())

    def training(self, progress: dict[str, Any] | None = None) -> None:
        """Publish the learner's progress; without one, the newest again: the pause has changed."""
        self._progress = self._progress if progress is None else progress
        body = {name: value for name, value in self._progress.items() if name != "type"}
        pause = self._governor.pause
        body["paused"] = pause and pause.text
        body["memory"] = self._supervisor.peak
        self._retain("train", to_json(body))

    def _info(self) -> dict[str, Any]:
        config, keys = self._config, self._keys
        return {
            "edgecc": edgecc.__version__, "python": platform.python_version(),
            "machine": platform.machine(), "schemas": [SAMPLE_SCHEMA], "node": config.node,
            "input": {"kind": config.input.kind, "shape": list(config.input.shape)},
            "stem": config.stem,
            "max_payload": config.mqtt.max_payload,
            "public_key": keys.chain.newest.encode().hex(),
            "first_key": keys.chain.keys[0].encode().hex(), "keys": keys.statements,
            "memory_budget": config.memory_budget, "started": self._started,
        }

    def _retain(self, topic: str, payload: bytes) -> None:
        self._outbox.retain(self._config.topics / topic, payload)
