"""Questions to weekly files that the stores ask. Synchronous; on a reader's or a scanner's thread."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from betcore_async.models import Bet, LedgerEntry, User
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.plan import plan
from betcore_async.partitions.scanner import Scanner
from betcore_async.partitions.week import Week
from betcore_async.stores.rows import ENTRY_COLUMNS, entries_from_rows

Catalog = Mapping[Week, Partition]

_USER_BY = {
    "id": f"SELECT {User.COLUMNS} FROM users WHERE id = ?",
    "wallet_address": f"SELECT {User.COLUMNS} FROM users WHERE wallet_address = ?",
}

_CHUNK_END = """
SELECT max(id), count(*)
FROM (
    SELECT id
    FROM bets
    WHERE cell_id = ? AND id > ? AND status IN ('pending', 'confirmed')
    ORDER BY id
    LIMIT ?
)
"""

_ENTRIES = """
SELECT {columns}
FROM {schema}.ledger_entries
WHERE user_id = ? AND ref_type <> 'carry_forward' AND created_at >= ? AND created_at < ?
ORDER BY version {order}
LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class EntryQuery:
    user_id: str
    start: datetime
    end: datetime
    limit: int | None
    newest_first: bool


def user_by(column: str, value: str, raw: sqlite3.Connection) -> User | None:
    row = raw.execute(_USER_BY[column], (value,)).fetchone()
    return None if row is None else User.from_rows([row])[0]


def bet_in_live(bet_id: str, raw: sqlite3.Connection) -> Bet | None:
    row = raw.execute(f"SELECT {Bet.COLUMNS} FROM bets WHERE id = ?", (bet_id,)).fetchone()
    return None if row is None else Bet.from_rows([row])[0]


def chunk_end(cell_id: str, after: str, size: int, raw: sqlite3.Connection) -> str | None:
    last: str | None = raw.execute(_CHUNK_END, (cell_id, after, size)).fetchone()[0]
    return last


def find_bet(scanner: Scanner, catalog: Catalog, *, bet_id: str, oldest: Week) -> Bet | None:
    """Return a bet from the newest file that has it: there is its latest outcome."""
    sql = f"SELECT {Bet.COLUMNS} FROM {{schema}}.bets WHERE id = ?"
    row = _first(scanner, catalog, oldest, sql, (bet_id,))
    return None if row is None else Bet.from_rows([row])[0]


def find_entry(scanner: Scanner, catalog: Catalog, *, ref_type: str, ref_id: str, oldest: Week) -> Any:
    """Return the ledger row of a reference, from whichever week has it."""
    sql = f"SELECT {ENTRY_COLUMNS} FROM {{schema}}.ledger_entries WHERE ref_type = ? AND ref_id = ?"
    return _first(scanner, catalog, oldest, sql, (ref_type, ref_id))


def _first(scanner: Scanner, catalog: Catalog, oldest: Week, sql: str, parameters: tuple[str, ...]) -> Any:
    for entry in sorted(catalog.values(), key=lambda entry: entry.week, reverse=True):
        if entry.week < oldest or entry.state is PartitionState.DAMAGED:
            continue
        schema = scanner.attach(entry.week, entry.path)
        row = scanner.link.raw.execute(sql.format(schema=schema), parameters).fetchone()
        if row is not None:
            return row
    return None


def entries(scanner: Scanner, catalog: Catalog, *, query: EntryQuery) -> list[LedgerEntry]:
    """Return a user's ledger entries in [start, end) over all weeks; openings carried forward are left out."""
    spans = plan(catalog, query.start, query.end, allow_partial=False).spans
    found: list[LedgerEntry] = []
    for span in reversed(spans) if query.newest_first else spans:
        left = -1 if query.limit is None else query.limit - len(found)
        if left == 0:
            break
        schema = scanner.attach(span.partition.week, span.partition.path)
        order = "DESC" if query.newest_first else "ASC"
        sql = _ENTRIES.format(columns=ENTRY_COLUMNS, schema=schema, order=order)
        rows = scanner.link.raw.execute(sql, (query.user_id, span.start, span.end, left)).fetchall()
        found += entries_from_rows(rows)
    return found
