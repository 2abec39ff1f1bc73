"""Questions to weekly files that the stores ask. Synchronous; on a reader's or a scanner's thread."""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from betcore_async.clock import from_microseconds
from betcore_async.ids import first_id
from betcore_async.models import LedgerEntry, User
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.plan import known_missing, missing_error, plan, readable
from betcore_async.partitions.scanner import Scanner
from betcore_async.partitions.week import Week
from betcore_async.stores.rows import ENTRY_COLUMNS, entries_from_rows
from betcore_async.stores.sqlite_outcomes import Outcome, bet_row, newest_id, outcome_of

Catalog = Mapping[Week, Partition]

CLOCK_SKEW = timedelta(days=7)
"""How far a caller's clock may be ahead of ours: an id is used no earlier than that before it was born."""

PUNCTUAL = timedelta(minutes=1)
"""How far the time of an id is from ours where the caller's clock is right and the id is used at once."""

_USER_BY = {
    "id": f"SELECT {User.COLUMNS} FROM users WHERE id = ?",
    "wallet_address": f"SELECT {User.COLUMNS} FROM users WHERE wallet_address = ?",
}

_CREATED_AT = "SELECT created_at FROM {schema}.partition_meta WHERE id = 1"

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


@dataclass(frozen=True, slots=True)
class UsedIds:
    """Ids that the weeks before the live one used."""

    greatest: str
    """None of them used a greater one; empty where none used any."""
    ahead_since: datetime | None
    """Birth of the first of them that used an id from further ahead of the next one's birth than CLOCK_SKEW.

    A clock was wrong then, or the next one was made so late that its week was over.
    """
    doubtful: str
    """A week that is not here may have used ids up to this one; empty where all are here."""

    def search_from(self, born: datetime) -> datetime:
        """Return since when an id that carries the time `born` may have been used."""
        earliest = born - CLOCK_SKEW
        return earliest if self.ahead_since is None else min(earliest, self.ahead_since)


def user_by(column: str, value: str, raw: sqlite3.Connection) -> User | None:
    row = raw.execute(_USER_BY[column], (value,)).fetchone()
    return None if row is None else User.from_rows([row])[0]


def bet_in_live(bet_id: str, raw: sqlite3.Connection) -> Any:
    """Return what `bet_row` does of a bet in the live week."""
    return bet_row(raw, bet_id)


def find_bet(scanner: Scanner, catalog: Catalog, *, bet_id: str, since: datetime) -> Any:
    """Return what `bet_row` does of a bet that was placed after `since`, from the newest file that has it.

    There is its latest outcome.
    """
    for schema in _newest_first(scanner, catalog, since):
        row = bet_row(scanner.link.raw, bet_id, schema)
        if row is not None:
            return row
    return None


def find_outcome(scanner: Scanner, catalog: Catalog, *, identifier: str, since: datetime) -> Outcome | None:
    """Return what an id was used for after `since`, from the newest file that knows it."""
    for schema in _newest_first(scanner, catalog, since):
        outcome = outcome_of(scanner.link.raw, identifier, schema)
        if outcome is not None:
            return outcome
    return None


def used_before(scanner: Scanner, catalog: Catalog, *, live: Week) -> UsedIds:
    """Return what the files before the live week, as far as they are here, tell of the ids that they used."""
    greatest, latest, doubtful, ahead_since = "", "", "", None
    before: datetime | None = None
    for entry in readable(catalog):
        if entry.week > live:
            break
        schema = scanner.attach(entry.week, entry.path)
        born = _born(scanner, schema)
        # An id that a week used before the next one was born is looked for there, unless it came from further ahead.
        if ahead_since is None and latest > first_id(born + CLOCK_SKEW):
            ahead_since = before
        if entry.predecessor in known_missing(catalog):
            doubtful = first_id(born + CLOCK_SKEW)
        if entry.week == live:
            if entry.predecessor in known_missing(catalog):
                # It took whatever came until this week was born, which may be long after the week began.
                greatest = max(greatest, first_id(born))
            break
        before, latest = born, newest_id(scanner.link.raw, schema)
        greatest = max(greatest, latest)
    return UsedIds(greatest, ahead_since, doubtful)


def _born(scanner: Scanner, schema: str) -> datetime:
    """Return when an attached file was born, within its week: of one made late, the last moment of the week."""
    created_at: int = scanner.link.raw.execute(_CREATED_AT.format(schema=schema)).fetchone()[0]
    return from_microseconds(created_at)


def _newest_first(scanner: Scanner, catalog: Catalog, since: datetime) -> Iterator[str]:
    """Attach one file after the other, back to the one that took writes at `since`.

    Which week that was, its name does not tell: a week takes writes until somebody rotates. Its successor's birth does.
    Raises PartitionMissingError or PartitionArchivedError at the first file that is not here or cannot be read: what it
    holds is unknown, and may matter.
    """
    missing = set(known_missing(catalog))
    for week in sorted({*catalog, *missing}, reverse=True):
        if week in missing:
            raise missing_error(catalog, (week,), optional=False)
        schema = scanner.attach(week, catalog[week].path)
        yield schema
        if _born(scanner, schema) < since:
            return


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
