"""What the node says of itself: status, info, health, training, events, checkpoints on offer."""

from __future__ import annotations

import logging
import os
import platform
import time
from typing import TYPE_CHECKING, Any

import edgecc
from edgecc.checkpoint import generation
from edgecc.checkpoint.manifest import Manifest
from edgecc.host.memory import peak_memory, resident_memory
from edgecc.plan.budget import Budget
from edgecc.protocol.messages import SAMPLE_SCHEMA, to_json

if TYPE_CHECKING:
    from edgecc.daemon.daemon import Daemon

log = logging.getLogger(__name__)


class Announcer:
    HEALTH_EVERY = 2.0  # seconds

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._topics = daemon.config.topics
        self._started = time.time()
        self._trained: dict[str, Any] = {}  # what the learner said last

    def online(self) -> None:
        """After every connect: the retained picture of this node, whole."""
        self._retain("status", b"online")
        self._retain("info", to_json(self._info()))
        self.checkpoints()
        self.health()

    def offline(self) -> None:
        self._retain("status", b"offline")

    def event(self, kind: str, severity: str, data: dict[str, Any]) -> None:
        """Durable; call inside a transaction of the store."""
        self._daemon.outbox.put(self._topics / "event", _event(kind, severity, data))

    def limited(self, budget: Budget) -> None:
        """An event where a control group allows less than memory_budget."""
        if budget.limit is None:
            return
        given = self._daemon.config.memory_budget
        log.warning("memory_budget is %d bytes, but %s allows no more than %d: planning for that",
                    given, budget.limit, budget.size)
        self.event("memory-limited", "warning", {
            "memory_budget": given, "limit": budget.size, "by": str(budget.limit)})

    def alert(self, kind: str, severity: str, data: dict[str, Any]) -> None:
        """An event that cannot be stored, or need not be."""
        self._daemon.outbox.send(self._topics / "event", _event(kind, severity, data))

    def train(self, said: dict[str, Any] | None = None) -> None:
        """What the learner says; without that, what it said last and whether it waits now."""
        self._trained = self._trained if said is None else said
        body = {name: value for name, value in self._trained.items() if name != "type"}
        waits = self._daemon.governor.waits
        body["waits"] = waits and waits["text"]
        body["memory"] = self._daemon.supervisor.peak
        self._retain("train", to_json(body))

    def health(self) -> None:
        self._retain("health", to_json(self._health()))

    def checkpoints(self) -> None:
        """Retained manifests and their index; pruned generations are taken back."""
        serving = self._daemon.serving
        keep = self._daemon.config.keep_generations
        needed = serving.needed | self._daemon.orders.parents
        for number in generation.prune(serving.folder, keep, needed):
            self._daemon.outbox.retain(self._topics.manifest(number), b"")
        index = []
        for number in generation.numbers(serving.folder):
            manifest = generation.unsigned(serving.path(number))
            if manifest is None:
                continue  # damaged; reported when it failed to load
            envelope = generation.read_manifest(serving.path(number))
            self._daemon.outbox.retain(self._topics.manifest(number), envelope)
            index.append(_entry(manifest, serving.number))
        self._retain("checkpoint/index", to_json(index))

    def _retain(self, what: str, payload: bytes) -> None:
        self._daemon.outbox.retain(self._topics / what, payload)

    def _info(self) -> dict[str, Any]:
        config, keys = self._daemon.config, self._daemon.keys
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

    def _health(self) -> dict[str, Any]:
        daemon = self._daemon
        store, predictor = daemon.store, daemon.serving.predictor
        cursor = 0 if predictor is None else predictor.cursor
        daemon_peak = peak_memory()
        return {
            "ts": time.time(), "generation": daemon.serving.number, "readout": cursor,
            "classes": [] if predictor is None else predictor.readout.classes,
            "backlog": max(0, store.last_label() - cursor),
            "behind": max(0, store.last_label() - cursor), "taken": dict(daemon.ingest.taken),
            "refused": dict(daemon.ingest.quotas.refused),
            "distrusted": daemon.watch.trust.distrusted,
            "growths_open": len(store.open_growths()), "unlearning": daemon.forgetting.busy,
            "swapping": daemon.serving.successor is not None, "paused": daemon.paused,
            "log": store.counts(), "acked": daemon.ingest.acked,
            "dropped": {"predictions": daemon.outbox.dropped, "qos0": daemon.link.dropped,
                        "too_large": daemon.outbox.too_large},
            "connections": daemon.link.connection, "canary": daemon.session.canary,
            "storage_full_since": daemon.shortage.since, "denied": daemon.outbox.denied,
            "prequential": daemon.ingest.prequential.accuracies(),
            "memory": {
                "budget": daemon.budget.size, "plan": daemon.plan.total,
                "steps_down": daemon.orders.steps,
                "peak": daemon_peak + daemon.supervisor.peak, "daemon_peak": daemon_peak,
                "learner_peak": daemon.supervisor.peak, "daemon": resident_memory(),
            },
            "temperature": daemon.governor.reading.celsius,
            "throttled": daemon.governor.reading.throttled, "waits": daemon.governor.waits,
            "energy": daemon.governor.energy,
        }


def _event(kind: str, severity: str, data: dict[str, Any]) -> bytes:
    return to_json({"type": kind, "severity": severity, "ts": time.time(),
                    "id": os.urandom(8).hex(), "data": data})


def _entry(manifest: Manifest, serving: int) -> dict[str, Any]:
    return {
        "generation": manifest.number, "digest": manifest.digest, "created": manifest.created,
        "blocks": len(manifest.blocks) - 1, "classes": len(manifest.classes),
        "cursor": manifest.cursor, "held_out": manifest.metrics.get("held_out"),
        "bytes": sum(file.size for file in manifest.files.values()),
        "serving": manifest.number == serving,
    }
