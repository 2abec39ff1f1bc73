"""Adding up bets over several weekly files. Synchronous: runs on a scanner's thread, in one hop.

A bet that outlived its week has a row in each file up to the one in which it was decided, and is decided in one of them
only. So a week's bets are added up where they were decided, and those still open in the newest file: no row has to be
looked up one by one. What a file took over has to be as many bets as the file before it left open. Where it is not,
because a week between them is not here, the bets are looked up one by one after all.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from betcore_async.models import OPEN_STATUSES, Bet, BetStatus
from betcore_async.partitions.bets import by_id, complete
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.figures import NOTHING, SUMS, ByStatus, Sums, add_up
from betcore_async.partitions.plan import Span
from betcore_async.partitions.week import Week
from betcore_async.partitions.weeks import Weeks

_OPEN = "status IN ('pending', 'confirmed')"
_WINDOW = "placed_at >= :start AND placed_at < :end"
_OF_USER = "AND user_id = :user_id"  # `:user_id IS NULL OR …` would keep SQLite from using the index of the user's bets

# Sorting by status would double the time, so what is decided is one sum; what is open has a small index of its own.
_DECIDED = f"SELECT {SUMS} FROM bets WHERE {_WINDOW} AND NOT ({_OPEN}) AND (:status IS NULL OR status = :status)"
_STILL_OPEN = f"SELECT status, {SUMS} FROM bets WHERE {_WINDOW} AND {_OPEN}"
_CARRIED = f"SELECT status, {SUMS} FROM bets WHERE {_WINDOW}"
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

    @property
    def decided(self) -> Sequence[str]:
        wanted = tuple(BetStatus) if self.status is None else (self.status,)
        return [status for status in wanted if status not in OPEN_STATUSES]

    @property
    def open(self) -> Sequence[str]:
        return tuple(OPEN_STATUSES) if self.status is None else [self.status] if self.status in OPEN_STATUSES else []


def totals(weeks: Weeks, spans: Sequence[Span], query: TotalsQuery) -> BetTotals:
    """Return count and sums over the spans, each bet with its latest outcome."""
    total = sum((_of_span(weeks, span, query) for span in spans), NOTHING)
    return BetTotals(total.count, total.amount, total.payout, tuple(sorted(weeks.missing)))


def _of_span(weeks: Weeks, span: Span, query: TotalsQuery) -> Sums:
    total, left = _home(weeks, span, query)
    for holder in weeks.after(span.partition.week) if left else ():
        carried = _carried(weeks, holder, span, query)
        if add_up(carried, carried).count != add_up(left, left).count:
            return _one_by_one(weeks, span, query)
        total += add_up(carried, query.decided)
        left = {status: sums for status, sums in carried.items() if status in OPEN_STATUSES}
        if not left:
            break
    return total + add_up(left, query.open)


def _home(weeks: Weeks, span: Span, query: TotalsQuery) -> tuple[Sums, ByStatus]:
    """Return what was decided within the week itself, and what its file left open."""
    if _stored(span, query):
        found = weeks.figures(span.partition).of_week(span.partition.week.starts_at)
        left = {status: sums for status, sums in found.items() if status in OPEN_STATUSES}
        return add_up(found, query.decided), left
    raw, values = weeks.raw(span.partition), _values(span, query)
    decided = Sums.from_row(raw.execute(_where(_DECIDED, query), values).fetchone())
    return decided, _by_status(raw, _where(_STILL_OPEN, query) + " GROUP BY status", values)


def _carried(weeks: Weeks, holder: Partition, span: Span, query: TotalsQuery) -> ByStatus:
    """Return what a later file has of the span's bets."""
    values = _values(span, query)
    if query.user_id is not None:
        return _by_status(weeks.raw(holder), _where(_CARRIED, query) + " GROUP BY status", values)
    figures = weeks.figures(holder)
    found = figures.of_week(span.partition.week.starts_at)
    if not found or _stored(span, query):
        return found
    sql = f"{_CARRIED} AND rowid <= :last GROUP BY status"
    return _by_status(weeks.raw(holder), sql, values | {"last": figures.last_carried})


def _stored(span: Span, query: TotalsQuery) -> bool:
    """Tell whether stored figures answer for the span: they are of sealed weeks, whole ones, and of all users."""
    week = span.partition.week
    whole = (span.start, span.end) == (week.starts_at, week.ends_at)
    return whole and query.user_id is None and span.partition.successor is not None


def _where(sql: str, query: TotalsQuery) -> str:
    return sql if query.user_id is None else f"{sql} {_OF_USER}"


def _values(span: Span, query: TotalsQuery) -> dict[str, object]:
    return {"start": span.start, "end": span.end, "user_id": query.user_id, "status": query.status}


def _by_status(raw: sqlite3.Connection, sql: str, values: dict[str, object]) -> ByStatus:
    return {row[0]: Sums.from_row(row[1:]) for row in raw.execute(sql, values)}


def _one_by_one(weeks: Weeks, span: Span, query: TotalsQuery) -> Sums:
    raw, values = weeks.raw(span.partition), _values(span, query)
    total = Sums.from_row(raw.execute(_where(_DECIDED, query), values).fetchone())
    ids = [row[0] for row in raw.execute(_where(_LEFT_OPEN, query), values)]
    left = complete(weeks, span.partition, by_id(weeks, span.partition, ids))
    chosen = [bet for bet in Bet.from_rows(left) if query.status in {None, bet.status}]
    later = Sums(len(chosen), sum(bet.amount for bet in chosen), sum(bet.payout_amount or 0 for bet in chosen))
    return total + later
