"""The log: one SQLite file that is queue, journal and replay memory at once.

One writer (the daemon), any number of readers (the learner). What a transaction has committed
survives a power cut; a sample, a label or a prediction is in it once, however often it is sent.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgecc.errors import StorageFull, StoreError
from edgecc.protocol.messages import Inbound, Label
from edgecc.protocol.sample import Sample
from edgecc.store.distrusted import Distrusted
from edgecc.store.erasure import Erasure
from edgecc.store.growth_log import GrowthLog
from edgecc.store.meta import MOVED, Key, Value
from edgecc.store.migrations import MIGRATIONS
from edgecc.store.reader import Known, LabelEvent, Reader, key_of
from edgecc.store.requests import Requests

HELD_OUT_IN = 20  # one labelled sample in twenty judges candidates and is never trained on
_PAGE = 1024  # bytes; a sample touches ten pages, and each is written whole at every commit
_WAL = 4 * 2**20  # bytes of it after which it is worked into the file
QUARANTINE_ROWS = 1000  # the newest are kept; the counter counts all
QUARANTINE_BYTES = 16 * 2**20  # or as many of the newest as take this, and the newest at least
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
_ROOM = 2**20  # bytes
_KNOWN = """
    SELECT 1, row, NULL, NULL FROM sample WHERE key=:key
    UNION ALL SELECT 1, NULL, NULL, NULL FROM gone WHERE key=:key
    UNION ALL SELECT 0, NULL, label, source FROM pending WHERE key=:key
"""


class Labelled(NamedTuple):
    event: LabelEvent
    hit: bool | None  # whether the stored prediction was right; None where it is not scored


@dataclass(frozen=True)
class Recorded:
    row: int | None  # None for a duplicate whose sample was evicted or erased
    new: bool  # False for a duplicate
    labelled: Labelled | None = None
    waiting: Label | None = None  # a label that arrived before its sample, and is due now


class Store(Reader):
    """The one writer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rwc")
        try:
            self._open_writer()
            self.erasure, self.requests = Erasure(self._db), Requests(self._db)
            self.distrusted, self.growths = Distrusted(self._db), GrowthLog(self._db)
        except sqlite3.Error as error:
            raise StoreError(f"cannot open {path}: {error}") from error

    def _open_writer(self) -> None:
        self._db.execute(f"PRAGMA page_size={_PAGE}")  # of a new file
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint={_WAL // _PAGE}")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA secure_delete=ON")
        version = self._value("PRAGMA user_version")
        if version > len(MIGRATIONS):
            self._db.close()
            raise StoreError(f"{self._path} is of a newer edgecc (log version {version}); upgrade")
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN; {script} PRAGMA user_version={number}; COMMIT;")

    def on_progress(self, progress: Callable[[], None], *, every: int = 1_000_000) -> None:
        """Have `progress` called while statements run, every so many of SQLite's instructions."""
        self._db.set_progress_handler(progress, every)

    def scrub(self) -> bool:
        """See `Erasure.scrub`; outside a transaction."""
        with self._errors():
            return self.erasure.scrub()

    def rewrite(self) -> None:
        """See `Erasure.rewrite`; outside a transaction."""
        with self._errors():
            self.erasure.rewrite()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) in _FULL
            kind = StorageFull if full else StoreError
            raise kind(f"{self._path}: {error}") from error

    def has_room(self) -> bool:
        """True where a mebibyte can be committed."""
        try:
            with self.transaction():
                self._db.execute("INSERT INTO meta VALUES ('room', zeroblob(?))", (_ROOM,))
        except StorageFull:
            return False
        with self.transaction():
            self._db.execute("DELETE FROM meta WHERE name='room'")
        return True

    @contextmanager
    def transaction(self, *, keep: bool = True) -> Iterator[None]:
        """All or nothing, durable once it returns; without `keep`, to see what it would do."""
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT" if keep else "ROLLBACK")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself takes some back
                    self._db.execute("ROLLBACK")
                raise

    # --- writing, inside a transaction ---

    def record(
        self, sample: Sample, prediction: tuple[str | None, bytes] | None = None,
        label: str | None = None,
    ) -> Recorded:
        """Store a sample with its prediction (label, body) and the label that came with it.

        A sample whose id was stored or unlearnt before changes nothing.
        """
        key = key_of(sample.id)
        waiting = None
        for known, row, early, source in self._db.execute(_KNOWN, {"key": key}):
            if known:
                return Recorded(row, new=False)
            waiting = Label(sample.id, early, source)
        row = self._insert_sample(key, sample, label)
        if prediction is not None:
            self._db.execute("INSERT INTO prediction VALUES (?,?,?)", (row, *prediction))
        labelled = None
        if label is not None:
            predicted = None if prediction is None else prediction[0]
            hit = None if predicted is None else predicted == label
            labelled = self._log_label(Label(sample.id, label, sample.source), row, None, hit)
        if waiting is not None:
            self._db.execute("DELETE FROM pending WHERE key=?", (key,))
        return Recorded(row, new=True, labelled=labelled, waiting=waiting)

    def _insert_sample(self, key: bytes, sample: Sample, label: str | None) -> int:
        held = int.from_bytes(key[:4], "big") % HELD_OUT_IN == 0
        packed = sample.pack()
        row = self._db.execute(
            "INSERT INTO sample (key, id, source, ts, label, held, bytes) VALUES (?,?,?,?,?,?,?)",
            (key, sample.id, sample.source, sample.ts, label, held, len(packed)),
        ).lastrowid
        assert row is not None
        self._db.execute("INSERT INTO payload VALUES (?,?)", (row, packed))
        return row

    def add_label(self, label: Label, known: Known | None = None) -> Labelled | None:
        """Log a label; known: what `known` says of its sample, if at hand.

        None where it changes nothing, or where its sample is not here (yet) and it waits.
        """
        known = known or self.known(label.id)
        if known.row is None:
            self._db.execute(
                "INSERT OR REPLACE INTO pending VALUES (?,?,?,?,?)",
                (key_of(label.id), label.id, label.label, label.source, time.time()))
            return None
        if label.redelivered and self._logged(known.row, label):
            return None
        if known.label == label.label:
            return None
        hit = None
        if None not in (label.label, known.predicted) and not self._was_labelled(known.row):
            hit = known.predicted == label.label
        labelled = self._log_label(label, known.row, known.label, hit)
        self._db.execute("UPDATE sample SET label=? WHERE row=?", (label.label, known.row))
        return labelled

    def _log_label(
        self, label: Label, row: int, previous: str | None, hit: bool | None
    ) -> Labelled:
        seq = self._db.execute(
            "INSERT INTO label (row, previous, label, source, ts, hit, mid) VALUES (?,?,?,?,?,?,?)",
            (row, previous, label.label, label.source, time.time(), hit, label.mid),
        ).lastrowid
        assert seq is not None
        return Labelled(LabelEvent(seq, row, previous, label.label), hit)

    def _logged(self, row: int, label: Label) -> bool:
        """Whether this very packet is in the log: the label alone may have been given before."""
        return self._value(
            "SELECT 1 FROM label WHERE row=? AND label IS ? AND source=? AND mid=? LIMIT 1",
            row, label.label, label.source, label.mid) is not None

    def _was_labelled(self, row: int) -> bool:
        return self._value("SELECT 1 FROM label WHERE row=? LIMIT 1", row) is not None

    def quarantine(self, message: Inbound, reason: str) -> None:
        self._db.execute(
            "INSERT INTO quarantine (ts, topic, reason, content_type, user, payload) "
            "VALUES (?,?,?,?,?,?)",
            (time.time(), message.topic, reason, message.content_type,
             json.dumps(dict(message.user)), message.payload))

    def trim_quarantine(self) -> None:
        """Keep the newest that are within its bounds, in rows and in bytes."""
        self._db.execute(
            "DELETE FROM quarantine WHERE seq <= (SELECT MAX(seq) FROM (SELECT seq, "
            "SUM(LENGTH(payload) + LENGTH(user) + LENGTH(topic)) OVER newest AS size, "
            "ROW_NUMBER() OVER newest AS place FROM quarantine "
            "WINDOW newest AS (ORDER BY seq DESC)) WHERE place > ? OR (size > ? AND place > 1))",
            (QUARANTINE_ROWS, QUARANTINE_BYTES))

    def still_quarantined(self, seq: int, reason: str) -> None:
        self._db.execute("UPDATE quarantine SET reason=? WHERE seq=?", (reason, seq))

    def put_outbox(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        return self._db.execute(
            "INSERT INTO outbox (topic, payload, retain) VALUES (?,?,?)", (topic, payload, retain)
        ).lastrowid or 0

    def drop_outbox(self, seq: int) -> None:
        self._db.execute("DELETE FROM outbox WHERE seq=?", (seq,))

    def remove_sample(self, row: int) -> None:
        """Delete a sample; its id stays known, so that a redelivery is still a duplicate."""
        self._db.execute(
            "INSERT OR IGNORE INTO gone (key, at, row, source, ts, held) SELECT key, CASE WHEN "
            "EXISTS (SELECT 1 FROM label l WHERE l.row = sample.row) THEN 9e999 ELSE ? END, "
            "row, source, ts, held FROM sample WHERE row=?", (time.time(), row))
        for table in ("prediction", "payload", "sample"):
            self._db.execute(f"DELETE FROM {table} WHERE row=?", (row,))
        self.set_meta(MOVED, 1)

    def drop_old_ids(self, before: float) -> None:
        """From before this time: ids that nothing was learnt from, waiting labels, answers."""
        self._db.execute(
            "DELETE FROM gone WHERE at<? AND mark IS NULL AND unlearnt=0", (before,))
        self._db.execute("DELETE FROM pending WHERE ts<?", (before,))
        self._db.execute("DELETE FROM unlearning WHERE ts<? AND phase='done'", (before,))

    def set_meta(self, key: Key[Value], value: Value) -> None:
        """None removes it."""
        self._db.execute("DELETE FROM meta WHERE name=?", (key.name,))
        if value is not None:
            self._db.execute("INSERT INTO meta VALUES (?,?)", (key.name, value))

    def misses(self) -> dict[str, str]:
        """What is known of each class's labels lately, as `set_misses` was told."""
        return dict(self._db.execute("SELECT label, by_source FROM misses").fetchall())

    def set_misses(self, label: str, by_source: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO misses VALUES (?,?)", (label, by_source))
