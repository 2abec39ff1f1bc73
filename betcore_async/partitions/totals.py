"""Adding up bets over several weekly files. Synchronous: runs on a scanner's thread, in one hop.

A bet that outlived its week has a row in each file up to the one in which it was decided, and is decided in one of them
only. So a week's bets are added up where they were decided, and those still open in the newest file: no row has to be
looked up one by one. What a file took over has to be as many bets as the file before it left open. Where it is not,
because a week between them is not here, the bets are looked up one by one after all.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from betcore_async.models import Bet, BetStatus
from betcore_async.partitions.bets import by_id, complete
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.figures import NOBODY, NOTHING, SUMS, Standing, Sums, sums_where
from betcore_async.partitions.plan import Span
from betcore_async.partitions.week import Week
from betcore_async.partitions.weeks import Weeks

_OPEN = "status IN ('pending', 'confirmed')"
_WINDOW = "placed_at >= :start AND placed_at < :end"
_OF_USER = "AND user_id = :user_id"  # `:user_id IS NULL OR …` would keep SQLite from using the index of the user's bets
_AS = "(:status IS NULL OR status = :status)"

# Sorting by status would double the time, so what is decided is one sum; what is open has a small index of its own.
_DECIDED = f"SELECT {SUMS} FROM bets WHERE {_WINDOW} AND NOT ({_OPEN}) AND {_AS}"
_STILL_OPEN = f"SELECT status, {SUMS} FROM bets WHERE {_WINDOW} AND {_OPEN} GROUP BY status"
_CARRIED = f"SELECT status, {SUMS} FROM bets WHERE {_WINDOW} AND rowid <= :last GROUP BY status"
_LEFT_OPEN = f"SELECT id FROM bets WHERE {_WINDOW} AND {_OPEN}"

_OF_USER_IN_FILE = f"""
SELECT count(*) FILTER (WHERE placed_at < :week), count(*) FILTER (WHERE {_OPEN}), {{decided}}
FROM bets
WHERE {_WINDOW} {_OF_USER}
"""
_DECIDED_OF_USER = _OF_USER_IN_FILE.format(decided=sums_where(f"NOT ({_OPEN})"))
_DECIDED_OF_USER_AS = _OF_USER_IN_FILE.format(decided=sums_where(f"status = :status AND NOT ({_OPEN})"))
_OPEN_OF_USER = f"SELECT {SUMS} FROM bets WHERE {_WINDOW} {_OF_USER} AND {_OPEN} AND {_AS}"


@dataclass(frozen=True, slots=True)
class BetTotals:
    """How many bets there are, and what they come to in minor units."""

    count: int
    amount: int
    payout: int
    missing_weeks: tuple[Week, ...] = ()
    """Weeks that could not be read (only with `allow_partial=True`)."""


@dataclass(frozen=True, slots=True)
class TotalsQuery:
    user_id: str | None
    status: BetStatus | None


StandingIn = Callable[[Partition], Standing]
"""What the bets of a span come to in a file."""


def totals(weeks: Weeks, spans: Sequence[Span], query: TotalsQuery) -> BetTotals:
    """Return count and sums over the spans, each bet with its latest outcome."""
    total = None if query.user_id is None else _of_user(weeks, spans, query)
    if total is None:
        total = sum((_of_span(weeks, span, query) for span in spans), NOTHING)
    return BetTotals(total.count, total.amount, total.payout, tuple(sorted(weeks.missing)))


def _of_user(weeks: Weeks, spans: Sequence[Span], query: TotalsQuery) -> Sums | None:
    """Add up a user's bets file by file; None where files between them are not here, which may have decided some."""
    if not spans:
        return NOTHING
    sql = _DECIDED_OF_USER if query.status is None else _DECIDED_OF_USER_AS
    values = _values(Span(spans[0].partition, spans[0].start, spans[-1].end), query)
    total, left, before = NOTHING, 0, spans[0].partition.predecessor
    files = [span.partition for span in spans]
    for number, file in enumerate(chain(files, weeks.after(files[-1].week)), start=1):
        row = weeks.raw(file).execute(sql, values | {"week": file.week.starts_at}).fetchone()
        if file.predecessor != before or row[0] != left:
            return None
        total, left, before = total + Sums.from_row(row[2:]), row[1], file.week
        if number >= len(files) and not left:
            return total
    return total + Sums.from_row(weeks.raw(file).execute(_OPEN_OF_USER, values).fetchone())


def _of_span(weeks: Weeks, span: Span, query: TotalsQuery) -> Sums:
    week = span.partition.week
    if query.user_id is not None:
        return _one_by_one(weeks, span, query)
    if span.partition.successor is None or (span.start, span.end) != (week.starts_at, week.ends_at):
        return _part_of_week(weeks, span, query)
    first = weeks.figures(span.partition).of_week(week.starts_at)

    def standing_in(holder: Partition) -> Standing:
        return weeks.figures(holder).of_week(week.starts_at)

    return _followed(weeks, span, query, standing_in, total=first.decided_as(query.status), left=first)


def _followed(
    weeks: Weeks, span: Span, query: TotalsQuery, standing_in: StandingIn, *, total: Sums, left: Standing
) -> Sums:
    """Add what became of the bets that the week's own file left open."""
    for holder in weeks.after(span.partition.week) if left.open else ():
        carried = standing_in(holder)
        if carried.count != left.open:
            return _one_by_one(weeks, span, query)
        total += carried.decided_as(query.status)
        left = carried
        if not left.open:
            break
    return total + left.open_as(query.status) if left.open else total


def _part_of_week(weeks: Weeks, span: Span, query: TotalsQuery) -> Sums:
    raw, values = weeks.raw(span.partition), _values(span, query)
    decided, still_open = Sums.from_row(raw.execute(_DECIDED, values).fetchone()), _standings(raw, _STILL_OPEN, values)

    def standing_in(holder: Partition) -> Standing:
        figures = weeks.figures(holder)
        if not figures.of_week(span.partition.week.starts_at).count:
            return NOBODY
        return _standings(weeks.raw(holder), _CARRIED, values | {"last": figures.last_carried})

    return _followed(weeks, span, query, standing_in, total=decided, left=still_open)


def _values(span: Span, query: TotalsQuery) -> dict[str, object]:
    return {"start": span.start, "end": span.end, "user_id": query.user_id, "status": query.status}


def _standings(raw: sqlite3.Connection, sql: str, values: dict[str, object]) -> Standing:
    return Standing.of({row[0]: Sums.from_row(row[1:]) for row in raw.execute(sql, values)})


def _one_by_one(weeks: Weeks, span: Span, query: TotalsQuery) -> Sums:
    raw, values = weeks.raw(span.partition), _values(span, query)
    of_user = "" if query.user_id is None else _OF_USER
    total = Sums.from_row(raw.execute(f"{_DECIDED} {of_user}", values).fetchone())
    ids = [row[0] for row in raw.execute(f"{_LEFT_OPEN} {of_user}", values)]
    left = complete(weeks, span.partition, by_id(weeks, span.partition, ids))
    chosen = [bet for bet in Bet.from_rows(left) if query.status in {None, bet.status}]
    later = Sums(len(chosen), sum(bet.amount for bet in chosen), sum(bet.payout_amount or 0 for bet in chosen))
    return total + later
