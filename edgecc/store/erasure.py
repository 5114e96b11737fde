"""What the log does to forget samples; all but `scrub` and `rewrite` in a transaction of the store.

A sample to be unlearnt is flagged with the number of its request and loses its label by an event
like any other, so that each readout unlearns it as it follows the log. Once all have, it is erased:
payload, prediction and labels. Its id stays known by hash, so that it does not come back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgecc.protocol.selection import Selection
from edgecc.store.reader import key_of

if TYPE_CHECKING:
    import sqlite3

_NAMED = 100  # evicted samples that an answer names
_BUSY = 1000  # milliseconds to wait for readers of the log before trying again later

_CHOSEN = """(
    SELECT row, held, NULL AS first FROM sample WHERE unlearnt = :number UNION ALL
    SELECT row, held, first FROM gone WHERE unlearnt = :number AND row IS NOT NULL AND :deep)"""
_FIRST = "(SELECT MIN(seq) FROM label l WHERE l.row = {0}.row)"
_LABELLED = "EXISTS (SELECT 1 FROM label l WHERE l.row = gone.row AND l.label IS NOT NULL)"


@dataclass(frozen=True)
class Request:
    """One thing to unlearn, and how far that is."""

    number: int
    asked: dict[str, Any]  # the command's arguments, and where its answer goes
    phase: str
    plan: dict[str, Any]  # what the steps to come need
    answer: dict[str, Any]


class Erasure:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._none = False  # once committed, there was no request; asked several times a turn

    # --- requests ---

    def ask(self, identity: str | None, asked: Mapping[str, Any]) -> None:
        """Note a request; one that is known by its id changes nothing."""
        self._none = False
        self._db.execute(
            "INSERT OR IGNORE INTO unlearning (id, asked, phase, plan, answer, ts) "
            "VALUES (?,?,'asked','{}','{}',?)", (identity or None, json.dumps(asked), time.time())
        )

    def current(self) -> Request | None:
        """The oldest request that is not done."""
        if self._none:
            return None
        found = self._db.execute(
            "SELECT number, asked, phase, plan, answer FROM unlearning WHERE phase != 'done' "
            "ORDER BY number LIMIT 1"
        ).fetchone()
        if found is None:
            self._none = not self._db.in_transaction
            return None
        number, asked, phase, plan, answer = found
        return Request(number, json.loads(asked), phase, json.loads(plan), json.loads(answer))

    def answer_to(self, identity: str) -> dict[str, Any] | None:
        """What was answered to this request, where it is done."""
        found = self._db.execute(
            "SELECT answer FROM unlearning WHERE id=? AND phase='done'", (identity,)
        ).fetchone()
        return None if found is None else dict(json.loads(found[0]))

    def advance(self, request: Request, phase: str) -> None:
        """Write down `request` as it now is; what is done keeps no word of what was asked."""
        self._db.execute(
            "UPDATE unlearning SET phase=?, asked=?, plan=?, answer=? WHERE number=?",
            (phase, json.dumps({} if phase == "done" else request.asked),
             json.dumps({} if phase == "done" else request.plan), json.dumps(request.answer),
             request.number),
        )
        if phase == "done":
            self._db.execute("UPDATE gone SET unlearnt=0 WHERE unlearnt=?", (request.number,))

    # --- choosing ---

    def flag(self, number: int, chosen: Selection) -> dict[str, Any]:
        """Flag the samples of request `number` and take their labels back; what was found."""
        for where, values in _conditions(chosen):
            self._db.execute(
                f"UPDATE sample SET unlearnt=? WHERE unlearnt=0 AND {where}", (number, *values))
            self._db.execute(
                f"UPDATE gone SET unlearnt=? WHERE unlearnt=0 AND {where}", (number, *values))
        pending = self._drop_pending(chosen)
        unknown = self._unknown(chosen, pending)
        if chosen.unseen:
            self.know(unknown)
        held, labelled = self._one(
            "SELECT COALESCE(SUM(held), 0), COUNT(*) FROM sample "
            "WHERE unlearnt=? AND label IS NOT NULL", number)
        found = {
            "samples": self._one("SELECT COUNT(*) FROM sample WHERE unlearnt=?", number)[0],
            "labelled": labelled, "held_out": held, "pending": len(pending),
            "already": self._one(
                "SELECT COUNT(*) FROM gone WHERE unlearnt=? AND mark IS NOT NULL", number)[0],
            "unknown": unknown, **self._evicted(number, chosen),
        }
        self._take_labels_back(number)
        return found

    def _take_labels_back(self, number: int) -> None:
        self._db.execute(
            "INSERT INTO label (row, previous, label, source, ts) SELECT row, label, NULL, '', ? "
            "FROM sample WHERE unlearnt=? AND label IS NOT NULL ORDER BY row",
            (time.time(), number),
        )
        self._db.execute(
            "UPDATE sample SET label=NULL WHERE unlearnt=? AND label IS NOT NULL", (number,))

    def _drop_pending(self, chosen: Selection) -> list[str]:
        """Labels that wait for a sample; where their ids were named, the samples may not come."""
        found: list[str] = []
        for where, values in _conditions(chosen):
            rows = self._db.execute(f"DELETE FROM pending WHERE {where} RETURNING id", values)
            found += [identity for (identity,) in rows]
        if chosen.ids:
            self.know(found)
        return found

    def _unknown(self, chosen: Selection, pending: list[str]) -> list[str]:
        known = "SELECT 1 FROM sample WHERE key=:key UNION ALL SELECT 1 FROM gone WHERE key=:key"
        return [
            identity for identity in chosen.ids if identity not in pending
            and self._db.execute(known, {"key": key_of(identity)}).fetchone() is None
        ]

    def _evicted(self, number: int, chosen: Selection) -> dict[str, Any]:
        """Learnt, and no longer here to be subtracted: how many, and ids, or hashes of these."""
        names = {key_of(identity): identity for identity in chosen.ids}
        found = self._db.execute(
            f"SELECT key FROM gone WHERE unlearnt=? AND mark IS NULL AND {_LABELLED} ORDER BY row",
            (number,)).fetchall()
        named = [names.get(key, key.hex()) for (key,) in found[:_NAMED]]
        return {"evicted": len(found), "evicted_ids": named}

    def know(self, identities: Iterable[str]) -> None:
        """Samples with these ids are not taken in."""
        self._db.executemany(
            "INSERT OR IGNORE INTO gone (key, at, mark) VALUES (?,?,0)",
            [(key_of(identity), time.time()) for identity in identities],
        )

    def drop_quarantined(self, seqs: Iterable[int]) -> None:
        ones = [(seq,) for seq in seqs]
        self._db.executemany(
            "UPDATE quarantine SET payload=zeroblob(LENGTH(payload)) WHERE seq=?", ones)
        self._db.executemany("DELETE FROM quarantine WHERE seq=?", ones)

    # --- what knew the chosen samples ---

    def first(self, number: int, *, deep: bool) -> int | None:
        """The first label that any of them had; of those that had left too, where `deep`."""
        first: int | None = self._about(
            f"SELECT MIN(COALESCE(c.first, {_FIRST.format('c')})) FROM {_CHOSEN} c", number, deep
        ).fetchone()[0]
        return first

    def first_row(self, number: int, *, deep: bool) -> int | None:
        row: int | None = self._about(
            f"SELECT MIN(row) FROM {_CHOSEN}", number, deep).fetchone()[0]
        return row

    def drawn(self, number: int, cursor: int, *, deep: bool) -> tuple[int, int]:
        """How many of them trained, and how many held-out ones judged, a growth at `cursor`."""
        rows = self._about(
            f"SELECT c.held, COUNT(*) FROM {_CHOSEN} c WHERE c.first <= :cursor OR EXISTS ("
            "SELECT 1 FROM label l WHERE l.row = c.row AND l.label IS NOT NULL AND l.seq = ("
            "SELECT MAX(seq) FROM label m WHERE m.row = c.row AND m.seq <= :cursor)) "
            "GROUP BY c.held", number, deep, cursor=cursor)
        found = {bool(held): count for held, count in rows}
        return found.get(False, 0), found.get(True, 0)

    # --- erasing ---

    def newest_of(self, number: int) -> list[str]:
        """Sources whose newest sample is among them."""
        rows = self._db.execute(
            "SELECT source FROM sample WHERE unlearnt=? AND row IN "
            "(SELECT MAX(row) FROM sample GROUP BY source)", (number,))
        return [source for (source,) in rows]

    def erase(self, number: int, *, mark: int, deep: bool) -> None:
        """Delete them; a label event stays, empty, where readouts stand that have unlearnt them."""
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
        """Number the labels from `first` on anew, as if what was erased had never been there.

        Only where no readout or generation is left that stands at `first` or beyond.
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
        """Leave nothing of what was deleted in the files; False where a reader is in the way.

        SQLite overwrites what it deletes with zeros, in the file once the write-ahead log has gone
        back into it. Where rows were moved before, copies may be left: only a rewrite removes them.
        """
        self._db.execute(f"PRAGMA busy_timeout={_BUSY}")
        try:
            return not self._one("PRAGMA wal_checkpoint(TRUNCATE)")[0]
        finally:
            self._db.execute("PRAGMA busy_timeout=30000")

    def rewrite(self) -> None:
        """The whole file anew, with nothing in it but what it holds."""
        self._db.execute("VACUUM")
        self._db.execute("DELETE FROM meta WHERE name='moved'")

    @property
    def size(self) -> int:
        """Bytes of the log's file."""
        return int(self._one("PRAGMA page_count")[0] * self._one("PRAGMA page_size")[0])

    def _about(self, sql: str, number: int, deep: bool, **given: int) -> sqlite3.Cursor:
        return self._db.execute(sql, {"number": number, "deep": deep} | given)

    def _one(self, sql: str, *values: Any) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self._db.execute(sql, values).fetchone()
        return found


def _conditions(chosen: Selection) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """SQL conditions, on id hash, source and time, that together make the selection."""
    for identity in chosen.ids:
        yield "key=?", (key_of(identity),)
    if not chosen.ids:
        yield ("source=COALESCE(?, source) AND ts>=COALESCE(?, ts)",
               (chosen.source, chosen.since))
