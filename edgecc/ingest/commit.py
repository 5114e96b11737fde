"""The transaction of a batch: all that its samples, labels and commands change, with the receipts.

A prediction is in the log before anything is learnt from its sample.
"""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from edgecc.config.schema import Config
from edgecc.errors import MessageError
from edgecc.ingest.decoding import Rejected
from edgecc.ingest.monitor import Monitor
from edgecc.ingest.prequential import Prequential
from edgecc.ingest.quotas import Quotas
from edgecc.learn.readout import Features
from edgecc.mqtt.outbox import Outbox
from edgecc.plan.schedule import open_growth
from edgecc.protocol.decode import names_of, source_of
from edgecc.protocol.messages import Command, Inbound, Label, to_json
from edgecc.protocol.sample import Sample
from edgecc.protocol.selection import asked_by, parse
from edgecc.serving.predictor import Prediction, distance_of
from edgecc.serving.serving import Serving
from edgecc.serving.unknown import Unknown
from edgecc.store import meta
from edgecc.store.reader import LabelEvent
from edgecc.store.writer import Labelled, Store

Receipt = dict[str, Any]
Kept = tuple[int, float, Inbound]  # a message in quarantine: its number, and when it arrived

_BESIDE = 512  # bytes of a packet beside its receipts
_DISTRUSTED = "the source is distrusted: its label is kept, but not learnt"
_UNLEARNT = "this sample was unlearnt"


@dataclass(frozen=True)
class Predicted:
    """A sample and its prediction, made before its label was known."""

    sample: Sample
    features: Features | None = None
    prediction: Prediction | None = None
    body: bytes = b""  # the prediction as published


@dataclass(frozen=True)
class Changes:
    """What a batch has changed: published and learnt once it is committed."""

    receipts: dict[str, list[Receipt]] = field(default_factory=lambda: defaultdict(list))
    predictions: list[tuple[str, bytes]] = field(default_factory=list)  # source and body
    labels: list[tuple[LabelEvent, Features | None]] = field(default_factory=list)
    to_unlearn: list[str] = field(default_factory=list)  # ids


@dataclass
class Committer:
    config: Config
    store: Store
    outbox: Outbox
    serving: Serving
    prequential: Prequential
    monitor: Monitor
    unknown: Unknown
    quotas: Quotas

    def commit(self, items: Iterable[Any], *, out_of: Iterable[Kept] = ()) -> Changes:
        """Commit everything that `items` change, in one transaction.

        out_of: the quarantined messages they were decoded from; those accepted now leave it.
        """
        changes = Changes()
        with self.store.transaction():
            rejected = [self._add(item, changes) for item in items]
            self.store.erasure.drop_quarantined(
                seq for (seq, _, _), bad in zip(out_of, rejected, strict=False) if not bad)
            if changes.to_unlearn:
                self.store.requests.ask(
                    None, {"args": {"ids": changes.to_unlearn, "unseen": True}})
            if any(rejected):
                self.store.trim_quarantine()
            self.monitor.save()
            if self.quotas.limits:
                self.store.set_meta(meta.QUOTAS, self.quotas.state())
            self._put_receipts(changes)
            self.outbox.settle()
        return changes

    def note_right(self, generation: int, distance: float) -> None:
        """Note the distance of a right prediction: samples far beyond such are unknown."""
        if generation == self.serving.number:
            self.unknown.note(generation, distance)

    def _add(self, item: Any, changes: Changes) -> bool:
        """True for a rejected message."""
        if isinstance(item, Predicted):
            changes.receipts[item.sample.source].append(self._add_sample(item, changes))
        elif isinstance(item, Label):
            changes.receipts[item.source].append(self._add_label(item, changes))
        elif isinstance(item, Rejected):
            changes.receipts[source_of(item.levels)].append(self._reject(item))
            return True
        elif isinstance(item, Command) and item.verb == "unlearn" and not item.retain:
            self._ask_to_unlearn(item)
        return False

    def _add_sample(self, item: Predicted, changes: Changes) -> Receipt:
        sample, prediction = item.sample, item.prediction
        distrusted = sample.label is not None and self.monitor.trust.distrusts(sample.source)
        recorded = self.store.record(
            sample, None if prediction is None else (prediction.label, item.body),
            None if distrusted else sample.label)
        if not recorded.new:
            body = recorded.row and self.store.prediction(recorded.row)
            if body:
                changes.predictions.append((sample.source, body))
            return {"id": sample.id, "status": "duplicate"}
        assert recorded.row is not None
        if prediction is not None:
            changes.predictions.append((sample.source, item.body))
        if recorded.labelled is not None:
            self._score(recorded.labelled, sample.source, item, changes)
        receipt = {"id": sample.id, "status": "stored"}
        if distrusted:
            self.store.distrusted.keep(recorded.row, sample.source, sample.label)
            receipt["reason"] = _DISTRUSTED
        if recorded.waiting is not None:
            self._add_waiting(recorded.waiting, recorded.row, item, changes)
        return receipt

    def _add_waiting(self, label: Label, row: int, item: Predicted, changes: Changes) -> None:
        """A label that arrived before its sample."""
        if self.monitor.trust.distrusts(label.source):
            self.store.distrusted.keep(row, label.source, label.label)
        elif (labelled := self.store.add_label(label)) is not None:
            self._score(labelled, label.source, item, changes)

    def _add_label(self, label: Label, changes: Changes) -> Receipt:
        known = self.store.known(label.id)
        receipt: Receipt = {"id": label.id, "status": "stored", "label": label.label}
        if label.unlearn:
            if known.unlearnt:
                return receipt | {"status": "duplicate", "label": None}
            changes.to_unlearn.append(label.id)
            return receipt | {"status": "pending" if known.row is None else "stored",
                              "label": None}
        if known.unlearnt:
            return receipt | {"status": "rejected", "reason": _UNLEARNT}
        if known.row is not None and self.monitor.trust.distrusts(label.source):
            self.store.distrusted.keep(known.row, label.source, label.label)
            return receipt | {"status": "distrusted", "reason": _DISTRUSTED}
        labelled = self.store.add_label(label, known)
        if labelled is None:
            return receipt | {"status": "pending" if known.row is None else "duplicate"}
        self._score(labelled, label.source, None, changes)
        return receipt

    def _score(
        self, labelled: Labelled, source: str, item: Predicted | None, changes: Changes
    ) -> None:
        """Score the prediction made before this label. item: its sample, if in this batch."""
        event, hit = labelled
        changes.labels.append((event, None if item is None else item.features))
        open_growth(self.store, self.config, event.seq)
        if hit is None:
            return
        self.prequential.score(hit)
        if hit:
            self._note_right(event.row, item)
        self.monitor.scored(source, event, hit)

    def _note_right(self, row: int, item: Predicted | None) -> None:
        if item is not None and item.prediction is not None:
            self.note_right(item.prediction.generation, item.prediction.distance)
        elif (body := self.store.prediction(row)) is not None:
            self.note_right(*distance_of(body))

    def _reject(self, item: Rejected) -> Receipt:
        names = names_of(item.message, item.levels)
        if item.seq is not None:
            self.store.still_quarantined(item.seq, item.reason)
        elif item.keep and not self.store.known(names["id"]).unlearnt:
            self.store.quarantine(item.message, item.reason)
        return names | {"status": "rejected", "reason": item.reason}

    def _ask_to_unlearn(self, command: Command) -> None:
        """Log the request before its ack, so that a crash does not lose it."""
        with suppress(MessageError):  # `Commands` answers what is wrong with it
            if not command.args.get("preview") and parse(command.args):
                self.store.requests.ask(command.id, asked_by(command))

    def _put_receipts(self, changes: Changes) -> None:
        for source, receipts in changes.receipts.items():
            for payload in _packed(receipts, self.outbox.limit):
                self.outbox.put(self.config.topics.out(source, "receipt"), payload)


def _packed(receipts: list[Receipt], limit: int | None) -> list[bytes]:
    """Receipts as JSON, in as many messages as the broker's packet limit needs."""
    payload, half = to_json(receipts), len(receipts) // 2
    if limit is None or len(payload) <= limit - _BESIDE or not half:
        return [payload]
    return [*_packed(receipts[:half], limit), *_packed(receipts[half:], limit)]
