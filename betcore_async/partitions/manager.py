"""PartitionManager: one file per ISO week, the live one for writing, all of them for reading."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine
from time import monotonic, perf_counter
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from betcore_async.clock import Clock, system_clock, to_microseconds
from betcore_async.config import DatabaseSettings, Durability, PartitionsSettings
from betcore_async.errors import (
    CommitOutcomeUnknownError,
    MigrationError,
    PartitionError,
    PartitionSealedError,
    PoolClosedError,
    RotationError,
)
from betcore_async.ids import IdGenerator
from betcore_async.partitions.catalog import inspect
from betcore_async.partitions.files import publish, remove
from betcore_async.partitions.info import RotationReport
from betcore_async.partitions.live import LiveFile, LiveWeek
from betcore_async.partitions.meta import SEAL, PartitionState, read_meta
from betcore_async.partitions.rotation import Carried, build, finalize
from betcore_async.partitions.router import PartitionRouter, Reading
from betcore_async.partitions.scanner import Scanners
from betcore_async.partitions.startup import Found, put_in_order
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import Link, connect_memory
from betcore_async.sqlite.migrations import Migrator
from betcore_async.sqlite.retry import backoff, busy_timeout
from betcore_async.sqlite.stats import PoolHealth, PoolStats
from betcore_async.tasks import finish

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

SCANNERS = 2
"""Threads that read weekly files at the same time."""

_DEFAULT_DATABASE = DatabaseSettings()
_DEFAULT_PARTITIONS = PartitionsSettings()


class Replay(Protocol[R_co]):
    """Asks the weeks before the live one whether a command was executed there already."""

    async def __call__(self, live: Week) -> R_co | None: ...


class PartitionManager(PartitionRouter):
    """The weekly files of one DB_PATH.

        async with PartitionManager(DatabaseSettings(path="data/bets.db")) as partitions:
            page = await partitions.query_bets(user_id, start, end, limit=50)

    Any number of processes may have the same files open; a rotation in one of them is followed by all others by
    themselves.
    """

    def __init__(
        self,
        database: DatabaseSettings = _DEFAULT_DATABASE,
        settings: PartitionsSettings = _DEFAULT_PARTITIONS,
        *,
        clock: Clock = system_clock,
        migrator: Migrator | None = None,
    ) -> None:
        super().__init__(database, migrator or Migrator(settings=database, clock=clock))
        self._settings = settings
        self._clock = clock
        self._new_id = IdGenerator(clock)
        self._live: LiveFile | None = None
        self._background: set[asyncio.Task[None]] = set()

    # Life

    async def open(self) -> None:
        """Find the weekly files, clean up after a crash, bring them to the newest schema, open the live one.

        Raises PartitionDamagedError where no file can take writes, MigrationError for a schema that cannot be used,
        DatabaseError for a folder that cannot.
        """
        if self._live is not None:
            raise PartitionError("the partitions are open already")
        async with contextlib.AsyncExitStack() as opened:
            desk = await connect_memory()
            opened.push_async_callback(desk.close)
            found = await self._put_in_order(desk)
            self._catalog = found.discovery.partitions
            await self._migrate()
            live = LiveFile(self._database, self._clock)
            week = found.discovery.live
            assert week is not None  # noqa: S101 - put_in_order made one
            await live.open(week, self._catalog[week].path)
            opened.pop_all()
        self._reading = Reading(desk, Scanners(SCANNERS, self._database.busy_timeout))
        self._live = live

    async def _put_in_order(self, desk: Link) -> Found:
        now = self._clock()
        started, attempts = monotonic(), 0
        while True:
            attempts += 1
            found = await desk.run(
                lambda _: put_in_order(
                    self._family, self._migrator.migrations, Week.of(now), to_microseconds(now), self._new_id
                )
            )
            if found is not None:
                return found
            await self._pause(started, attempts)

    async def _pause(self, started: float, attempts: int) -> None:
        """Wait a little for whoever holds the family's lock; raises BusyTimeoutError once the budget is spent."""
        waited = monotonic() - started
        if waited >= self._database.busy_timeout.total_seconds():
            raise busy_timeout(f"opening or rotating {self._database.path}", waited, attempts)
        await asyncio.sleep(backoff(attempts))

    async def _migrate(self) -> None:
        head = self._head
        for week, partition in self._catalog.items():
            if partition.state is PartitionState.DAMAGED or partition.schema_version == head:
                continue
            if not self._settings.migrate_on_open:
                raise MigrationError(
                    f"{partition.path} has schema version {partition.schema_version}, this code needs {head}; "
                    "run `betcore migrate up`",
                    path=partition.path,
                )
            await self._migrator.up(partition.path)
            self._catalog[week] = inspect(partition.path, week, head)

    async def close(self) -> None:
        """Finish what runs and close every file. Closing twice does nothing."""
        await finish(self._close())

    async def _close(self) -> None:
        live, self._live = self._live, None
        if live is None:
            return
        while self._background:
            await asyncio.wait(self._background)
        await live.current.pool.close()
        reading, self._reading = self._reading, None
        if reading is not None:
            await reading.scanners.close()
            await reading.desk.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _writing(self) -> LiveFile:
        if self._live is None:
            raise PoolClosedError("the partitions are not open; use `async with`")
        return self._live

    # The live week

    @property
    def current_week(self) -> Week:
        """The week that takes writes, as far as this process has noticed."""
        return self._writing().current.week

    async def write(self, function: Callable[[sqlite3.Connection, int], T], *, replay: Replay[T] | None = None) -> T:
        """Return `function(connection, now)`, run as one transaction on the live week inside a group commit.

        `now` is in microseconds, within the live week. Where a rotation has moved the week on, the successor is
        followed. `replay(live_week)` may answer in place of the function, from an earlier week.
        """
        while True:
            live_file = self._writing()
            live = live_file.current
            if replay is not None and (first := await replay(live.week)) is not None:
                return first
            try:
                return await live_file.write(live, function)
            except PartitionSealedError:
                await self._follow(live)
            except PoolClosedError:
                if live_file.current is live:
                    raise  # else a rotation swapped the pool while this call stood in its line

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Return `function(connection)`, run on the live week in one hop and one snapshot."""
        while True:
            live_file = self._writing()
            live = live_file.current
            try:
                return await live_file.read(live, function)
            except PartitionSealedError:
                await self._follow(live)
            except PoolClosedError:
                if live_file.current is live:
                    raise

    async def _follow(self, left: LiveWeek) -> None:
        await finish(self._move_on(left))

    async def _move_on(self, left: LiveWeek) -> None:
        live_file = self._writing()
        if await live_file.follow(left, self._family.path_of) is not None:
            await self._refresh()
            self._spawn(self._retire(left))

    async def _retire(self, left: LiveWeek) -> None:
        """Close a week's pool once its last reads are done, and make a plain read-only file of it."""
        await left.pool.close()
        if self._reading is not None:
            await self._reading.scanners.forget(left.week)
            await self._reading.desk.run(lambda _: finalize(left.path))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Rotation

    async def rotate_to_new_week(self, week: Week | str | None = None) -> RotationReport:
        """Move the live week on to the current one (or to `week`), carrying users and open bets over.

        Safe to call at any time, from any process: when there is nothing to do, or somebody else did it, the report
        says so. Raises RotationError for a week in the past and for a clock that is implausibly far ahead.
        """
        target = Week.of(self._clock()) if week is None else Week.parse(week)
        started, attempts = monotonic(), 0
        while True:
            live = self._writing().current
            if target <= live.week:
                return self._nothing_to_do(target, live.week, explicit=week is not None)
            if week is None and target.start - live.week.end > self._settings.max_clock_ahead:
                raise RotationError(
                    f"the clock says {target}, far ahead of the live week {live.week}; "
                    f"check it, or name the week: rotate_to_new_week({target.name!r})",
                    week=target,
                )
            attempts += 1
            with self._family.lock() as held:
                if held:
                    try:
                        return await self._rotate(live, target)
                    except PartitionSealedError:
                        pass  # somebody else was faster
            if not held:
                await self._pause(started, attempts)
            await self.read(lambda _: None)  # follows, should the week have moved on meanwhile

    def _nothing_to_do(self, target: Week, live: Week, *, explicit: bool) -> RotationReport:
        if explicit and target < live:
            raise RotationError(f"{target} is over, the live week is {live}; weeks only move forward", week=target)
        return RotationReport(live, live, performed=False, users=0, open_bets=0, seconds=0.0)

    async def _rotate(self, live: LiveWeek, target: Week) -> RotationReport:
        started, now = perf_counter(), to_microseconds(self._clock())
        final = self._family.path_of(target)
        try:
            async with live.pool.transaction(durability=Durability.FULL) as transaction:
                carried = await transaction.run(lambda raw: self._build(raw, live, target, now))
                await transaction.execute(SEAL, (target.name, max(now, live.week.starts_at)))
        except (PartitionSealedError, CommitOutcomeUnknownError):
            raise  # the new file is, or may be, in use
        except BaseException:
            remove(final)  # never live: the old week is not sealed
            raise
        await self._follow(live)
        seconds = perf_counter() - started
        return RotationReport(
            target, live.week, performed=True, users=carried.users, open_bets=carried.open_bets, seconds=seconds
        )

    def _build(self, raw: sqlite3.Connection, live: LiveWeek, target: Week, now: int) -> Carried:
        meta = read_meta(raw, live.path)
        if meta.successor is not None:
            raise PartitionSealedError(f"{live.path} is sealed already", successor=meta.successor)
        staging = self._family.new_staging(target)
        carried = build(
            staging,
            target,
            self._migrator.migrations,
            max(now, target.starts_at),
            predecessor=(live.week, live.path),
            new_id=self._new_id,
        )
        publish(staging, self._family.path_of(target))
        return carried

    # Watching

    async def health(self) -> PoolHealth:
        """Say whether the live week answers, and how fast."""
        return await self._writing().current.pool.health()

    def stats(self) -> PoolStats:
        """Return the counters of the live week's pool."""
        return self._writing().current.pool.stats()
