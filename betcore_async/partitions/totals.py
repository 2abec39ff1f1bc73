"""Adding up bets over several weekly files. Synchronous: runs on a scanner's thread, in one hop.

A bet that outlived its week has a row in each file up to the one in which it was decided, and is decided in one of them
only. So a week's bets are added up where they were decided, and those still open in the newest file: no row has to be
looked up one by one. What a file took over has to be as many bets as the file before it left open. Where it is not,
because a week between them is not here, the bets are looked up one by one after all.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from betcore_async.models import Bet, BetStatus
from betcore_async.partitions.bets import by_id, complete
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.figures import NOBODY, SUMS, Standing, Sums
from betcore_async.partitions.plan import Span
from betcore_async.partitions.week import Week
from betcore_async.partitions.weeks import Weeks

_OPEN = "status IN ('pending', 'confirmed')"
_WINDOW = "placed_at >= :start AND placed_at < :end"
_OF_USER = "AND user_id = :user_id"  # `:user_id IS NULL OR …` would keep SQLite from using the index of the user's bets

# Sorting by status would double the time, so what is decided is one sum; what is open has a small index of its own.
_DECIDED = f"SELECT {SUMS} FROM bets WHERE {_WINDOW} AND NOT ({_OPEN}) AND (:status IS NULL OR status = :status)"
_STILL_OPEN = f"SELECT status, {SUMS} FROM bets WHERE {_WINDOW} AND {_OPEN} GROUP BY status"
_CARRIED = f"SELECT status, {SUMS} FROM bets WHERE {_WINDOW} AND rowid <= :last GROUP BY status"
_LEFT_OPEN = f"SELECT id FROM bets WHERE {_WINDOW} AND {_OPEN}"


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
    count = amount = payout = 0
    for span in spans:
        found = _of_span(weeks, span, spans, query)
        count, amount, payout = count + found.count, amount + found.amount, payout + found.payout
    return BetTotals(count, amount, payout, tuple(sorted(weeks.missing)))


def _of_span(weeks: Weeks, span: Span, spans: Sequence[Span], query: TotalsQuery) -> Sums:
    standing_in = _standing(weeks, span, spans, query)
    if standing_in is None:
        return _part_of_week(weeks, span, query)
    first = standing_in(span.partition)
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


def _standing(weeks: Weeks, span: Span, spans: Sequence[Span], query: TotalsQuery) -> StandingIn | None:
    """Return how to look up what the span comes to in a file; None where there are no figures of it."""
    week, user_id = span.partition.week, query.user_id
    if user_id is not None:
        start, end = spans[0].start, spans[-1].end
        return lambda file: weeks.figures_of_user(file, user_id, start, end).of_week(week.starts_at)
    if span.partition.successor is not None and (span.start, span.end) == (week.starts_at, week.ends_at):
        return lambda file: weeks.figures(file).of_week(week.starts_at)
    return None


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
