"""Reading all bets of a time range part by part, however many there are. Synchronous: a part is one hop.

Between two parts nothing is held open: where a part ended is enough to go on, also after a rotation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from betcore_async.models import Bet, BetStatus
from betcore_async.partitions.bets import STATUS, BetQuery, Record, complete, cursor_after, page
from betcore_async.partitions.plan import Span
from betcore_async.partitions.question import Cursor
from betcore_async.partitions.week import Week
from betcore_async.partitions.weeks import Weeks

# By id and not by time, of which there is no index over all users: an id is stable, and unique.
_NEXT = """
SELECT {columns}
FROM bets
WHERE id {beyond} :after
  AND placed_at >= :start AND placed_at < :end
  AND (:status IS NULL OR status = :status {or_open})
ORDER BY id {order}
LIMIT :limit
"""

_FIRST, _LAST = "", "\U0010ffff"  # before and after every id


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part ended: in which week, after which bet."""

    week: Week
    id: str


@dataclass(frozen=True, slots=True)
class PartQuery:
    user_id: str | None
    status: BetStatus | None
    newest_first: bool
    size: int
    """Rows of a part."""
    after: Place | Cursor | None = None

    def going_on(self, after: Place | Cursor) -> "PartQuery":
        return replace(self, after=after)


Part = tuple[list[Record], Place | Cursor | None]
"""Rows, and where to go on; None at the end."""


def next_part(weeks: Weeks, spans: Sequence[Span], query: PartQuery) -> Part:
    """Return the next bets of the spans: those of a user by time, those of all users week by week, by id."""
    if query.user_id is not None:
        return _of_user(weeks, spans, query, query.user_id)
    found: list[Record] = []
    for span, after in _still_to_read(spans, query):
        place: str | None = after
        while place is not None:
            records, place = _of_week(weeks, span, query, place)
            found += records
            if len(found) >= query.size:
                return found, Place(span.partition.week, _beyond_all(query) if place is None else place)
    return found, None


def _of_user(weeks: Weeks, spans: Sequence[Span], query: PartQuery, user_id: str) -> Part:
    cursor = query.after if isinstance(query.after, Cursor) else None
    found = page(weeks, spans, BetQuery(user_id, query.status, query.newest_first, query.size, cursor))
    return found, cursor_after(found[-1]) if len(found) == query.size else None


def _still_to_read(spans: Sequence[Span], query: PartQuery) -> Iterator[tuple[Span, str]]:
    after = query.after if isinstance(query.after, Place) else None
    for span in reversed(spans) if query.newest_first else spans:
        week = span.partition.week
        if after is None or (week < after.week if query.newest_first else week > after.week):
            yield span, _LAST if query.newest_first else _FIRST
        elif week == after.week:
            yield span, after.id


def _of_week(weeks: Weeks, span: Span, query: PartQuery, after: str) -> tuple[list[Record], str | None]:
    carried = span.partition.successor is not None
    sql = _NEXT.format(
        columns=Bet.COLUMNS,
        beyond="<" if query.newest_first else ">",
        order="DESC" if query.newest_first else "ASC",
        or_open="OR status IN ('pending', 'confirmed')" if carried else "",
    )
    values = {"after": after, "start": span.start, "end": span.end, "status": query.status, "limit": query.size}
    records = weeks.raw(span.partition).execute(sql, values).fetchall()
    last = str(records[-1][0]) if len(records) == query.size else None
    completed = complete(weeks, span.partition, records)
    return [record for record in completed if query.status is None or record[STATUS] == query.status], last


def _beyond_all(query: PartQuery) -> str:
    return _FIRST if query.newest_first else _LAST
