"""The log, to be read: samples, labels, predictions and quarantine, as they are now.

Any number of readers beside the one writer: the learner reads the rows that it trains on, commands
look into the log of a node that runs.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc.errors import StoreError
from edgecc.protocol.messages import Inbound
from edgecc.store.meta import Key, Value
from edgecc.store.queries import Queries


@dataclass(frozen=True)
class LabelEvent:
    """Label number `seq` of the log: sample `row` went from `previous` to `label` (or None)."""

    seq: int
    row: int
    previous: str | None
    label: str | None


@dataclass(frozen=True)
class Known:
    """What the log has under a sample's id."""

    row: int | None = None  # None where the sample is not here
    label: str | None = None
    predicted: str | None = None  # the label that was predicted
    unlearnt: bool = False  # or about to be


def key_of(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()[:16]


class Reader(Queries):
    """A connection that cannot write."""

    def __init__(self, path: Path, mode: str = "ro") -> None:
        self._path = path
        try:
            super().__init__(sqlite3.connect(
                f"file:{path}?mode={mode}", uri=True, isolation_level=None, timeout=30,
                check_same_thread=False))
        except sqlite3.Error as error:
            raise StoreError(f"cannot open {path}: {error}") from error

    def close(self) -> None:
        self._db.close()

    def meta(self, key: Key[Value]) -> Value:
        row = self._db.execute("SELECT value FROM meta WHERE name=?", (key.name,)).fetchone()
        return row[0] if row else key.default

    def outbox(self, after: int, limit: int) -> list[tuple[int, str, bytes, bool]]:
        rows = self._db.execute(
            "SELECT * FROM outbox WHERE seq>? ORDER BY seq LIMIT ?", (after, limit))
        return [(seq, topic, payload, bool(retain)) for seq, topic, payload, retain in rows]

    def known(self, identity: str) -> Known:
        """What there is under a sample's id."""
        row = self._db.execute(
            "SELECT s.row, s.label, p.label, s.unlearnt != 0 FROM sample s "
            "LEFT JOIN prediction p USING (row) WHERE key=:key UNION ALL "
            "SELECT NULL, NULL, NULL, mark IS NOT NULL FROM gone WHERE key=:key",
            {"key": key_of(identity)}).fetchone()
        return Known(*row) if row else Known()

    def prediction(self, row: int) -> bytes | None:
        """Body of the prediction that was made of sample `row`."""
        body: bytes | None = self._value("SELECT body FROM prediction WHERE row=?", row)
        return body

    def payload(self, row: int) -> bytes | None:
        packed: bytes | None = self._value("SELECT packed FROM payload WHERE row=?", row)
        return packed

    def first_payloads(self, count: int) -> tuple[list[bytes], int]:
        """Of the first `count` samples that are here, and the row of the last of these."""
        rows = self._db.execute(
            "SELECT packed, row FROM payload JOIN sample USING (row) WHERE NOT unlearnt "
            "ORDER BY row LIMIT ?", (count,)).fetchall()
        return [payload for payload, _ in rows], max((row for _, row in rows), default=0)

    def labels_after(self, cursor: int, limit: int) -> list[LabelEvent]:
        rows = self._db.execute(
            "SELECT seq, row, previous, label FROM label WHERE seq>? ORDER BY seq LIMIT ?",
            (cursor, limit))
        return [LabelEvent(*row) for row in rows]

    def last_row(self) -> int:
        """Samples ever stored."""
        return self._value("SELECT seq FROM sqlite_sequence WHERE name='sample'") or 0

    def stored(self) -> int:
        """Samples ever stored, without those that were unlearnt since."""
        unlearnt: int = self._value(
            "SELECT COUNT(*) FROM gone WHERE mark IS NOT NULL AND held IS NOT NULL")
        flagged: int = self._value("SELECT COUNT(*) FROM sample WHERE unlearnt")
        return self.last_row() - unlearnt - flagged

    def evicted_after(self, cursor: int) -> int:
        """Samples labelled after `cursor` that a readout saved there cannot learn any more."""
        return int(self._value(
            "SELECT COUNT(DISTINCT row) FROM label l WHERE seq > ? AND row > 0 AND NOT EXISTS "
            "(SELECT 1 FROM sample s WHERE s.row = l.row)", cursor))

    def knows_unlearnt(self, cursor: int) -> bool:
        """True where a readout saved at label `cursor` has learnt what was unlearnt since."""
        return self._value(
            "SELECT 1 FROM gone WHERE mark > ? AND first <= ? LIMIT 1", cursor, cursor) is not None

    def last_label(self) -> int:
        return self._value("SELECT MAX(seq) FROM label") or 0

    def labelled(self, cursor: int) -> Iterator[tuple[int, str, bool, str, float]]:
        """(row, label, held out, source, ts) of every sample that had a label at `cursor` and is
        still here, in order of arrival."""
        return self._db.execute(
            "SELECT l.row, l.label, s.held, s.source, s.ts FROM label l JOIN sample s USING (row) "
            "WHERE l.label IS NOT NULL AND l.seq = (SELECT MAX(seq) FROM label m "
            "WHERE m.row = l.row AND m.seq <= ?) ORDER BY l.row", (cursor,))

    def held_out(self, limit: int) -> list[tuple[int, str]]:
        """(row, label) of up to `limit` samples that are held out, those of the least id hash."""
        return self._db.execute(
            "SELECT row, label FROM sample WHERE held AND label IS NOT NULL AND NOT unlearnt "
            "ORDER BY key LIMIT ?", (limit,)).fetchall()

    def usage(self) -> dict[str, tuple[int, int]]:
        """(rows, bytes) kept of each label, '' for unlabelled samples."""
        classes = self._db.execute("SELECT label, rows, bytes FROM usage WHERE rows > 0")
        return {label: (rows, size) for label, rows, size in classes}

    def bytes_of(self, label: str) -> int:
        """Bytes kept of one label, '' for unlabelled samples."""
        return self._value("SELECT bytes FROM usage WHERE label=?", label) or 0

    def oldest_unlabelled(self, *, upto: int) -> int | None:
        """Of the unlabelled samples with no label after `upto`, the oldest."""
        row: int | None = self._value(
            "SELECT s.row FROM sample s WHERE s.label IS NULL AND NOT EXISTS ("
            "SELECT 1 FROM label l WHERE l.row = s.row AND l.seq > ?) ORDER BY s.row LIMIT 1", upto)
        return row

    def last_by_hash(self, label: str, *, upto: int) -> int | None:
        """Of `label`'s samples with no label after `upto`, the highest id hash."""
        row: int | None = self._value(
            "SELECT s.row FROM sample s WHERE s.label = ? AND NOT EXISTS ("
            "SELECT 1 FROM label l WHERE l.row = s.row AND l.seq > ?) "
            "ORDER BY s.key DESC LIMIT 1", label, upto)
        return row

    def class_counts(self, cursor: int) -> dict[str, int]:
        """Samples of each class at `cursor`, evicted ones included."""
        return dict(self._db.execute(
            "SELECT name, SUM(one) FROM ("
            "SELECT label AS name, 1 AS one FROM label WHERE seq <= ? UNION ALL "
            "SELECT previous, -1 FROM label WHERE seq <= ?) "
            "WHERE name IS NOT NULL GROUP BY name", (cursor, cursor)).fetchall())

    def classes(self, cursor: int) -> list[str]:
        """Class names in the order in which the log first named them."""
        return self._column(
            "SELECT label FROM label WHERE seq<=? AND label IS NOT NULL AND row NOT IN "
            "(SELECT row FROM sample WHERE unlearnt) GROUP BY label ORDER BY MIN(seq)", cursor)

    def labels_named(self) -> set[str]:
        """Every label that was ever given to a sample, or waits for one."""
        return set(self._column(
            "SELECT label FROM usage WHERE label != '' UNION "
            "SELECT label FROM pending WHERE label NOT NULL UNION SELECT label FROM distrusted"))

    def hits(self, limit: int) -> list[int]:
        """The newest `limit` first labels, newest last: 1 where the prediction was right."""
        return self._column(
            "SELECT hit FROM label WHERE hit IS NOT NULL ORDER BY seq DESC LIMIT ?", limit)[::-1]

    def right_predictions(self, limit: int) -> list[bytes]:
        """The newest `limit` predictions that their labels proved right, newest last."""
        return self._column(
            "SELECT p.body FROM (SELECT row, seq FROM label WHERE hit ORDER BY seq DESC LIMIT ?) "
            "JOIN prediction p USING (row) ORDER BY seq", limit)

    def hit_counts(self) -> tuple[int, int]:
        """(right, all) of the predictions that were later labelled."""
        counts: tuple[int, int] = self._db.execute("SELECT right, labels FROM scored").fetchone()
        return counts

    def counts(self) -> dict[str, int]:
        queries = {
            "samples": "SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name='sample'",
            "kept": "SELECT COALESCE(SUM(rows), 0) FROM usage",
            "bytes": "SELECT COALESCE(SUM(bytes), 0) FROM usage",
            "labels": "SELECT COALESCE(MAX(seq), 0) FROM label",
            "pending": "SELECT COUNT(*) FROM pending",
            "quarantined": "SELECT COALESCE(MAX(seq), 0) FROM quarantine",
            "outbox": "SELECT COUNT(*) FROM outbox",
        }
        return {name: self._value(query) for name, query in queries.items()}

    def sources(self) -> list[str]:
        """Everyone who ever sent a sample that is known of."""
        return self._column(
            "SELECT source FROM sample UNION SELECT source FROM gone WHERE source IS NOT NULL")

    def samples(
        self, limit: int, *, source: str | None = None, since: float | None = None
    ) -> list[dict[str, Any]]:
        rows = self._db.execute(
            "SELECT id, source, ts, label, held FROM sample WHERE source=COALESCE(?, source) "
            "AND ts>=COALESCE(?, ts) ORDER BY row DESC LIMIT ?", (source, since, limit))
        return [{"id": identity, "source": given, "ts": ts, "label": label, "held_out": bool(held)}
                for identity, given, ts, label, held in rows]

    def quarantined(self, limit: int) -> list[dict[str, Any]]:
        rows = self._db.execute(
            "SELECT seq, ts, topic, reason, LENGTH(payload) FROM quarantine "
            "ORDER BY seq DESC LIMIT ?", (limit,))
        return [dict(zip(("seq", "ts", "topic", "reason", "bytes"), row, strict=True))
                for row in rows]

    def quarantine_messages(self) -> Iterator[tuple[int, float, Inbound]]:
        """Number, time and message of all that is in quarantine."""
        return self._quarantined("1")

    def quarantined_after(
        self, seq: int, limit: int, root: str
    ) -> list[tuple[int, float, Inbound]]:
        """The same of the first `limit` beyond number `seq` on topics that start with `root`."""
        return list(self._quarantined(
            "seq>? AND SUBSTR(topic, 1, ?)=? ORDER BY seq LIMIT ?", seq, len(root), root, limit))

    def _quarantined(self, where: str, *values: Any) -> Iterator[tuple[int, float, Inbound]]:
        rows = self._db.execute(
            f"SELECT seq, ts, topic, payload, content_type, user FROM quarantine WHERE {where}",
            values)
        for seq, ts, topic, payload, kind, user in rows:
            yield seq, ts, Inbound(topic, payload, content_type=kind, user=json.loads(user))
