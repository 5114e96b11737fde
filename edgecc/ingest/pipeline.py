"""One batch of messages, from bytes to acks: decode, predict, commit, ack, publish, learn."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edgecc.config.schema import Config
from edgecc.ingest.commit import Changes, Committer, Kept, Predicted, Receipt
from edgecc.ingest.decoding import Decoder, Rejected
from edgecc.ingest.monitor import Monitor
from edgecc.ingest.prequential import Prequential
from edgecc.ingest.quotas import Quotas
from edgecc.mqtt.connection import Link
from edgecc.mqtt.outbox import Outbox
from edgecc.protocol.messages import PREDICTION_SCHEMA, Decoded, Inbound, NodeRequest
from edgecc.protocol.sample import Sample
from edgecc.serving.predictor import distance_of, to_message
from edgecc.serving.serving import Serving
from edgecc.serving.unknown import Unknown
from edgecc.store.writer import Store

_AT_ONCE = 32  # samples predicted in one call


@dataclass
class Ingest:
    config: Config
    link: Link
    store: Store
    outbox: Outbox
    serving: Serving
    prequential: Prequential
    monitor: Monitor
    unknown: Unknown
    most_classes: int
    quotas: Quotas
    acked: int = 0  # samples whose PUBACK was handed over since the start
    taken: Counter[str] = field(default_factory=Counter)  # what became of messages, since then

    def __post_init__(self) -> None:
        self._decoder = Decoder(
            self.config, self.quotas, self.store.labels_named(), self.most_classes)
        self._committer = Committer(
            self.config, self.store, self.outbox, self.serving, self.prequential, self.monitor,
            self.unknown, self.quotas)

    def count_on(self, before: "Ingest") -> None:
        """Take over the counters of the ingest that this one replaces."""
        self.acked, self.taken = before.acked, before.taken

    def batch(self, messages: list[Inbound]) -> list[NodeRequest]:
        """Take in `messages`; returns those that are not about samples, for the daemon.

        Once they are committed and acked, the list is empty.
        """
        items = self._predict([self._decoder.decode(message) for message in messages])
        changes = self._committer.commit(items)
        self._ack(messages, items)
        self._announce(changes)
        return [item for item in items if isinstance(item, NodeRequest)]

    def retry(self, kept: list[Kept]) -> list[dict[str, Any]]:
        """Take in messages from quarantine again; what became of each, by its number there.

        Those accepted leave quarantine in the transaction that stores them; the others stay, with
        the reason of this attempt.
        """
        items = self._predict([self._decoder.decode_again(*one) for one in kept])
        self._announce(self._committer.commit(items, out_of=kept))
        return [{"seq": seq, "status": "rejected" if isinstance(item, Rejected) else "taken",
                 "reason": item.reason if isinstance(item, Rejected) else None}
                for (seq, _, _), item in zip(kept, items, strict=True)]

    def note_right(self, body: bytes) -> None:
        """A prediction that its label proved right, as published."""
        self._committer.note_right(*distance_of(body))

    def _predict(self, items: list[Decoded | Rejected]) -> list[Any]:
        """`items`, every sample with its prediction."""
        samples = [item for item in items if isinstance(item, Sample)]
        parts = (samples[first : first + _AT_ONCE] for first in range(0, len(samples), _AT_ONCE))
        predicted = (one for part in parts for one in self._predicted(part))
        return [next(predicted) if isinstance(item, Sample) else item for item in items]

    def _predicted(self, samples: list[Sample]) -> list[Predicted]:
        """Without predictions where none are wanted, or a sensor's scale is not known yet."""
        predictor, started = self.serving.predictor, time.perf_counter()
        if predictor is None or not self.config.predict:
            return [Predicted(sample) for sample in samples]
        features = predictor.features_of([sample.x for sample in samples])
        far = self.unknown.far(self.serving.number)
        predictions = predictor.predict(features, started, far=far)
        return [
            Predicted(sample, of, prediction, to_message(
                prediction, schema=PREDICTION_SCHEMA, sample_id=sample.id, ts=sample.ts))
            for sample, of, prediction in zip(samples, features, predictions, strict=True)
        ]

    def _ack(self, messages: list[Inbound], items: list[Any]) -> None:
        for message, item in zip(messages, items, strict=True):
            sent = self.link.ack(message)
            self.acked += sent and isinstance(item, Predicted | Rejected)
        messages.clear()

    def _announce(self, changes: Changes) -> None:
        self.taken.update(_outcome(one) for many in changes.receipts.values() for one in many)
        self._publish(changes.predictions)
        for event, features in changes.labels:
            self.serving.learn(event, features)
        self.serving.calibrate()

    def _publish(self, predictions: Iterable[tuple[str, bytes]]) -> None:
        """Every prediction; of each source the newest is retained as its state."""
        topics = self.config.topics
        newest: dict[str, bytes] = {}
        for source, body in predictions:
            self.outbox.send(topics.out(source, "prediction"), body)
            newest[source] = body
        for source, body in newest.items():
            self.outbox.send(topics.out(source, "state"), body, retain=True)


def _outcome(receipt: Receipt) -> str:
    """`stored`, `duplicate`, ..; `label stored` and so on for labels."""
    status: str = receipt["status"]
    return f"label {status}" if "label" in receipt else status
