"""PartitionRouter: questions that reach over several weeks, answered from as few files and thread hops as possible."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from betcore_async.config import DatabaseSettings
from betcore_async.errors import (
    ModelError,
    PartitionDamagedError,
    PartitionError,
    PartitionMissingError,
    PoolClosedError,
)
from betcore_async.models import Bet, BetStatus
from betcore_async.partitions import bets, views
from betcore_async.partitions.bets import BetQuery, BetTotals, Cursor
from betcore_async.partitions.catalog import Partition, discover, inspect
from betcore_async.partitions.files import Family
from betcore_async.partitions.info import BetPage, PartitionInfo, describe
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.plan import Plan, plan
from betcore_async.partitions.scanner import Scanner, Scanners
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import Link
from betcore_async.sqlite.migrations import Migrator
from betcore_async.sqlite.rows import Row
from betcore_async.sqlite.transaction import Parameters

T = TypeVar("T")

Catalog = dict[Week, Partition]

_STATE = "SELECT state FROM {schema}.partition_meta WHERE id = 1"


class _StaleCatalogError(Exception):
    """Another process rotated: the week we hold for live is sealed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is open while weekly files are read."""

    desk: Link
    """A thread for work on the folder and on single files."""
    scanners: Scanners


class PartitionRouter:
    """The reading half of the PartitionManager: the catalog of weekly files, and queries over them."""

    def __init__(self, database: DatabaseSettings, migrator: Migrator) -> None:
        self._database = database
        self._migrator = migrator
        self._family = Family(database.path)
        self._catalog: Catalog = {}
        self._elsewhere: dict[Week, Path] = {}  # attached from outside the folder
        self._detached: set[Week] = set()
        self._reading: Reading | None = None

    @property
    def _head(self) -> int:
        return self._migrator.migrations[-1].version

    def _opened(self) -> Reading:
        if self._reading is None:
            raise PoolClosedError("the partitions are not open; use `async with`")
        return self._reading

    # The catalog

    async def partitions(self) -> list[PartitionInfo]:
        """Return every weekly file that is known, oldest first, damaged ones included."""
        return await self.scan(lambda scanner, catalog: [describe(scanner, entry) for entry in catalog.values()])

    async def attach_partition(self, week: Week | str, path: str | Path) -> PartitionInfo:
        """Let queries of this process read the sealed week in the file at `path`, wherever it is.

        Raises PartitionDamagedError for a file that is not that week, PartitionError for a week that is there already.
        """
        week, file, head = Week.parse(week), Path(path).absolute(), self._head
        if week in self._catalog:
            raise PartitionError(f"{week} is there already: {self._catalog[week].path}", week=week)
        entry = await self._opened().desk.run(lambda _: inspect(file, week, head) if file.is_file() else None)
        if entry is None:
            raise PartitionMissingError(f"there is no file {file}", weeks=(week,), path=file)
        if entry.state is not PartitionState.SEALED or entry.schema_version != head:
            reason = entry.problem or f"it is {entry.state}, schema version {entry.schema_version}"
            raise PartitionDamagedError(f"{file} cannot be attached as {week}: {reason}", path=file, reason=reason)
        self._detached.discard(week)
        self._elsewhere[week] = file
        self._catalog = dict(sorted([*self._catalog.items(), (week, entry)]))
        return await self.scan(lambda scanner, _: describe(scanner, entry))

    async def detach_partition(self, week: Week | str) -> None:
        """Let go of a sealed week in this process, so that its file may be moved.

        Queries that reach it raise PartitionMissingError from now on. Raises PartitionError for the live week.
        """
        week = Week.parse(week)
        entry = self._catalog.get(week)
        if entry is None:
            raise PartitionMissingError(f"{week} is not here", weeks=(week,))
        if entry.state is PartitionState.LIVE:
            raise PartitionError(f"{week} is the live week and cannot be detached", week=week)
        self._catalog = {known: other for known, other in self._catalog.items() if known != week}
        self._elsewhere.pop(week, None)
        self._detached.add(week)
        await self._opened().scanners.forget(week)

    async def _refresh(self) -> None:
        """Read the catalog anew from the files, so that a rotation of another process is seen."""
        head, kept = self._head, {week: self._catalog[week] for week in self._elsewhere}
        discovery = await self._opened().desk.run(lambda _: discover(self._family, head))
        found = {week: entry for week, entry in discovery.partitions.items() if week not in self._detached}
        self._catalog = dict(sorted((found | kept).items()))

    # Queries

    async def scan(self, function: Callable[[Scanner, Catalog], T]) -> T:
        """Return `function(scanner, catalog)`, run on a scanner's thread in one hop, with an up-to-date catalog."""
        while True:
            catalog = dict(self._catalog)
            live = next((entry for entry in catalog.values() if entry.state is PartitionState.LIVE), None)

            def checked(scanner: Scanner, catalog: Catalog = catalog, live: Partition | None = live) -> T:
                if live is not None:
                    schema = scanner.attach(live.week, live.path)
                    (state,) = scanner.link.raw.execute(_STATE.format(schema=schema)).fetchone()
                    if state != PartitionState.LIVE:
                        raise _StaleCatalogError
                return function(scanner, catalog)

            try:
                return await self._opened().scanners.run(checked)
            except _StaleCatalogError:
                await self._refresh()

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
        PartitionMissingError when a week's file is not there, unless `allow_partial`.
        """
        if limit is not None and limit < 1:
            raise ModelError(f"limit must be at least 1; got {limit}", field="limit")
        query = BetQuery(user_id, status and BetStatus(status), newest_first, limit, cursor)

        def answer(scanner: Scanner, catalog: Catalog) -> tuple[list[bets.Record], Plan]:
            reach = plan(catalog, start, end, allow_partial=allow_partial)
            return bets.page(scanner, catalog, reach.spans, query), reach

        records, reach = await self.scan(answer)
        found = Bet.from_rows(records)
        more = records[-1] if limit is not None and len(records) == limit else None
        return BetPage(found, bets.cursor_after(more) if more else None, reach.missing)

    async def count_bets(
        self,
        start: datetime,
        end: datetime,
        *,
        user_id: str | None = None,
        status: BetStatus | None = None,
        allow_partial: bool = False,
    ) -> int:
        """Return how many bets were placed in [start, end), of one user or of all."""
        totals = await self.sum_bets(start, end, user_id=user_id, status=status, allow_partial=allow_partial)
        return totals.count

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
        return await self.scan(
            lambda scanner, catalog: bets.totals(
                scanner, catalog, plan(catalog, start, end, allow_partial=allow_partial).spans, user_id, status
            )
        )

    async def query(
        self, sql: str, parameters: Parameters = (), *, start: datetime, end: datetime, allow_partial: bool = False
    ) -> list[Row]:
        """Return the rows of a SELECT of your own over `bets`, `ledger_entries` and `users` in [start, end).

        Times in it are microseconds since the epoch. It can read and nothing else; anything else is a PartitionError.
        """
        return await self.scan(
            lambda scanner, catalog: views.run(
                scanner, catalog, plan(catalog, start, end, allow_partial=allow_partial).spans, sql, parameters
            )
        )
