"""The log: one SQLite file that is queue, journal and replay memory at once.

One writer (the daemon), any number of readers (the learner). What a transaction has committed
survives a power cut; a sample, a label or a prediction is in it once, however often it is sent.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc.errors import StoreError
from edgecc.messages import Inbound, Label
from edgecc.sample import Sample
from edgecc.schema import MIGRATIONS

HELD_OUT_IN = 20  # one labelled sample in twenty judges candidates and is never trained on
QUARANTINE_ROWS = 1000  # the newest are kept; the counter counts all
@dataclass(frozen=True)
class LabelEvent:
    """Label number `seq` of the log: sample `row` went from `previous` to `label` (or None)."""

    seq: int
    row: int
    previous: str | None
    label: str | None


@dataclass(frozen=True)
class Growth:
    """One growth of the trunk, from the stem up, on everything labelled up to `cursor`."""

    number: int
    cursor: int
    recipe: dict[str, Any]


def key_of(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()[:16]


class Store:
    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(
                f"file:{path}?mode={'ro' if read_only else 'rwc'}",
                uri=True, isolation_level=None, timeout=30, check_same_thread=False,
            )
            if not read_only:
                self._open_writer()
        except sqlite3.Error as error:
            raise StoreError(f"cannot open {path}: {error}") from error

    def _open_writer(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            self._db.close()
            raise StoreError(f"{self._path} is of a newer edgecc (log version {version}); upgrade")
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN; {script} PRAGMA user_version={number}; COMMIT;")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; durable once it returns."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error

    # --- writing, inside a transaction ---

    def add_sample(self, sample: Sample) -> int | None:
        """The new row; None where this id was stored before."""
        key = key_of(sample.id)
        if self._db.execute(
            "SELECT 1 FROM sample WHERE key=? UNION ALL SELECT 1 FROM gone WHERE key=?", (key, key)
        ).fetchone():
            return None
        held = int.from_bytes(key[:4], "big") % HELD_OUT_IN == 0
        return self._db.execute(
            "INSERT INTO sample (key, id, source, ts, held, payload) VALUES (?,?,?,?,?,?)",
            (key, sample.id, sample.source, sample.ts, held, sample.pack()),
        ).lastrowid

    def add_prediction(self, row: int, label: str | None, body: bytes) -> None:
        self._db.execute("INSERT INTO prediction VALUES (?,?,?)", (row, label, body))

    def add_label(self, label: Label) -> tuple[LabelEvent, bool | None] | None:
        """The label's event, and whether the stored prediction was right (None: not scored).

        None where it changes nothing, or where its sample is not here (yet) and it waits.
        """
        key = key_of(label.id)
        found = self._db.execute(
            "SELECT s.row, s.label, p.label FROM sample s LEFT JOIN prediction p ON p.row = s.row "
            "WHERE s.key=?", (key,)
        ).fetchone()
        if found is None:
            self._db.execute(
                "INSERT OR REPLACE INTO pending VALUES (?,?,?,?,?,?)",
                (key, label.id, label.label, label.unlearn, label.source, time.time()),
            )
            return None
        row, previous, predicted = found
        if label.redelivered and self._logged(row, label):
            return None
        if label.unlearn:
            self._db.execute("UPDATE sample SET unlearnt=1 WHERE row=?", (row,))
        if previous == label.label:
            return None
        return self._log_label(label, row, previous, predicted)

    def _log_label(
        self, label: Label, row: int, previous: str | None, predicted: str | None
    ) -> tuple[LabelEvent, bool | None]:
        hit = None
        if label.label is not None and predicted is not None and not self._was_labelled(row):
            hit = predicted == label.label
        seq = self._db.execute(
            "INSERT INTO label (row, previous, label, source, ts, hit) VALUES (?,?,?,?,?,?)",
            (row, previous, label.label, label.source, time.time(), hit),
        ).lastrowid
        self._db.execute("UPDATE sample SET label=? WHERE row=?", (label.label, row))
        assert seq is not None
        return LabelEvent(seq, row, previous, label.label), hit

    def _logged(self, row: int, label: Label) -> bool:
        found = self._db.execute(
            "SELECT 1 FROM label WHERE row=? AND label IS ? AND source=? LIMIT 1",
            (row, label.label, label.source),
        )
        return found.fetchone() is not None

    def _was_labelled(self, row: int) -> bool:
        found = self._db.execute("SELECT 1 FROM label WHERE row=? LIMIT 1", (row,))
        return found.fetchone() is not None

    def take_pending(self, identity: str) -> Label | None:
        """The label that arrived before its sample, now due."""
        found = self._db.execute(
            "DELETE FROM pending WHERE key=? RETURNING id, label, source, unlearn",
            (key_of(identity),),
        ).fetchone()
        return Label(found[0], found[1], found[2], bool(found[3])) if found else None

    def quarantine(self, message: Inbound, reason: str) -> None:
        seq = self._db.execute(
            "INSERT INTO quarantine (ts, topic, reason, content_type, user, payload) "
            "VALUES (?,?,?,?,?,?)",
            (time.time(), message.topic, reason, message.content_type,
             json.dumps(dict(message.user)), message.payload),
        ).lastrowid
        self._db.execute("DELETE FROM quarantine WHERE seq<=?", ((seq or 0) - QUARANTINE_ROWS,))

    def put_outbox(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        return self._db.execute(
            "INSERT INTO outbox (topic, payload, retain) VALUES (?,?,?)", (topic, payload, retain)
        ).lastrowid or 0

    def drop_outbox(self, seq: int) -> None:
        self._db.execute("DELETE FROM outbox WHERE seq=?", (seq,))

    def remove_sample(self, row: int) -> None:
        """Delete a sample; its id stays known, so that a redelivery is still a duplicate."""
        self._db.execute(
            "INSERT OR IGNORE INTO gone SELECT key, ? FROM sample WHERE row=?", (time.time(), row)
        )
        self._db.execute("DELETE FROM prediction WHERE row=?", (row,))
        self._db.execute("DELETE FROM sample WHERE row=?", (row,))

    def set_meta(self, name: str, value: str | int | float) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, value))

    def open_growth(self, growth: Growth) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO growth (number, cursor, recipe) VALUES (?,?,?)",
            (growth.number, growth.cursor, json.dumps(growth.recipe)),
        )

    def add_verdict(self, growth: int, block: int, body: dict[str, Any]) -> bool:
        """False where this verdict was recorded before."""
        done = self._db.execute(
            "INSERT OR IGNORE INTO verdict VALUES (?,?,?)", (growth, block, json.dumps(body))
        )
        return bool(done.rowcount)

    def close_growth(self, number: int) -> None:
        self._db.execute("UPDATE growth SET closed=1 WHERE number=?", (number,))

    # --- reading ---

    def meta(self, name: str, default: Any = None) -> Any:
        found = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return found[0] if found else default

    def outbox(self, after: int, limit: int) -> list[tuple[int, str, bytes, bool]]:
        rows = self._db.execute(
            "SELECT * FROM outbox WHERE seq>? ORDER BY seq LIMIT ?", (after, limit)
        )
        return [(seq, topic, payload, bool(retain)) for seq, topic, payload, retain in rows]

    def row_of(self, identity: str) -> int | None:
        found = self._db.execute("SELECT row FROM sample WHERE key=?", (key_of(identity),))
        return next((row for (row,) in found), None)

    def prediction_of(self, identity: str) -> bytes | None:
        found = self._db.execute(
            "SELECT p.body FROM sample s JOIN prediction p USING (row) WHERE s.key=?",
            (key_of(identity),),
        ).fetchone()
        return found[0] if found else None

    def payload(self, row: int) -> bytes | None:
        found = self._db.execute("SELECT payload FROM sample WHERE row=?", (row,)).fetchone()
        return found[0] if found else None

    def first_payloads(self, count: int) -> list[bytes]:
        rows = self._db.execute("SELECT payload FROM sample ORDER BY row LIMIT ?", (count,))
        return [payload for (payload,) in rows]

    def labels_after(self, cursor: int, limit: int) -> list[LabelEvent]:
        rows = self._db.execute(
            "SELECT seq, row, previous, label FROM label WHERE seq>? ORDER BY seq LIMIT ?",
            (cursor, limit),
        )
        return [LabelEvent(*row) for row in rows]

    def last_row(self) -> int:
        """Samples ever stored."""
        found = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name='sample'").fetchone()
        return int(found[0]) if found else 0

    def last_label(self) -> int:
        return int(self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM label").fetchone()[0])

    def labelled(self, cursor: int) -> Iterator[tuple[int, str, bool]]:
        """(row, label, held out) of every sample that had a label at `cursor` and is still here."""
        return self._db.execute(
            "SELECT l.row, l.label, s.held FROM label l JOIN sample s USING (row) "
            "WHERE l.label IS NOT NULL AND l.seq = (SELECT MAX(seq) FROM label m "
            "WHERE m.row = l.row AND m.seq <= ?) ORDER BY l.row", (cursor,)
        )

    def forget_ids(self, before: float) -> None:
        """Ids of samples that left, and labels still waiting, from before this time."""
        self._db.execute("DELETE FROM gone WHERE at<?", (before,))
        self._db.execute("DELETE FROM pending WHERE ts<?", (before,))

    def usage(self) -> dict[str, tuple[int, int]]:
        """(rows, bytes) kept of each label, '' for unlabelled samples."""
        found = self._db.execute("SELECT label, rows, bytes FROM usage WHERE rows > 0")
        return {label: (rows, size) for label, rows, size in found}

    def oldest_unlabelled(self, *, upto: int) -> int | None:
        """Of the unlabelled samples with no label after `upto`, the oldest."""
        found = self._db.execute(
            "SELECT s.row FROM sample s WHERE s.label IS NULL AND NOT EXISTS ("
            "SELECT 1 FROM label l WHERE l.row = s.row AND l.seq > ?) ORDER BY s.row LIMIT 1",
            (upto,)
        ).fetchone()
        return found[0] if found else None

    def last_by_hash(self, label: str, *, upto: int) -> int | None:
        """Of `label`'s samples with no label after `upto`, the highest id hash."""
        found = self._db.execute(
            "SELECT s.row FROM sample s WHERE s.label = ? AND NOT EXISTS ("
            "SELECT 1 FROM label l WHERE l.row = s.row AND l.seq > ?) "
            "ORDER BY s.key DESC LIMIT 1", (label, upto)
        ).fetchone()
        return found[0] if found else None

    def unlearnt(self, upto: int) -> list[int]:
        """Samples to be removed whose removal every label up to `upto` knows of."""
        found = self._db.execute(
            "SELECT row FROM sample s WHERE unlearnt AND label IS NULL AND COALESCE("
            "(SELECT MAX(seq) FROM label l WHERE l.row = s.row), 0) <= ?", (upto,)
        )
        return [row for (row,) in found]

    def class_counts(self, cursor: int) -> dict[str, int]:
        """Samples of each class at `cursor`, evicted ones included."""
        found = self._db.execute(
            "SELECT name, SUM(one) FROM ("
            "SELECT label AS name, 1 AS one FROM label WHERE seq <= ? UNION ALL "
            "SELECT previous, -1 FROM label WHERE seq <= ?) "
            "WHERE name IS NOT NULL GROUP BY name", (cursor, cursor)
        )
        return dict(found.fetchall())

    def classes(self, cursor: int) -> list[str]:
        """Class names in the order in which the log first named them."""
        rows = self._db.execute(
            "SELECT label FROM label WHERE seq<=? AND label IS NOT NULL "
            "GROUP BY label ORDER BY MIN(seq)", (cursor,)
        )
        return [label for (label,) in rows]

    def hits(self, limit: int) -> list[int]:
        """The newest `limit` first labels, newest last: 1 where the prediction was right."""
        rows = self._db.execute(
            "SELECT hit FROM label WHERE hit IS NOT NULL ORDER BY seq DESC LIMIT ?", (limit,)
        )
        return [hit for (hit,) in rows][::-1]

    def hit_counts(self) -> tuple[int, int]:
        """(right, all) of the predictions that were later labelled."""
        right, total = self._db.execute("SELECT SUM(hit), COUNT(hit) FROM label").fetchone()
        return right or 0, total

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
        return {name: self._db.execute(query).fetchone()[0] for name, query in queries.items()}

    def open_growths(self) -> list[Growth]:
        rows = self._db.execute(
            "SELECT number, cursor, recipe FROM growth WHERE closed=0 ORDER BY number"
        )
        return [Growth(number, cursor, json.loads(recipe)) for number, cursor, recipe in rows]

    def verdicts(self) -> list[dict[str, Any]]:
        rows = self._db.execute("SELECT body FROM verdict ORDER BY growth, block")
        return [json.loads(body) for (body,) in rows]

    def samples(self, limit: int) -> list[dict[str, Any]]:
        rows = self._db.execute(
            "SELECT id, source, ts, label FROM sample ORDER BY row DESC LIMIT ?", (limit,)
        )
        names = ("id", "source", "ts", "label")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def quarantined(self, limit: int) -> list[dict[str, Any]]:
        rows = self._db.execute(
            "SELECT seq, ts, topic, reason, LENGTH(payload) FROM quarantine "
            "ORDER BY seq DESC LIMIT ?", (limit,)
        )
        return [dict(zip(("seq", "ts", "topic", "reason", "bytes"), row, strict=True))
                for row in rows]
