"""Reading bets over several weekly files. Synchronous: runs on a scanner's thread, in one hop.

The file of the week in which a bet was placed has its home row, the truth about its terms. A bet that was still open at
the week's end goes on in the files after it: there is the truth about its outcome. So an open row of a sealed week is
completed from the newest file that has a copy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from betcore_async.models import OPEN_STATUSES, Bet, BetStatus
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.plan import Span
from betcore_async.partitions.weeks import Weeks

Record = tuple[object, ...]
"""A row of bets in the order of `Bet.COLUMNS`."""

_ID, STATUS, _PLACED_AT = 0, 5, 6
_LOOKUP_CHUNK = 500
_SCAN_CHUNK = 1000

_PAGE = """
SELECT {columns}
FROM bets
WHERE user_id = ?1
  AND placed_at >= ?2 AND placed_at < ?3
  AND (?4 IS NULL OR (placed_at, id) {beyond} (?5, ?4))
  AND (?6 IS NULL OR status = ?6 {or_open})
ORDER BY placed_at {order}, id {order}
LIMIT ?7
"""
_PAGES = {
    (newest_first, carried): _PAGE.format(
        columns=Bet.COLUMNS,
        beyond="<" if newest_first else ">",
        order="DESC" if newest_first else "ASC",
        or_open="OR status IN ('pending', 'confirmed')" if carried else "",
    )
    for newest_first in (True, False)
    for carried in (True, False)
}

_BY_ID = "SELECT {columns} FROM bets WHERE id IN ({marks})"


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


def page(weeks: Weeks, spans: Sequence[Span], query: BetQuery) -> list[Record]:
    """Return the bets a query asks for, in its order; stops reading as soon as its limit is reached."""
    found: list[Record] = []
    for span in reversed(spans) if query.newest_first else spans:
        for record in _of_week(weeks, span, query):
            found.append(record)
            if query.limit is not None and len(found) >= query.limit:
                return found
    return found


def _of_week(weeks: Weeks, span: Span, query: BetQuery) -> Iterator[Record]:
    start, end, cursor = span.start, span.end, query.cursor
    sql = _PAGES[query.newest_first, span.partition.successor is not None]
    chunk = _SCAN_CHUNK if query.status is not None else min(query.limit or _SCAN_CHUNK, _SCAN_CHUNK)
    while True:
        if cursor is not None:  # as a bound of the range it lets the index find the place
            start, end = (
                (start, min(end, cursor.placed_at + 1)) if query.newest_first else (max(start, cursor.placed_at), end)
            )
        if start >= end:
            return
        after = (None, None) if cursor is None else (cursor.id, cursor.placed_at)
        values = (query.user_id, start, end, *after, query.status, chunk)
        # Asked for again with each chunk: completing the one before may have closed the week.
        records = weeks.raw(span.partition).execute(sql, values).fetchall()
        if not records:
            return
        completed = complete(weeks, span.partition, records)
        yield from (record for record in completed if query.status is None or record[STATUS] == query.status)
        if len(records) < chunk:
            return
        cursor = cursor_after(records[-1])


def complete(weeks: Weeks, home: Partition, records: Sequence[Record]) -> list[Record]:
    """Return the records with the latest outcome of those that were open when their week was sealed."""
    waiting = {record[_ID] for record in records if record[STATUS] in OPEN_STATUSES} if home.successor else set()
    if not waiting:
        return list(records)
    latest: dict[object, Record] = {}
    for holder in weeks.after(home.week):
        copies = by_id(weeks, holder, [str(identifier) for identifier in waiting])
        latest.update((copy[_ID], copy) for copy in copies)
        # Settled there, or never carried further: either way no later file has anything to add.
        waiting = {copy[_ID] for copy in copies if copy[STATUS] in OPEN_STATUSES}
        if not waiting:
            break
    return [latest.get(record[_ID], record) for record in records]


def by_id(weeks: Weeks, partition: Partition, ids: Sequence[str]) -> list[Record]:
    """Return the rows one file has of the bets with these ids."""
    found: list[Record] = []
    for start in range(0, len(ids), _LOOKUP_CHUNK):
        some = ids[start : start + _LOOKUP_CHUNK]
        sql = _BY_ID.format(columns=Bet.COLUMNS, marks=", ".join("?" * len(some)))
        found += weeks.raw(partition).execute(sql, some).fetchall()
    return found
