"""What a daemon rebuilds from its log: at the start, after a full disk, after a reload."""

from collections.abc import Callable
from typing import Any

from edgecc.daemon.commands import Commands
from edgecc.daemon.governor import Governor
from edgecc.daemon.growths import Growths
from edgecc.daemon.node import Node
from edgecc.daemon.push import Push
from edgecc.daemon.status import Status
from edgecc.daemon.trial import Trial
from edgecc.daemon.unlearning import Unlearning
from edgecc.daemon.upkeep import Upkeep
from edgecc.ingest.monitor import Monitor
from edgecc.ingest.pipeline import Ingest
from edgecc.ingest.prequential import WINDOW, Prequential
from edgecc.ingest.quotas import Quotas
from edgecc.mqtt.connection import Link
from edgecc.plan.plan import most_classes
from edgecc.serving.unknown import WINDOW as RIGHT_ANSWERS
from edgecc.serving.unknown import Unknown
from edgecc.store import meta
from edgecc.training.supervisor import Supervisor


class Parts:
    def __init__(
        self, node: Node, before: "Parts | None", *, link: Link, supervisor: Supervisor,
        governor: Governor, status: Status, health: Callable[[], None], reload: Callable[[], Any],
    ) -> None:
        """Counters go on from `before`. health: publishes it; reload: rereads the configuration."""
        config, store = node.config, node.store
        self.node, self.serving = node, node.serving
        right, total = store.hit_counts()
        self.prequential = Prequential(right=right, total=total, newest=store.hits(WINDOW))
        self.monitor = Monitor(config, store, node.events.record)
        self.quotas = Quotas(
            config.sources, kept_for=config.mqtt.session_expiry, state=store.meta(meta.ADMISSION))
        self.ingest = Ingest(
            config, link, store, node.outbox, node.serving, self.prequential, self.monitor,
            Unknown(config.unknown.rate),
            most_classes(node.plan, config.input_spec, config.max_classes), self.quotas)
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
        self.commands = Commands(
            node, ingest=self.ingest, monitor=self.monitor, governor=governor, trial=self.trial,
            push=self.push, unlearning=self.unlearning, reload=reload)

    def offer(self) -> None:
        """Publish the generations that there are, once old ones are pruned."""
        self.node.offers.publish(
            serving=self.serving.number, keep=self.node.config.keep_generations,
            needed=self.serving.in_use | set(self.growths.parents.values()))

    def close(self) -> None:
        """Others will be built in place of these."""
        self.trial.interrupt()
        self.push.close()
