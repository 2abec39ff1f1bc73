"""Reading bets over several weekly files. Synchronous: runs on a scanner's thread, in one hop.

The file of the week in which a bet was placed has its home row, the truth about its terms. A bet that was still open at
the week's end goes on in the files after it: there is the truth about its outcome. So an open row of a sealed week is
completed from the newest file that has a copy.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from betcore_async.models import OPEN_STATUSES, Bet, BetStatus
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.plan import Span, holders
from betcore_async.partitions.scanner import Scanner
from betcore_async.partitions.week import Week

Record = tuple[object, ...]
"""A row of bets in the order of `Bet.COLUMNS`."""

_ID, _STATUS, _PLACED_AT = 0, 5, 6
_LOOKUP_CHUNK = 500
_SCAN_CHUNK = 1000

_PAGE = """
SELECT {columns}
FROM {schema}.bets
WHERE user_id = :user_id
  AND placed_at >= :start AND placed_at < :end
  AND (:after_id IS NULL OR (placed_at, id) {beyond} (:after_at, :after_id))
  AND (:status IS NULL OR status = :status {or_open})
ORDER BY placed_at {order}, id {order}
LIMIT :limit
"""

_BY_ID = "SELECT {columns} FROM {schema}.bets WHERE id IN ({marks})"

_TOTALS = """
SELECT count(*), coalesce(sum(amount), 0), coalesce(sum(payout_amount), 0)
FROM {schema}.bets
WHERE placed_at >= :start AND placed_at < :end
  AND (:user_id IS NULL OR user_id = :user_id)
  AND (:status IS NULL OR status = :status)
  AND NOT (:has_successor AND status IN ('pending', 'confirmed'))
"""

_LEFT_OPEN = """
SELECT id
FROM {schema}.bets
WHERE placed_at >= :start AND placed_at < :end
  AND (:user_id IS NULL OR user_id = :user_id)
  AND status IN ('pending', 'confirmed')
"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended; pass it back to get the next one."""

    placed_at: int
    """Microseconds since the epoch."""
    id: str


def cursor_after(record: Record) -> Cursor:
    """Return the cursor of the page that begins after a row."""
    return Cursor(int(str(record[_PLACED_AT])), str(record[_ID]))


@dataclass(frozen=True, slots=True)
class BetQuery:
    user_id: str
    status: BetStatus | None
    newest_first: bool
    limit: int | None
    cursor: Cursor | None


@dataclass(frozen=True, slots=True)
class BetTotals:
    """How many bets there are, and what they come to in minor units."""

    count: int
    amount: int
    payout: int


def page(
    scanner: Scanner, partitions: Mapping[Week, Partition], spans: Sequence[Span], query: BetQuery
) -> list[Record]:
    """Return the bets a query asks for, in its order; stops reading as soon as its limit is reached."""
    found: list[Record] = []
    for span in reversed(spans) if query.newest_first else spans:
        for record in _of_week(scanner, partitions, span, query):
            found.append(record)
            if query.limit is not None and len(found) >= query.limit:
                return found
    return found


def _of_week(scanner: Scanner, partitions: Mapping[Week, Partition], span: Span, query: BetQuery) -> Iterator[Record]:
    cursor, chunk = query.cursor, min(query.limit or _SCAN_CHUNK, _SCAN_CHUNK)
    carried = span.partition.successor is not None
    sql = _PAGE.format(
        columns=Bet.COLUMNS,
        schema=scanner.attach(span.partition.week, span.partition.path),
        beyond="<" if query.newest_first else ">",
        order="DESC" if query.newest_first else "ASC",
        or_open="OR status IN ('pending', 'confirmed')" if carried else "",
    )
    while True:
        records = scanner.link.raw.execute(
            sql,
            {
                "user_id": query.user_id,
                "start": span.start,
                "end": span.end,
                "after_at": cursor and cursor.placed_at,
                "after_id": cursor and cursor.id,
                "status": query.status,
                "limit": chunk,
            },
        ).fetchall()
        completed = complete(scanner, partitions, span.partition, records)
        yield from (record for record in completed if query.status is None or record[_STATUS] == query.status)
        if len(records) < chunk:
            return
        cursor = cursor_after(records[-1])
        # The week may have been pushed out of the ten attached ones by the look-ups.
        scanner.attach(span.partition.week, span.partition.path)


def complete(
    scanner: Scanner, partitions: Mapping[Week, Partition], home: Partition, records: Sequence[Record]
) -> list[Record]:
    """Return the records with the latest outcome of those that were open when their week was sealed."""
    waiting = {record[_ID] for record in records if record[_STATUS] in OPEN_STATUSES} if home.successor else set()
    latest: dict[object, Record] = {}
    for holder in holders(partitions, home.week):
        if not waiting:
            break
        copies = by_id(scanner, holder, [str(identifier) for identifier in waiting])
        latest.update((copy[_ID], copy) for copy in copies)
        # Settled there, or never carried further: either way no later file has anything to add.
        waiting = {copy[_ID] for copy in copies if copy[_STATUS] in OPEN_STATUSES}
    return [latest.get(record[_ID], record) for record in records]


def by_id(scanner: Scanner, partition: Partition, ids: Sequence[str]) -> list[Record]:
    """Return the rows one file has of the bets with these ids."""
    schema = scanner.attach(partition.week, partition.path)
    found: list[Record] = []
    for start in range(0, len(ids), _LOOKUP_CHUNK):
        some = ids[start : start + _LOOKUP_CHUNK]
        sql = _BY_ID.format(columns=Bet.COLUMNS, schema=schema, marks=", ".join("?" * len(some)))
        found += scanner.link.raw.execute(sql, some).fetchall()
    return found


def totals(
    scanner: Scanner,
    partitions: Mapping[Week, Partition],
    spans: Sequence[Span],
    user_id: str | None,
    status: BetStatus | None,
) -> BetTotals:
    """Return count and sums over the spans, each bet with its latest outcome."""
    parts = [_totals_of(scanner, partitions, span, user_id, status) for span in spans]
    return BetTotals(*(sum(column) for column in zip((0, 0, 0), *parts, strict=True)))


def _totals_of(
    scanner: Scanner,
    partitions: Mapping[Week, Partition],
    span: Span,
    user_id: str | None,
    status: BetStatus | None,
) -> tuple[int, int, int]:
    raw: sqlite3.Connection = scanner.link.raw
    schema = scanner.attach(span.partition.week, span.partition.path)
    carried = span.partition.successor is not None
    values = {"start": span.start, "end": span.end, "user_id": user_id, "status": status, "has_successor": carried}
    count, amount, payout = raw.execute(_TOTALS.format(schema=schema), values).fetchone()
    if carried:
        ids = [row[0] for row in raw.execute(_LEFT_OPEN.format(schema=schema), values)]
        left = complete(scanner, partitions, span.partition, by_id(scanner, span.partition, ids))
        chosen = Bet.from_rows(record for record in left if status is None or record[_STATUS] == status)
        count += len(chosen)
        amount += sum(bet.amount for bet in chosen)
        payout += sum(bet.payout_amount or 0 for bet in chosen)
    return count, amount, payout
