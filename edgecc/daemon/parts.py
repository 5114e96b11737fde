"""What a daemon rebuilds from its log: at the start, after a full disk, after a reload."""

import time
from collections.abc import Callable
from typing import Any

from edgecc.checkpoint.manifest import Manifest, held_out_of
from edgecc.daemon.governor import Governor
from edgecc.daemon.growths import Growths
from edgecc.daemon.node import Node
from edgecc.daemon.push import Push
from edgecc.daemon.status import Status
from edgecc.daemon.trial import Trial
from edgecc.daemon.unlearning import Unlearning
from edgecc.daemon.upkeep import Upkeep
from edgecc.host.memory import peak_memory, resident_memory
from edgecc.ingest.monitor import Monitor
from edgecc.ingest.pipeline import Ingest
from edgecc.ingest.prequential import WINDOW, Prequential
from edgecc.ingest.quotas import Quotas
from edgecc.mqtt.connection import Link
from edgecc.plan.plan import most_classes
from edgecc.protocol.health import Dropped, Health, MemoryUse
from edgecc.serving.unknown import WINDOW as RIGHT_ANSWERS
from edgecc.serving.unknown import Unknown
from edgecc.store import meta
from edgecc.store.writer import Store
from edgecc.training.supervisor import Supervisor


class Parts:
    def __init__(
        self, node: Node, before: "Parts | None", *, link: Link, supervisor: Supervisor,
        governor: Governor, status: Status, health: Callable[[], None], reload: Callable[[], Any],
    ) -> None:
        """Counters go on from `before`. health: publishes it; reload: rereads the configuration."""
        config, store = node.config, node.store
        self.node, self.serving, self.governor, self.reload = node, node.serving, governor, reload
        self._link, self._supervisor = link, supervisor
        right, total = store.hit_counts()
        self.prequential = Prequential(right=right, total=total, newest=store.hits(WINDOW))
        self.monitor = Monitor(config, store, node.events.record)
        self.quotas = Quotas(
            config.sources, kept_for=config.mqtt.session_expiry, state=store.meta(meta.QUOTAS))
        self.ingest = Ingest(
            config, link, store, node.outbox, node.serving, self.prequential, self.monitor,
            Unknown(config.unknown.rate),
            most_classes(node.plan, config.input, config.max_classes), self.quotas)
        if before is not None:
            self.ingest.count_on(before.ingest)
        for body in store.right_predictions(RIGHT_ANSWERS):
            self.ingest.note_right(body)
        self.growths = Growths(node, supervisor, status.training)
        self.growths.sweep()
        self.trial = Trial(node, self.growths)
        self.push = Push(node, self.trial)
        self.unlearning = Unlearning(
            node, self.growths, drop_pushed=self.push.clear, offer=self.offer)
        self.upkeep = Upkeep(node, link, self.quotas, health)

    def offer(self) -> None:
        """Publish the generations that there are, once old ones are pruned."""
        self.node.offers.publish(
            serving=self.serving.number, keep=self.node.config.keep_generations,
            needed=self.serving.in_use | set(self.growths.parents.values()))

    def health(self, *, canary: str, full_since: float | None) -> Health:
        """How the node is doing; the session's canary, and since when the disk is full."""
        node, serving, governor = self.node, self.serving, self.governor
        store, outbox, predictor = node.store, node.outbox, serving.predictor
        return Health(
            ts=time.time(), generation=serving.number,
            readout=0 if predictor is None else predictor.cursor, lag=serving.lag,
            classes=[] if predictor is None else predictor.readout.classes,
            log=store.counts(), acked=self.ingest.acked, taken=dict(self.ingest.taken),
            refused=dict(self.quotas.refused), distrusted=self.monitor.trust.distrusted,
            prequential=self.prequential.accuracies(),
            held_out={} if predictor is None else _held_out(predictor.manifest, store),
            growths_open=len(store.growths.unfinished()), swapping=serving.successor is not None,
            unlearning=store.requests.busy, paused=governor.stopped,
            training_paused=governor.pause, connections=self._link.connection, canary=canary,
            denied=outbox.denied,
            dropped=Dropped(outbox.dropped, self._link.dropped, outbox.too_large),
            storage_full_since=full_since, memory=self._memory(),
            temperature=governor.reading.celsius, throttled=governor.reading.throttled,
            energy=governor.energy(self.ingest.taken["stored"]),
        )

    def _memory(self) -> MemoryUse:
        daemon, learner = peak_memory(), self._supervisor.peak
        return MemoryUse(
            budget=self.node.budget.size, plan=self.node.plan.total,
            steps_down=self.growths.steps, peak=daemon + learner, daemon_peak=daemon,
            learner_peak=learner, daemon=resident_memory())

    def close(self) -> None:
        """Before others are built in place of these: memory is planned for one readout."""
        self.trial.interrupt()
        self.push.close()
        self.serving.stop()


def _held_out(serving: Manifest, store: Store) -> dict[str, float]:
    """Held-out accuracies of what serves: of its own growth, or of a later one that it outdid."""
    verdict = store.growths.newest_verdict()
    if verdict.get("serving") != serving.digest:
        return serving.held_out
    return held_out_of(verdict | {"held_out": verdict["held_out_serving"]})
