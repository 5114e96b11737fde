"""One batch of messages, from bytes to acks.

decode → predict → commit (samples, predictions, labels, receipts) → ack → publish → learn.
A prediction is in the log before anything is learnt from its sample.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from edgecc.config.schema import Config
from edgecc.errors import MessageError
from edgecc.ingest.decoding import Decoding, Rejected
from edgecc.ingest.monitor import Watch
from edgecc.ingest.prequential import Prequential
from edgecc.ingest.quotas import Admission
from edgecc.learn.readout import Features
from edgecc.mqtt.connection import Link
from edgecc.mqtt.outbox import Outbox
from edgecc.plan.schedule import open_growth
from edgecc.protocol.messages import (
    PREDICTION_SCHEMA,
    Canary,
    Chunk,
    ChunkRequest,
    Command,
    Decoded,
    Inbound,
    Label,
    named_by,
    source_of,
    to_json,
)
from edgecc.protocol.sample import Sample
from edgecc.protocol.selection import asked_by, parse
from edgecc.serving import predictor as predictors
from edgecc.serving.generations import Serving
from edgecc.serving.predictor import Prediction
from edgecc.serving.unknown import Unknown
from edgecc.store import meta
from edgecc.store.reader import LabelEvent
from edgecc.store.writer import Store

Receipts = dict[str, list[dict[str, Any]]]

_AT_ONCE = 32  # samples predicted in one call
_BESIDE = 512  # bytes of a packet beside its receipts
_ASIDE = "the source is distrusted: its label is kept, and not learnt"


@dataclass
class Predicted:
    """A decoded sample and what the node thought of it before knowing its label."""

    sample: Sample
    features: Features | None
    body: bytes
    label: str | None
    packed: bytes | None = None  # the sample's


@dataclass
class Ingest:
    config: Config
    link: Link
    store: Store
    outbox: Outbox
    serving: Serving
    prequential: Prequential
    watch: Watch
    unknown: Unknown
    most_classes: int
    acked: int = 0  # samples whose PUBACK was handed over since the start
    taken: Counter[str] = field(default_factory=Counter)  # what became of messages, since then
    _events: list[tuple[LabelEvent, Features | None]] = field(default_factory=list)
    _unlearn: list[str] = field(default_factory=list)  # ids that labels ask to unlearn

    def __post_init__(self) -> None:
        self._topics = self.config.topics
        self._beside = ThreadPoolExecutor(1, "packing")
        self.admission = Admission(
            self.config.sources, kept_for=self.config.mqtt.session_expiry,
            state=self.store.meta(meta.ADMISSION))
        self._decoding = Decoding(
            self.config, self.admission, self.store.labels_named(), self.most_classes)

    def batch(self, messages: list[Inbound]) -> list[Command | ChunkRequest | Chunk | Canary]:
        """Take in `messages`; returns those that are not about samples, for the daemon.

        Once they are committed and acked, the list is empty.
        """
        items = self._understood([self._decoding.of(message) for message in messages])
        predictions = self._log(items)
        for message, item in zip(messages, items, strict=True):
            sent = self.link.ack(message)
            self.acked += sent and isinstance(item, Predicted | Rejected)
        messages.clear()
        self._publish(predictions)
        self._learn()
        return [item for item in items
                if isinstance(item, Command | ChunkRequest | Chunk | Canary)]

    def retry(self, kept: list[tuple[int, float, Inbound]]) -> list[dict[str, Any]]:
        """Take in messages from quarantine once more; what became of each, by its number there.

        In one transaction with what is stored they leave it; those still bad stay, with the reason
        that they have now.
        """
        items = self._understood([self._decoding.again(*one) for one in kept])
        predictions = self._log(items, out_of=kept)
        self._publish(predictions)
        self._learn()
        return [{"seq": seq, "status": "rejected" if isinstance(item, Rejected) else "taken",
                 "reason": item.reason if isinstance(item, Rejected) else None}
                for (seq, _, _), item in zip(kept, items, strict=True)]

    # --- before the commit ---

    def _understood(self, items: list[Decoded | Rejected]) -> list[Any]:
        """`items`, every sample predicted here and packed by another thread meanwhile."""
        samples = [item for item in items if isinstance(item, Sample)]
        packing = self._beside.submit(lambda: [sample.pack() for sample in samples])
        slabs = (samples[first : first + _AT_ONCE] for first in range(0, len(samples), _AT_ONCE))
        predicted = [one for slab in slabs for one in self._predicted(slab)]
        for one, packed in zip(predicted, packing.result(), strict=True):
            one.packed = packed
        ready = iter(predicted)
        return [next(ready) if isinstance(item, Sample) else item for item in items]

    def _predicted(self, samples: list[Sample]) -> list[Predicted]:
        """Without predictions where none are wanted, or a sensor's scale is not known yet."""
        predictor, started = self.serving.predictor, time.perf_counter()
        if predictor is None or not self.config.predict:
            return [Predicted(sample, None, b"", None) for sample in samples]
        features = predictor.features_of([sample.x for sample in samples])
        far = self.unknown.far(self.serving.number)
        predictions = predictor.predict_all(features, started, far=far)
        return [
            Predicted(sample, of, self._body(sample, prediction), prediction.label)
            for sample, of, prediction in zip(samples, features, predictions, strict=True)
        ]

    def _body(self, sample: Sample, prediction: Prediction) -> bytes:
        return predictors.to_message(
            prediction, schema=PREDICTION_SCHEMA, sample_id=sample.id, ts=sample.ts)

    # --- the transaction ---

    def _log(
        self, items: list[Any], *, out_of: Iterable[tuple[int, float, Inbound]] = ()
    ) -> list[tuple[str, bytes]]:
        """Commit everything that `items` change, with their receipts; their predictions."""
        receipts: Receipts = defaultdict(list)
        predictions: list[tuple[str, bytes]] = []
        self._events, self._unlearn = [], []
        with self.store.transaction():
            for item in items:
                self._commit(item, receipts, predictions)
            if self._unlearn:
                self.store.erasure.ask(None, {"args": {"ids": self._unlearn, "unseen": True}})
            self.store.erasure.drop_quarantined(
                seq for (seq, _, _), item in zip(out_of, items, strict=False)
                if not isinstance(item, Rejected))
            if any(isinstance(item, Rejected) for item in items):
                self.store.trim_quarantine()
            self.watch.save()
            if self.admission.limits:
                self.store.set_meta(meta.ADMISSION, self.admission.state())
            for source, entries in receipts.items():
                for payload in _split(entries, self.outbox.limit):
                    self.outbox.put(self._topics.out(source, "receipt"), payload)
            self.outbox.settle()
        self.taken.update(_counted(receipts))
        return predictions

    def _commit(
        self, item: Any, receipts: Receipts, predictions: list[tuple[str, bytes]]
    ) -> None:
        if isinstance(item, Predicted):
            receipts[item.sample.source].append(self._commit_sample(item, predictions))
        elif isinstance(item, Label):
            receipts[item.source].append(self._commit_label(item))
        elif isinstance(item, Rejected):
            receipts[source_of(item.message, self._topics)].append(self._reject(item))
        elif isinstance(item, Command) and item.verb == "unlearn" and not item.retain:
            self._ask(item)

    def _reject(self, item: Rejected) -> dict[str, Any]:
        receipt = named_by(item.message, self._topics)
        identity = receipt["id"]
        if item.seq is not None:
            self.store.still_quarantined(item.seq, item.reason)
        elif item.keep and not self.store.is_forgotten(identity):
            self.store.quarantine(item.message, item.reason)
        return receipt | {"status": "rejected", "reason": item.reason}

    def _ask(self, command: Command) -> None:
        """Durable before its ack: what was asked to be unlearnt is, whatever is killed."""
        with suppress(MessageError):  # the answer says what is wrong with it
            if not command.args.get("preview") and parse(command.args):
                self.store.erasure.ask(command.id, asked_by(command))

    def _commit_sample(
        self, item: Predicted, predictions: list[tuple[str, bytes]]
    ) -> dict[str, Any]:
        sample = item.sample
        row = self.store.add_sample(sample, item.packed)
        if row is None:
            body = self.store.prediction_of(sample.id)
            if body is not None:
                predictions.append((sample.source, body))
            return {"id": sample.id, "status": "duplicate"}
        if item.body:
            self.store.add_prediction(row, item.label, item.body)
            predictions.append((sample.source, item.body))
        receipt = {"id": sample.id, "status": "stored"}
        if sample.label is not None:
            label = Label(sample.id, sample.label, sample.source)
            if self.watch.sets_aside(label):
                receipt["reason"] = _ASIDE
            else:
                self._log_label(label, item.features)
        waiting = self.store.take_pending(sample.id)
        if waiting is not None and not self.watch.sets_aside(waiting):
            self._log_label(waiting, item.features)
        return receipt

    def _commit_label(self, label: Label) -> dict[str, Any]:
        known = self.store.row_of(label.id) is not None
        if label.unlearn:
            return {"id": label.id, "status": self._unlearn_later(label.id, known), "label": None}
        forgotten = "this sample was unlearnt" if self.store.is_forgotten(label.id) else None
        if reason := forgotten or self._decoding.one_too_many(label.label):
            return {"id": label.id, "status": "rejected", "label": label.label, "reason": reason}
        if self.watch.sets_aside(label):
            return {"id": label.id, "status": "aside", "label": label.label, "reason": _ASIDE}
        event = self._log_label(label, None)
        status = "pending" if not known else "duplicate" if event is None else "stored"
        return {"id": label.id, "status": status, "label": label.label}

    def _unlearn_later(self, identity: str, known: bool) -> str:
        if self.store.is_forgotten(identity):
            return "duplicate"
        self._unlearn.append(identity)
        return "stored" if known else "pending"

    def _log_label(self, label: Label, features: Features | None) -> LabelEvent | None:
        logged = self.store.add_label(label)
        if logged is None:
            return None
        event, hit = logged
        if hit is not None:
            self.prequential.score(hit)
        self._events.append((event, features))
        open_growth(self.store, self.config, event.seq)
        if hit is not None:
            self.note_right(self.store.prediction_of(label.id) if hit else None)
            self.watch.scored(label.source, event, hit)
        return event

    def note_right(self, body: bytes | None) -> None:
        """How far out right answers of what serves lie, to know what is further."""
        generation, distance = (-2, 0.0) if body is None else predictors.distance_of(body)
        if generation == self.serving.number:
            self.unknown.note(generation, distance)

    # --- after the commit ---

    def _publish(self, predictions: Iterable[tuple[str, bytes]]) -> None:
        topics = self._topics
        newest: dict[str, bytes] = {}
        for source, body in predictions:
            self.outbox.send(topics.out(source, "prediction"), body)
            newest[source] = body
        for source, body in newest.items():
            self.outbox.send(topics.out(source, "state"), body, retain=True)

    def _learn(self) -> None:
        for event, features in self._events:
            self.serving.learn(event, features)
        self.serving.calibrate()


def _split(entries: list[dict[str, Any]], limit: int | None) -> Iterable[bytes]:
    """Receipts as JSON, in as many messages as the broker's largest packet asks for."""
    payload, half = to_json(entries), len(entries) // 2
    if limit is None or len(payload) <= limit - _BESIDE or not half:
        return [payload]
    return [*_split(entries[:half], limit), *_split(entries[half:], limit)]


def _counted(receipts: Receipts) -> Iterable[str]:
    """What each message's receipt says: `stored`, `duplicate`, ..; `label stored` for labels."""
    for entry in (entry for entries in receipts.values() for entry in entries):
        yield f"label {entry['status']}" if "label" in entry else entry["status"]
