"""Labels of distrusted sources: kept in the log beside the others, and learnt by nobody.

Setting a source aside takes its labels back by events like any other, so that each readout
unlearns them and no growth sees them; a pardon gives them again. All of it inside a transaction.
"""

import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class TakenBack:
    """What setting a source aside has changed."""

    labels: int  # now aside
    replaced: int  # of these, samples that have an earlier label of another source again
    evicted: int  # labels that stay learnt: their samples are no longer here to be subtracted


class Distrusted:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def keep(self, row: int, source: str, label: str | None) -> None:
        """A label not to be learnt; None takes the one that is kept back."""
        self._db.execute("DELETE FROM aside WHERE row=? AND source=?", (row, source))
        if label is not None:
            self._db.execute("INSERT INTO aside VALUES (?,?,?,?)",
                             (row, source, label, time.time()))

    def set_aside(self, source: str, distrusted: Iterable[str]) -> TakenBack:
        """Every label that stands because of `source`; `distrusted` sources replace none."""
        given = {"source": source, "now": time.time(), "others": json.dumps([*distrusted, ""])}
        rows = self._db.execute(
            "SELECT s.row, s.label, (SELECT l.label FROM label l WHERE l.row = s.row AND "
            "l.source != :source AND l.source NOT IN (SELECT value FROM json_each(:others)) "
            "ORDER BY l.seq DESC LIMIT 1) FROM sample s WHERE s.label IS NOT NULL AND (SELECT "
            "l.source FROM label l WHERE l.row = s.row ORDER BY l.seq DESC LIMIT 1) = :source",
            given).fetchall()
        evicted = self._db.execute(
            "SELECT COUNT(DISTINCT row) FROM label WHERE source = :source AND label IS NOT NULL "
            "AND row NOT IN (SELECT row FROM sample)", given).fetchone()[0]
        for row, label, _ in rows:
            self.keep(row, source, label)
        self._relabel((row, label, earlier, "") for row, label, earlier in rows)
        return TakenBack(len(rows), sum(earlier is not None for *_, earlier in rows), evicted)

    def give_back(self, source: str) -> int:
        """Labels of `source` for samples that have none from others; how many."""
        rows = self._db.execute(
            "SELECT a.row, a.label FROM aside a JOIN sample s USING (row) "
            "WHERE a.source=? AND s.label IS NULL AND NOT s.unlearnt ORDER BY a.row", (source,)
        ).fetchall()
        self._relabel((row, None, label, source) for row, label in rows)
        self._db.execute("DELETE FROM aside WHERE source=?", (source,))
        return len(rows)

    def counts(self) -> dict[str, int]:
        """Labels aside, by source."""
        return dict(self._db.execute(
            "SELECT source, COUNT(*) FROM aside GROUP BY source").fetchall())

    def _relabel(self, changes: Iterable[tuple[int, str | None, str | None, str]]) -> None:
        """(row, previous, label, source) each as a label event that scores no prediction."""
        for row, previous, label, source in changes:
            self._db.execute(
                "INSERT INTO label (row, previous, label, source, ts) VALUES (?,?,?,?,?)",
                (row, previous, label, source, time.time()))
            self._db.execute("UPDATE sample SET label=? WHERE row=?", (label, row))
