"""How the log erases the samples of a request; all but `scrub` and `rewrite` in a transaction.

A sample to be unlearnt is flagged with the number of its request, and its label is retracted by an
event like any other, so that each readout unlearns it as it follows the log. Once all have, it is
erased: payload, prediction and labels. A hash of its id stays, so that it is not taken in again.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from typing import Any

from edgecc.protocol.selection import Selection
from edgecc.store import meta
from edgecc.store.queries import Queries
from edgecc.store.reader import key_of
from edgecc.store.requests import Answer

_NAMED = 100  # evicted samples that an answer names
_BUSY = 1000  # milliseconds to wait for readers of the log before trying again later

_CHOSEN = """(
    SELECT row, held, NULL AS first FROM sample WHERE unlearnt = :number UNION ALL
    SELECT row, held, first FROM gone WHERE unlearnt = :number AND row IS NOT NULL AND :deep)"""
_FIRST = "(SELECT MIN(seq) FROM label l WHERE l.row = {0}.row)"
_LABELLED = "EXISTS (SELECT 1 FROM label l WHERE l.row = gone.row AND l.label IS NOT NULL)"


class Erasure(Queries):
    # --- choosing ---

    def flag(self, number: int, chosen: Selection) -> Answer:
        """Flag the samples of request `number` and retract their labels; how many there are."""
        for where, values in _conditions(chosen):
            self._db.execute(
                f"UPDATE sample SET unlearnt=? WHERE unlearnt=0 AND {where}", (number, *values))
            self._db.execute(
                f"UPDATE gone SET unlearnt=? WHERE unlearnt=0 AND {where}", (number, *values))
        pending = self._drop_pending(chosen)
        unknown = self._unknown(chosen, pending)
        if chosen.unseen:
            self.keep_out(unknown)
        held, labelled = self._db.execute(
            "SELECT COALESCE(SUM(held), 0), COUNT(*) FROM sample "
            "WHERE unlearnt=? AND label IS NOT NULL", (number,)).fetchone()
        evicted, named = self._evicted(number, chosen)
        answer = Answer(
            samples=self._value("SELECT COUNT(*) FROM sample WHERE unlearnt=?", number),
            labelled=labelled, held_out=held, pending=len(pending), unknown=unknown,
            already=self._value(
                "SELECT COUNT(*) FROM gone WHERE unlearnt=? AND mark IS NOT NULL", number),
            evicted=evicted, evicted_ids=named)
        self._retract_labels(number)
        return answer

    def _retract_labels(self, number: int) -> None:
        self._db.execute(
            "INSERT INTO label (row, previous, label, source, ts) SELECT row, label, NULL, '', ? "
            "FROM sample WHERE unlearnt=? AND label IS NOT NULL ORDER BY row",
            (time.time(), number))
        self._db.execute(
            "UPDATE sample SET label=NULL WHERE unlearnt=? AND label IS NOT NULL", (number,))

    def _drop_pending(self, chosen: Selection) -> list[str]:
        """Delete labels that wait for a sample; a sample chosen by its id is kept out for good."""
        dropped: list[str] = []
        for where, values in _conditions(chosen):
            dropped += self._column(f"DELETE FROM pending WHERE {where} RETURNING id", *values)
        if chosen.ids:
            self.keep_out(dropped)
        return dropped

    def _unknown(self, chosen: Selection, pending: list[str]) -> list[str]:
        known = "SELECT 1 FROM sample WHERE key=:key UNION ALL SELECT 1 FROM gone WHERE key=:key"
        return [
            identity for identity in chosen.ids if identity not in pending
            and self._db.execute(known, {"key": key_of(identity)}).fetchone() is None
        ]

    def _evicted(self, number: int, chosen: Selection) -> tuple[int, list[str]]:
        """Samples learnt, and no longer here to be subtracted: how many, and ids or hashes."""
        names = {key_of(identity): identity for identity in chosen.ids}
        keys = self._column(
            f"SELECT key FROM gone WHERE unlearnt=? AND mark IS NULL AND {_LABELLED} ORDER BY row",
            number)
        return len(keys), [names.get(key, key.hex()) for key in keys[:_NAMED]]

    def keep_out(self, identities: Iterable[str]) -> None:
        """Keep out samples with these ids."""
        self._db.executemany(
            "INSERT OR IGNORE INTO gone (key, at, mark) VALUES (?,?,0)",
            [(key_of(identity), time.time()) for identity in identities])

    def drop_quarantined(self, seqs: Iterable[int]) -> None:
        ones = [(seq,) for seq in seqs]
        self._db.executemany(
            "UPDATE quarantine SET payload=zeroblob(LENGTH(payload)) WHERE seq=?", ones)
        self._db.executemany("DELETE FROM quarantine WHERE seq=?", ones)

    # --- where the samples left traces ---

    def first(self, number: int, *, deep: bool) -> int | None:
        """The first label that any of the samples had; with `deep`, evicted ones too."""
        first: int | None = self._about(
            f"SELECT MIN(COALESCE(c.first, {_FIRST.format('c')})) FROM {_CHOSEN} c", number, deep
        ).fetchone()[0]
        return first

    def first_row(self, number: int, *, deep: bool) -> int | None:
        row: int | None = self._about(
            f"SELECT MIN(row) FROM {_CHOSEN}", number, deep).fetchone()[0]
        return row

    def drawn(self, number: int, cursor: int, *, deep: bool) -> tuple[int, int]:
        """How many samples trained a growth at `cursor`, and how many, held out, evaluated it."""
        rows = self._about(
            f"SELECT c.held, COUNT(*) FROM {_CHOSEN} c WHERE c.first <= :cursor OR EXISTS ("
            "SELECT 1 FROM label l WHERE l.row = c.row AND l.label IS NOT NULL AND l.seq = ("
            "SELECT MAX(seq) FROM label m WHERE m.row = c.row AND m.seq <= :cursor)) "
            "GROUP BY c.held", number, deep, cursor=cursor)
        counts = {bool(held): count for held, count in rows}
        return counts.get(False, 0), counts.get(True, 0)

    # --- erasing ---

    def newest_of(self, number: int) -> list[str]:
        """Sources whose newest sample request `number` erases."""
        return self._column(
            "SELECT source FROM sample WHERE unlearnt=? AND row IN "
            "(SELECT MAX(row) FROM sample GROUP BY source)", number)

    def erase(self, number: int, *, mark: int, deep: bool) -> None:
        """Delete the samples; an empty label event stays at `mark`, where readouts have cursors."""
        given = {"number": number, "mark": mark, "deep": deep, "now": time.time()}
        rows = "(SELECT row FROM sample WHERE unlearnt = :number)"
        left = "(SELECT row FROM gone WHERE unlearnt = :number AND mark IS NOT NULL)"
        for sql in (
            # overwritten in place first: deleting moves the neighbours, and might leave copies
            f"UPDATE payload SET packed=zeroblob(LENGTH(packed)) WHERE row IN {rows}",
            "INSERT OR REPLACE INTO gone (key, at, row, source, ts, held, first, mark, unlearnt) "
            f"SELECT key, :now, row, source, ts, held, {_FIRST.format('sample')}, :mark, :number "
            "FROM sample WHERE unlearnt = :number",
            f"UPDATE gone SET first={_FIRST.format('gone')}, mark=:mark WHERE unlearnt = :number "
            f"AND mark IS NULL AND (:deep OR NOT {_LABELLED})",
            "UPDATE label SET row=0, previous=NULL, label=NULL, source='', hit=NULL "
            f"WHERE seq = :mark AND row IN {left}",
            f"DELETE FROM label WHERE row IN {left}",
            f"INSERT OR REPLACE INTO meta SELECT 'moved', 1 WHERE EXISTS {rows}",
            f"DELETE FROM payload WHERE row IN {rows}",
            f"DELETE FROM prediction WHERE row IN {rows}",
            "DELETE FROM sample WHERE unlearnt = :number",
        ):
            self._db.execute(sql, given)

    def compact(self, number: int, first: int) -> None:
        """Renumber the labels from `first` on, as if what was erased had never been there.

        No readout or generation may be left whose cursor is at `first` or beyond.
        """
        given = {"first": first, "number": number}
        for sql in (
            "DELETE FROM label WHERE row = 0 AND seq >= :first",
            "UPDATE label SET seq = -place FROM (SELECT seq AS old, ROW_NUMBER() OVER "
            "(ORDER BY seq) AS place FROM label WHERE seq >= :first) WHERE seq = old",
            "UPDATE label SET seq = :first - 1 - seq WHERE seq < 0",
            "UPDATE sqlite_sequence SET seq = (SELECT COALESCE(MAX(seq), 0) FROM label) "
            "WHERE name = 'label'",
            "UPDATE gone SET first = NULL WHERE first >= :first",
            "UPDATE gone SET mark = :first WHERE mark > :first",
            "UPDATE gone SET row = NULL, source = NULL, ts = NULL, first = NULL "
            "WHERE unlearnt = :number AND mark IS NOT NULL",
        ):
            self._db.execute(sql, given)

    def scrub(self) -> bool:
        """Leave nothing of what was deleted in the files; False while a reader is in the way.

        SQLite overwrites what it deletes with zeros, in the file once the write-ahead log has gone
        back into it. Where rows were moved before, copies may be left: only a rewrite removes them.
        """
        self._db.execute(f"PRAGMA busy_timeout={_BUSY}")
        try:
            return not self._value("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._db.execute("PRAGMA busy_timeout=30000")

    def rewrite(self) -> None:
        """Write the whole file again, without its unused space."""
        self._db.execute("VACUUM")
        self._db.execute("DELETE FROM meta WHERE name=?", (meta.MOVED.name,))

    @property
    def size(self) -> int:
        """Bytes of the log's file."""
        return int(self._value("PRAGMA page_count") * self._value("PRAGMA page_size"))

    def _about(self, sql: str, number: int, deep: bool, **given: int) -> sqlite3.Cursor:
        return self._db.execute(sql, {"number": number, "deep": deep} | given)


def _conditions(chosen: Selection) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """SQL conditions on id hash, source and time: together, the selection."""
    for identity in chosen.ids:
        yield "key=?", (key_of(identity),)
    if not chosen.ids:
        yield ("source=COALESCE(?, source) AND ts>=COALESCE(?, ts)",
               (chosen.source, chosen.since))
