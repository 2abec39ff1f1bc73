"""PartitionRouter: questions that reach over several weeks, answered from as few files and thread hops as possible."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from functools import partial
from typing import TypeVar

from betcore_async.config import DatabaseSettings
from betcore_async.models import Bet, BetStatus
from betcore_async.partitions import bets, own_groups, own_sql
from betcore_async.partitions.bets import BetQuery
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.figure_cache import FigureCache
from betcore_async.partitions.handles import StaleCatalogError
from betcore_async.partitions.info import BetCount, BetPage, QueryRows
from betcore_async.partitions.known import KnownPartitions
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.own_sql import InGroups
from betcore_async.partitions.plan import Catalog
from betcore_async.partitions.question import Cursor, cursor_of, size_of, status_of, text_of
from betcore_async.partitions.scanner import Scanner
from betcore_async.partitions.stream import Part, PartQuery, next_part
from betcore_async.partitions.totals import BetTotals, TotalsQuery, totals
from betcore_async.partitions.week import Week
from betcore_async.partitions.weeks import Weeks
from betcore_async.sqlite.migrations import Migrator
from betcore_async.sqlite.rows import Row
from betcore_async.sqlite.transaction import Parameters

T = TypeVar("T")


class PartitionRouter(KnownPartitions):
    """The half of an open PartitionManager that reads: which weekly files there are, and queries over them.

    A type for code that only asks; what makes one is `PartitionManager`.
    """

    def __init__(self, database: DatabaseSettings, migrator: Migrator) -> None:
        super().__init__(database, migrator)
        self._figures = FigureCache(self._family.figures)

    async def _ask(self, answer: Callable[[Weeks], T], *, allow_partial: bool) -> T:
        """Return `answer(weeks)`, in one hop and one snapshot of the live week."""

        def asked(scanner: Scanner, catalog: Catalog) -> tuple[T, Weeks]:
            weeks = Weeks(scanner, catalog, self._figures, allow_partial=allow_partial)
            try:
                return answer(weeks), weeks
            finally:
                if weeks.counted:
                    self._figures.save()

        while True:
            found, weeks = await self.scan(asked)
            if weeks.uncounted:
                reading = self._opened()
                reading.counting.begin(weeks.uncounted - reading.retiring.keys(), self._count, self._save_figures)
            if not (weeks.missing and await self._came_back(weeks.missing)):
                return found

    async def _count(self, week: Week) -> None:
        def count(scanner: Scanner, catalog: Catalog) -> None:
            entry = catalog.get(week)
            if entry is not None and entry.state is PartitionState.SEALED:  # it may have gone meanwhile
                Weeks(scanner, catalog, self._figures, allow_partial=True).figures(entry)

        await self.scan(count)

    async def _save_figures(self) -> None:
        await self._at_desk(self._figures.save)

    async def query_bets(
        self,
        user_id: str,
        start: datetime,
        end: datetime,
        *,
        status: BetStatus | None = None,
        limit: int | None = None,
        cursor: Cursor | None = None,
        newest_first: bool = True,
        allow_partial: bool = False,
    ) -> BetPage:
        """Return the bets a user placed in [start, end), over all weeks, each once and with its latest outcome.

        `limit` is the size of a page; `next_cursor` of one page is the `cursor` of the next. Raises
        PartitionMissingError when a week's file is not there, PartitionArchivedError when it is in the archive, unless
        `allow_partial`.
        """
        size = None if limit is None else size_of(limit, "limit")
        query = BetQuery(text_of(user_id, "user_id"), status_of(status), newest_first, size, cursor_of(cursor))

        def answer(weeks: Weeks) -> tuple[list[bets.Record], set[Week]]:
            return bets.page(weeks, weeks.spans(start, end), query), weeks.missing

        records, missing = await self._ask(answer, allow_partial=allow_partial)
        found = Bet.from_rows(records)
        more = records[-1] if limit is not None and len(records) == limit else None
        return BetPage(found, bets.cursor_after(more) if more else None, tuple(sorted(missing)))

    async def iterate_bets(
        self,
        start: datetime,
        end: datetime,
        *,
        user_id: str | None = None,
        status: BetStatus | None = None,
        newest_first: bool = True,
        chunk: int = 1000,
    ) -> AsyncIterator[Bet]:
        """Yield all bets that were placed in [start, end), each once, however many there are; `chunk` to a read.

        Those of one user come by time, those of all users week by week and by id. Nothing is read ahead and nothing
        stays open between two chunks, so a slow reader is no burden and may leave at any time; each chunk shows the
        outcomes of the moment it was read. Raises PartitionMissingError when a week's file is not there.
        """
        whose = None if user_id is None else text_of(user_id, "user_id")
        query = PartQuery(whose, status_of(status), newest_first, size_of(chunk, "chunk"))
        while True:
            records, after = await self._ask(
                partial(_next_part, start=start, end=end, query=query), allow_partial=False
            )
            for bet in Bet.from_rows(records):
                yield bet
            if after is None:
                return
            query = query.going_on(after)

    async def count_bets(
        self,
        start: datetime,
        end: datetime,
        *,
        user_id: str | None = None,
        status: BetStatus | None = None,
        allow_partial: bool = False,
    ) -> BetCount:
        """Return how many bets were placed in [start, end), of one user or of all.

        Raises PartitionMissingError when a week's file is not there, unless `allow_partial`; `missing_weeks` of the
        answer names it then.
        """
        found = await self.sum_bets(start, end, user_id=user_id, status=status, allow_partial=allow_partial)
        return BetCount(found.count, found.missing_weeks)

    async def sum_bets(
        self,
        start: datetime,
        end: datetime,
        *,
        user_id: str | None = None,
        status: BetStatus | None = None,
        allow_partial: bool = False,
    ) -> BetTotals:
        """Return count, staked amount and payouts of the bets placed in [start, end), of one user or of all."""
        query = TotalsQuery(None if user_id is None else text_of(user_id, "user_id"), status_of(status))
        return await self._ask(lambda weeks: totals(weeks, weeks.spans(start, end), query), allow_partial=allow_partial)

    async def query(
        self, sql: str, parameters: Parameters = (), *, start: datetime, end: datetime, allow_partial: bool = False
    ) -> QueryRows:
        """Return the rows of a SELECT of your own over `bets`, `ledger_entries` and `users` in [start, end).

        Times in it are microseconds since the epoch. It can read and nothing else; anything else is a PartitionError.
        Over more than ten files it is asked of groups of them, on several threads at a time, and their answers are put
        together: rows, in an order or in none, and count, sum, min, max and avg, with GROUP BY or without. What cannot
        be put together for certain is a PartitionError that says why.
        """

        def answer(weeks: Weeks) -> tuple[list[Row] | InGroups, set[Week]]:
            return own_sql.ask(weeks, weeks.spans(start, end), sql, parameters), weeks.missing

        while True:
            found, missing = await self._ask(answer, allow_partial=allow_partial)
            try:
                if isinstance(found, InGroups):
                    found = await own_groups.rows_of(self._opened().scanners, found, self._is_current)
            except StaleCatalogError:
                await self._refresh()
            else:
                return QueryRows(found, tuple(sorted(missing)))

    def _is_current(self, partition: Partition) -> bool:
        return self._catalog.get(partition.week) == partition


def _next_part(weeks: Weeks, *, start: datetime, end: datetime, query: PartQuery) -> Part:
    return next_part(weeks, weeks.spans(start, end), query)
