"""Reading bets over several weekly files. Synchronous: runs on a scanner's thread, in one hop.

The file of the week in which a bet was placed has its home row, the truth about its terms. A bet that was still open at
the week's end goes on in the files after it: there is the truth about its outcome. So an open row of a sealed week is
completed from the newest file that has a copy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from betcore_async.models import OPEN_STATUSES, Bet, BetStatus
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.plan import Span
from betcore_async.partitions.question import Cursor
from betcore_async.partitions.user_filter import hash_of
from betcore_async.partitions.weeks import Weeks

Record = tuple[object, ...]
"""A row of bets in the order of `Bet.COLUMNS`."""

_ID, STATUS, _PLACED_AT = 0, 5, 6
_LOOKUP_CHUNK = 500
_SCAN_CHUNK = 1000

_PAGE = """
SELECT {columns}
FROM bets
WHERE user_id = ? AND placed_at >= ? AND placed_at < ?{after}{status}
ORDER BY placed_at {order}, id {order}
LIMIT ?
"""


def _page_sql(*, newest_first: bool, after: bool, status: bool, carried: bool) -> str:
    or_open = " OR status IN ('pending', 'confirmed')" if carried else ""
    return _PAGE.format(
        columns=Bet.COLUMNS,
        after=f" AND (placed_at, id) {'<' if newest_first else '>'} (?, ?)" if after else "",
        status=f" AND (status = ?{or_open})" if status else "",
        order="DESC" if newest_first else "ASC",
    )


# A condition that does not apply is left out: it would be looked at in each of a year of files.
_PAGES = {
    (newest_first, after, status, carried): _page_sql(
        newest_first=newest_first, after=after, status=status, carried=carried
    )
    for newest_first, after, status, carried in product((True, False), repeat=4)
}

_ANY = "SELECT 1 FROM bets WHERE user_id = ? AND placed_at >= ? AND placed_at < ? LIMIT 1"

_CREATED_AT = "SELECT created_at FROM users WHERE id = ?"
_NEVER = 2**63 - 1

_BY_ID = "SELECT {columns} FROM bets WHERE id IN ({marks})"


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
    for span in _in_turn(weeks, spans[::-1] if query.newest_first else spans, query, found):
        found += _of_week(weeks, span, query, query.limit and query.limit - len(found))
        if query.limit is not None and len(found) >= query.limit:
            return found[: query.limit]
    return found


def _in_turn(weeks: Weeks, spans: Sequence[Span], query: BetQuery, found: Sequence[Record]) -> Iterator[Span]:
    """Yield where to look for bets; what is found there is in `found` before the next one is asked for."""
    for number, span in enumerate(spans, start=1):
        before = len(found)
        yield span
        if len(found) == before:
            yield from _promising(weeks, spans[number:], query)
            return


def _promising(weeks: Weeks, spans: Sequence[Span], query: BetQuery) -> Iterator[Span]:
    """Yield the weeks that may have bets of a user. Who had no bet in one week has none in most."""
    joined = _joined(weeks, query.user_id)
    since = [span for span in spans if span.end > joined]
    for span, known in weeks.promising(since, hash_of(query.user_id)):
        # Measured, a look whether there is any takes half the time of one for a page.
        if known or _any(weeks, span, query):
            yield span


def _any(weeks: Weeks, span: Span, query: BetQuery) -> bool:
    found = weeks.raw(span.partition).execute(_ANY, (query.user_id, span.start, span.end)).fetchone()
    return found is not None


def _joined(weeks: Weeks, user_id: str) -> int:
    """Return when an account was opened, in microseconds: no earlier week has a bet of it. Users are never deleted."""
    row = weeks.raw(weeks.newest).execute(_CREATED_AT, (user_id,)).fetchone()
    created_at: int = _NEVER if row is None else row[0]
    return created_at


def _of_week(weeks: Weeks, span: Span, query: BetQuery, wanted: int | None) -> list[Record]:
    """Return all bets of a week, or at least as many as are wanted."""
    found: list[Record] = []
    start, end, cursor = span.start, span.end, query.cursor
    status = () if query.status is None else (query.status,)
    carried = span.partition.successor is not None
    chunk = _SCAN_CHUNK if status or wanted is None else min(wanted, _SCAN_CHUNK)
    while True:
        after: tuple[int, str] | tuple[()] = ()
        if cursor is not None:  # as a bound of the range it lets the index find the place
            after = (cursor.placed_at, cursor.id)
            start, end = (
                (start, min(end, cursor.placed_at + 1)) if query.newest_first else (max(start, cursor.placed_at), end)
            )
            if start >= end:
                return found
        sql = _PAGES[bool(query.newest_first), bool(after), bool(status), carried]
        # Asked for again with each chunk: completing the one before may have closed the week.
        records = weeks.raw(span.partition).execute(sql, (query.user_id, start, end, *after, *status, chunk)).fetchall()
        if not records:
            return found
        completed = complete(weeks, span.partition, records)
        found += [record for record in completed if record[STATUS] == query.status] if status else completed
        if len(records) < chunk or (wanted is not None and len(found) >= wanted):
            return found
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
