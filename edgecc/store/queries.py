"""Short ways to ask the log: one value, or one column."""

import sqlite3
from typing import Any


class Queries:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def _value(self, sql: str, *values: Any) -> Any:
        """The first column of the first row; None where there is none."""
        row = self._db.execute(sql, values).fetchone()
        return row[0] if row else None

    def _column(self, sql: str, *values: Any) -> list[Any]:
        """The first column of every row."""
        return [row[0] for row in self._db.execute(sql, values)]
