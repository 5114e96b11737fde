"""Labels of distrusted sources: kept in the log beside the others, and not learnt.

Distrusting a source retracts its labels by label events like any other, so that each readout
unlearns them and no growth sees them; trusting it again restores them. All of it inside a
transaction.
"""

import json
import time
from collections.abc import Iterable

from edgecc.store.queries import Queries


class Distrusted(Queries):
    def keep(self, row: int, source: str, label: str | None) -> None:
        """Keep a label of `source` in place of its earlier one; None: keep none."""
        self._db.execute("DELETE FROM distrusted WHERE row=? AND source=?", (row, source))
        if label is not None:
            self._db.execute("INSERT INTO distrusted VALUES (?,?,?,?)",
                             (row, source, label, time.time()))

    def retract(self, source: str, distrusted: Iterable[str]) -> dict[str, int]:
        """Retract the current labels that `source` gave; `distrusted` sources replace none.

        Returns labels `not_learnt` any more; of these, `replaced` by an earlier one of another
        source; and `evicted`, which stay learnt, as their samples are not here to be subtracted.
        """
        given = {"source": source, "others": json.dumps([*distrusted, ""])}
        rows = self._db.execute(
            "SELECT s.row, s.label, (SELECT l.label FROM label l WHERE l.row = s.row AND "
            "l.source != :source AND l.source NOT IN (SELECT value FROM json_each(:others)) "
            "ORDER BY l.seq DESC LIMIT 1) FROM sample s WHERE s.label IS NOT NULL AND (SELECT "
            "l.source FROM label l WHERE l.row = s.row ORDER BY l.seq DESC LIMIT 1) = :source",
            given).fetchall()
        evicted = self._db.execute(
            "SELECT COUNT(DISTINCT row) FROM label WHERE source = :source AND label IS NOT NULL "
            "AND row NOT IN (SELECT row FROM sample)", given).fetchone()[0]
        for row, label, earlier in rows:
            self.keep(row, source, label)
            self._relabel(row, label, earlier, "")
        replaced = sum(earlier is not None for *_, earlier in rows)
        return {"not_learnt": len(rows), "replaced": replaced, "evicted": evicted}

    def restore(self, source: str) -> int:
        """Labels of `source` for samples that have none from others; how many."""
        rows = self._db.execute(
            "SELECT d.row, d.label FROM distrusted d JOIN sample s USING (row) "
            "WHERE d.source=? AND s.label IS NULL AND NOT s.unlearnt ORDER BY d.row", (source,)
        ).fetchall()
        for row, label in rows:
            self._relabel(row, None, label, source)
        self._db.execute("DELETE FROM distrusted WHERE source=?", (source,))
        return len(rows)

    def counts(self) -> dict[str, int]:
        """Labels kept and not learnt, by source."""
        return dict(self._db.execute(
            "SELECT source, COUNT(*) FROM distrusted GROUP BY source").fetchall())

    def _relabel(self, row: int, previous: str | None, label: str | None, source: str) -> None:
        """Log a label event that scores no prediction."""
        self._db.execute(
            "INSERT INTO label (row, previous, label, source, ts) VALUES (?,?,?,?,?)",
            (row, previous, label, source, time.time()))
        self._db.execute("UPDATE sample SET label=? WHERE row=?", (label, row))
