"""Reads back what was bet, over all weeks: to count it, and to find what is still open."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from betcore_async.app import Betcore
from betcore_async.clock import EPOCH
from betcore_async.demo.cells import Cell
from betcore_async.demo.feed import FeedFacts
from betcore_async.demo.latency import Latencies
from betcore_async.demo.summary import WeekBets
from betcore_async.models import Bet, BetStatus
from betcore_async.partitions import Week
from betcore_async.tasks import all_of

PAGE = 500
_AT_ONCE = 8  # users whose histories are read at one time

_KINDS = {
    BetStatus.PENDING: "open",
    BetStatus.CONFIRMED: "open",
    BetStatus.WON: "won",
    BetStatus.LOST: "lost",
    BetStatus.CANCELLED: "cancelled",
    BetStatus.INSUFFICIENT_FUNDS: "refused",
}


@dataclass(slots=True)
class Histories:
    """What the histories of all users hold."""

    bets_of: Counter[str] = field(default_factory=Counter)
    """Distinct bets of each user."""
    doubled: int = 0
    """Bets that a history showed more than once."""
    open_cells: set[Cell] = field(default_factory=set)
    settled_until: datetime = EPOCH
    """The latest end of a window whose bets were settled."""
    _weeks: defaultdict[Week, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, user_id: str, bets: Sequence[Bet]) -> None:
        """Count the whole history of one user."""
        distinct = {bet.id for bet in bets}
        self.bets_of[user_id] += len(distinct)
        self.doubled += len(bets) - len(distinct)
        for bet in bets:
            self._weeks[Week.of(bet.placed_at)][_KINDS[bet.status]] += 1
            if bet.is_open:
                self.open_cells.add(Cell.parse(bet.cell_id))
            elif bet.status is not BetStatus.INSUFFICIENT_FUNDS:
                self.settled_until = max(self.settled_until, Cell.parse(bet.cell_id).end)

    def missing(self, expected: dict[str, int]) -> int:
        """Return how many bets of those that were acknowledged, by user, are in no history."""
        return sum(max(0, count - self.bets_of[user]) for user, count in expected.items())

    def weeks(self, known: Iterable[Week]) -> tuple[WeekBets, ...]:
        """Return the counts of each known week, oldest first."""
        return tuple(WeekBets(week.name, **self._weeks[week]) for week in sorted({*known, *self._weeks}))


async def read_histories(betcore: Betcore, users: Sequence[str], facts: FeedFacts, query: Latencies) -> Histories:
    """Page through the history of every user, over all weeks of the feed; each page is timed in `query`."""
    start, end = Week.of(facts.first).start, Week.of(facts.last).end
    histories, turns = Histories(), asyncio.Semaphore(_AT_ONCE)

    async def read(user_id: str) -> None:
        async with turns:
            histories.add(user_id, await _history(betcore, user_id, (start, end), query))

    await all_of(read(user_id) for user_id in users)
    return histories


async def _history(betcore: Betcore, user_id: str, span: tuple[datetime, datetime], query: Latencies) -> list[Bet]:
    bets: list[Bet] = []
    cursor = None
    while True:
        with query.measure():
            page = await betcore.partitions.query_bets(user_id, *span, limit=PAGE, cursor=cursor)
        bets += page.bets
        cursor = page.next_cursor
        if cursor is None:
            return bets
