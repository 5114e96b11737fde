"""What is done now and then: settle the outbox, say how it goes, keep the log within its budget."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from edgecc.host import allocator
from edgecc.store.retention import evict, over_budget

if TYPE_CHECKING:
    from edgecc.daemon.daemon import Daemon

log = logging.getLogger(__name__)

_SETTLE = 1.0  # seconds after which arrived outbox rows are deleted even without traffic
_AGAIN = 5.0  # seconds between two tries of what the broker refuses
_RETAIN_EVERY = 500  # samples
_EVICT_AT_ONCE = 500  # samples a turn, so that none takes long
_FORGET_EVERY = 3600.0  # seconds
_MARK = 10.0  # seconds; see admission.py
_LET_GO = 20.0  # seconds


class Upkeep:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._last = dict.fromkeys(("settle", "health", "forget", "again", "mark", "let go"), 0.0)
        self._looked_at = 0  # samples stored when retention last ran

    def turn(self) -> None:
        daemon = self._daemon
        if daemon.outbox.unsettled and self._due("settle", _SETTLE):
            with daemon.store.transaction():
                daemon.outbox.settle()
        if daemon.outbox.denied and self._due("again", _AGAIN):
            daemon.outbox.again()
        if daemon.outbox.window and self._due("health", daemon.announcer.HEALTH_EVERY):
            daemon.announcer.health()
        if daemon.ingest.quotas.limits and daemon.outbox.window and self._due("mark", _MARK):
            daemon.link.publish(
                daemon.config.topics / "in/canary", daemon.ingest.quotas.mark().encode())
        if not daemon.forgetting.busy:
            self._retain()
        if self._due("let go", _LET_GO):
            allocator.let_go()
        if self._due("forget", _FORGET_EVERY):
            with daemon.store.transaction():
                daemon.store.forget_ids(time.time() - daemon.config.mqtt.session_expiry)

    def _due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if now - self._last[what] <= every:
            return False
        self._last[what] = now
        return True

    def _retain(self) -> None:
        """Keep the log under disk_budget, looking every so many samples."""
        daemon = self._daemon
        rows, budget = daemon.store.last_row(), daemon.config.disk_budget
        if rows - self._looked_at < _RETAIN_EVERY:
            return
        if not over_budget(daemon.store, budget):
            self._looked_at = rows
            return
        predictor = daemon.serving.predictor
        if predictor and predictor.cursor > daemon.snapshot_cursor:
            daemon.snapshot()
        learnt = 0 if self._unsettled() else daemon.snapshot_cursor
        with daemon.store.transaction():
            gone = evict(daemon.store, budget=budget, learnt=learnt, limit=_EVICT_AT_ONCE)
        if not gone:
            self._looked_at = rows
        log.debug("%d samples evicted to stay within disk_budget", gone)

    def _unsettled(self) -> bool:
        """True while a growth or a generation in waiting still reads the log's past."""
        daemon = self._daemon
        waiting = daemon.serving.successor is not None or daemon.trial.busy
        return waiting or bool(daemon.store.open_growths())
