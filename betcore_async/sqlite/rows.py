"""What a query returns."""

import sqlite3
from dataclasses import dataclass
from typing import Any


class Row(sqlite3.Row):
    """A row by position, by name and by attribute: `row[0]`, `row["balance"]`, `row.balance`."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except IndexError:
            raise AttributeError(f"the row has no column {name!r}; it has {', '.join(self.keys())}") from None

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={self[name]!r}' for name in self.keys())})"


@dataclass(frozen=True, slots=True)
class ExecuteResult:
    """What a statement changed."""

    rowcount: int
    """Rows inserted, updated or deleted; -1 where SQLite does not count."""
    lastrowid: int | None
    """Row id of the last INSERT on the connection."""
