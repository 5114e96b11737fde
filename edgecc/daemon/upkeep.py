"""What is done now and then: settle the outbox, publish health, keep the log within its budget."""

import logging
import time
from collections.abc import Callable

from edgecc.daemon.node import Node
from edgecc.host import allocator
from edgecc.ingest.quotas import Quotas
from edgecc.mqtt.connection import Link
from edgecc.store.retention import evict, over_budget

log = logging.getLogger(__name__)

_SETTLE = 1.0  # seconds after which arrived outbox rows are deleted even without traffic
_RETRY = 5.0  # seconds between two tries of what the broker refuses
_HEALTH = 2.0  # seconds between two messages about it
_RETENTION_EVERY = 500  # samples
_EVICT_AT_ONCE = 500  # samples a turn, so that none takes long
_OLD_IDS = 3600.0  # seconds between two deletions of ids that no session can repeat
_MARK = 10.0  # seconds between two marks of the quotas
_RELEASE = 20.0  # seconds between two releases of free memory


class Upkeep:
    def __init__(self, node: Node, link: Link, quotas: Quotas, health: Callable[[], None]) -> None:
        """health: publishes it."""
        self._node, self._link, self._quotas, self._health = node, link, quotas, health
        self._last = dict.fromkeys(("settle", "retry", "health", "mark", "release", "old ids"), 0.0)
        self._looked_at = 0  # samples stored when retention last ran

    def turn(self) -> None:
        node, outbox, store = self._node, self._node.outbox, self._node.store
        if outbox.unsettled and self._due("settle", _SETTLE):
            with store.transaction():
                outbox.settle()
        if outbox.denied and self._due("retry", _RETRY):
            outbox.retry_refused()
        if outbox.window and self._due("health", _HEALTH):
            self._health()
        if self._quotas.limits and outbox.window and self._due("mark", _MARK):
            self._link.publish(node.config.topics / "in/canary", self._quotas.mark().encode())
        if not store.requests.busy:
            self._retain()
        if self._due("release", _RELEASE):
            allocator.release_memory()
        if self._due("old ids", _OLD_IDS):
            with store.transaction():
                store.drop_old_ids(time.time() - node.config.mqtt.session_expiry)

    def _due(self, task: str, every: float) -> bool:
        now = time.monotonic()
        if now - self._last[task] <= every:
            return False
        self._last[task] = now
        return True

    def _retain(self) -> None:
        """Keep the log under disk_budget, looking every so many samples."""
        store, serving = self._node.store, self._node.serving
        rows, budget = store.last_row(), self._node.config.disk_budget
        if rows - self._looked_at < _RETENTION_EVERY:
            return
        if not over_budget(store, budget):
            self._looked_at = rows
            return
        if serving.predictor and serving.predictor.cursor > serving.snapshot_cursor:
            serving.snapshot()
        learnt = 0 if self.past_is_needed else serving.snapshot_cursor
        with store.transaction():
            evicted = evict(store, budget=budget, learnt=learnt, limit=_EVICT_AT_ONCE)
        if not evicted:
            self._looked_at = rows
        log.debug("%d samples evicted to stay within disk_budget", evicted)

    @property
    def past_is_needed(self) -> bool:
        """True while a growth, a successor or a candidate still reads the log's past."""
        return self._node.serving.changing or bool(self._node.store.growths.unfinished())
