"""Growths of the trunk as the log has them: opened at a label, closed by verdicts on their blocks.

Whatever writes does so inside a transaction.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgecc.store.queries import Queries

_CLOSED, _ROLLED_BACK = 1, 2  # 0 while open


@dataclass(frozen=True)
class Growth:
    """One growth of the trunk, from the stem up, on everything labelled up to `cursor`."""

    number: int
    cursor: int
    recipe: dict[str, Any]


class GrowthLog(Queries):
    def open(self, growth: Growth) -> None:
        """A growth that was opened before stays as it is."""
        self._db.execute(
            "INSERT OR IGNORE INTO growth (number, cursor, recipe) VALUES (?,?,?)",
            (growth.number, growth.cursor, json.dumps(growth.recipe)))

    def close(self, number: int) -> None:
        self._db.execute("UPDATE growth SET closed=? WHERE number=?", (_CLOSED, number))

    def unfinished(self) -> list[Growth]:
        rows = self._db.execute(
            "SELECT number, cursor, recipe FROM growth WHERE closed=0 ORDER BY number")
        return [Growth(number, cursor, json.loads(recipe)) for number, cursor, recipe in rows]

    def cursor(self, number: int) -> int:
        """The label at which growth `number` started; 0 where none did."""
        return self._value("SELECT cursor FROM growth WHERE number=?", number) or 0

    def add_verdict(self, growth: int, block: int, body: dict[str, Any]) -> bool:
        """False where this verdict was recorded before."""
        return bool(self._db.execute(
            "INSERT OR IGNORE INTO verdict VALUES (?,?,?)", (growth, block, json.dumps(body))
        ).rowcount)

    def verdicts(self) -> list[dict[str, Any]]:
        bodies = self._column("SELECT body FROM verdict ORDER BY growth, block")
        return [json.loads(body) for body in bodies]

    def newest_verdict(self) -> dict[str, Any]:
        """Empty where there is none."""
        body = self._value("SELECT body FROM verdict ORDER BY growth DESC, block DESC LIMIT 1")
        return {} if body is None else dict(json.loads(body))

    def roll_back(self, after: int) -> None:
        """An operator wants the trunk of growth `after`, and none of the later ones."""
        self._db.execute("UPDATE growth SET closed = CASE WHEN number > ? THEN ? ELSE ? END",
                         (after, _ROLLED_BACK, _CLOSED))

    def rolled_back(self) -> set[int]:
        """Growths whose trunks an operator has rolled back from."""
        return set(self._column("SELECT number FROM growth WHERE closed=?", _ROLLED_BACK))

    def restart(self, numbers: Iterable[int]) -> None:
        """Open them again, without their verdicts."""
        for number in numbers:
            self._db.execute("UPDATE growth SET closed=0 WHERE number=?", (number,))
            self._db.execute("DELETE FROM verdict WHERE growth=?", (number,))

    def repeat(self, after: int, first: int) -> list[int]:
        """Restart growths beyond `after` that started at label `first` or later, or were accepted.

        Not those rolled back from. A growth beyond the newest label is deleted: it opens once that
        label is there.
        """
        newest = self._value("SELECT COALESCE(MAX(seq), 0) FROM label")
        chosen = f"SELECT number FROM growth WHERE number > ? AND closed != {_ROLLED_BACK} AND "
        ahead = (after, newest)
        self._db.execute(f"DELETE FROM verdict WHERE growth IN ({chosen} cursor > ?)", ahead)
        self._db.execute(f"DELETE FROM growth WHERE number IN ({chosen} cursor > ?)", ahead)
        numbers: list[int] = self._column(
            f"{chosen} (cursor >= ? OR number IN (SELECT growth FROM verdict "
            "WHERE json_extract(body, '$.accepted')))", after, first)
        self.restart(numbers)
        return numbers
