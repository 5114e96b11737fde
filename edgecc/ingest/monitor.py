"""Watches the label stream for sources whose labels cannot be trusted, and for drift.

Its state is a function of the scored labels in the order of the log and of what operators decided.
It is saved in the transaction that logs them, so that both survive a crash or neither does.
"""

from collections.abc import Callable
from typing import Any

from edgecc.config.schema import Config
from edgecc.ingest.drift import Adwin
from edgecc.ingest.source_trust import SourceTrust
from edgecc.mqtt.events import Severity
from edgecc.plan.schedule import open_drift_growth, open_growth
from edgecc.store import meta
from edgecc.store.reader import LabelEvent
from edgecc.store.writer import Store

Say = Callable[[str, Severity, dict[str, Any]], None]  # an event: its kind, severity and figures


class Monitor:
    def __init__(self, config: Config, store: Store, say: Say) -> None:
        self._config, self._store, self._say = config, store, say
        self.trust = SourceTrust(
            tolerance=config.trust.tolerance, rate=config.trust.rate,
            state=store.meta(meta.SOURCES), recent=store.misses())
        self._adwin = Adwin(delta=config.drift.delta, state=store.meta(meta.DRIFT))
        self._changed = False

    # --- inside the transaction of a batch ---

    def scored(self, source: str, event: LabelEvent, hit: bool) -> None:
        """A label was logged whose sample had been predicted."""
        self._changed = True
        drift = self._adwin.add(not hit)
        if drift is not None:
            self._say("drift", "warning", {
                "label": event.seq, "error_before": round(drift.before, 4),
                "error_after": round(drift.after, 4), "labels_before": drift.dropped,
                "labels_after": drift.kept,
                "growth": open_drift_growth(self._store, self._config, event.seq),
            })
        if self.trust.score(source, str(event.label), hit) and self._config.trust.enabled:
            self._distrust(source, by_hand=False)

    def save(self) -> None:
        if self._changed:
            self._store.set_meta(meta.SOURCES, self.trust.state())
            for label, one in self.trust.changed().items():
                self._store.set_misses(label, one)
            self._store.set_meta(meta.DRIFT, self._adwin.state())
        self._changed = False

    # --- what operators ask ---

    def report(self) -> list[dict[str, Any]]:
        kept = self._store.distrusted.counts()
        return [one | {"not_learnt": kept.get(one["source"], 0)} for one in self.trust.report()]

    def decide(self, source: str, *, trusted: bool) -> None:
        """Trust or distrust `source` by hand, until decided otherwise; durable once it returns."""
        with self._store.transaction():
            if trusted:
                self._trust_again(source)
            elif not self.trust.distrusts(source):
                self._distrust(source, by_hand=True)
            self._changed = True
            self.save()

    def _distrust(self, source: str, *, by_hand: bool) -> None:
        figures = next((one for one in self.report() if one["source"] == source), {})
        self.trust.decide(source, distrusted=True, by_hand=by_hand)
        before = self._store.last_label()
        retracted = self._store.distrusted.retract(source, self.trust.distrusted)
        self._open_growths(before)
        self._say("source-distrusted", "warning", figures | {
            "source": source, "distrusted": True, "by_hand": by_hand, "label": before} | retracted)

    def _trust_again(self, source: str) -> None:
        self.trust.decide(source, distrusted=False, by_hand=True)
        before = self._store.last_label()
        restored = self._store.distrusted.restore(source)
        self._open_growths(before)
        self._say("source-trusted", "info", {"source": source, "labels": restored, "label": before})

    def _open_growths(self, before: int) -> None:
        """Open the growths that are due at the labels after `before`."""
        for seq in range(before + 1, self._store.last_label() + 1):
            open_growth(self._store, self._config, seq)
