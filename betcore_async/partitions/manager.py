"""PartitionManager: one file per ISO week, the live one for writing, all of them for reading."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self, TypeVar

from betcore_async.clock import Clock, system_clock, to_microseconds
from betcore_async.config import DatabaseSettings, PartitionSettings
from betcore_async.errors import (
    BetcoreError,
    PartitionDamagedError,
    PartitionError,
    PartitionSealedError,
    PoolClosedError,
    RotationError,
)
from betcore_async.partitions.archive import PartitionArchive
from betcore_async.partitions.catalog import Partition, clean, discover
from betcore_async.partitions.files import ROTATION
from betcore_async.partitions.info import RotationReport
from betcore_async.partitions.live import LiveFile, LiveWeek
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.reading import Reading
from betcore_async.partitions.rotation import check_clock, finalize, rotate
from betcore_async.partitions.scanner import Scanners
from betcore_async.partitions.staging import Step
from betcore_async.partitions.startup import migrate, put_in_order, refuse_foreign_code
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import connect_memory
from betcore_async.sqlite.migrations import Migrator
from betcore_async.sqlite.stats import PoolHealth, PoolStats
from betcore_async.tasks import finish

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

SCANNERS = 2
"""Threads that read weekly files at the same time."""

_DEFAULT_DATABASE = DatabaseSettings()
_DEFAULT_PARTITIONS = PartitionSettings()


class Replay(Protocol[R_co]):
    """Asks the weeks before the live one whether a command was executed there already; None: there is no need to."""

    def __call__(self, live: Week) -> Awaitable[R_co | None] | None: ...


class PartitionManager(PartitionArchive):
    """The weekly files of one DB_PATH.

        async with PartitionManager(DatabaseSettings(path="data/bets.db")) as partitions:
            page = await partitions.query_bets(user_id, start, end, limit=50)

    Any number of processes may have the same files open; a rotation in one of them is followed by all others by
    themselves.
    """

    def __init__(
        self,
        database: DatabaseSettings = _DEFAULT_DATABASE,
        settings: PartitionSettings = _DEFAULT_PARTITIONS,
        *,
        clock: Clock = system_clock,
        migrator: Migrator | None = None,
    ) -> None:
        super().__init__(database, settings, clock, migrator or Migrator(settings=database, clock=clock))
        self._opening = False
        self._live: LiveFile | None = None
        self.wrote = asyncio.Event()
        """Set by each write of this process that was committed; who waits for it clears it first."""

    # Life

    async def open(self) -> None:
        """Find the weekly files, clean up after a crash, bring them to the newest schema, open the live one.

        Raises PartitionDamagedError where no file can take writes, MigrationError for a schema that cannot be used,
        DatabaseError for a folder that cannot, BusyTimeoutError while another process opens or migrates for long.
        """
        if self._opening or self._reading is not None:
            raise PartitionError("the partitions are open already")
        self._opening = True
        self._elsewhere, self._detached = {}, {}
        try:
            async with contextlib.AsyncExitStack() as opened:
                desk = await connect_memory()
                opened.push_async_callback(desk.close)
                self._reading = Reading(desk, Scanners(SCANNERS, self._database.busy_timeout))
                opened.callback(self._stop_reading)
                self._live = await self._open_files()
                opened.pop_all()
        finally:
            self._opening = False

    async def _open_files(self) -> LiveFile:
        self._family.make_folder()
        live_file = LiveFile(self._database, self._clock)
        async with self._family.alone(self._database.busy_timeout):  # to the end: until it is open the week stays live
            now = self._clock()
            discovery = await self._at_desk(
                lambda: put_in_order(self._family, self._migrator.migrations, Week.of(now), to_microseconds(now))
            )
            self._catalog = discovery.partitions
            await self._tidy_up()
            if await self._migrate(discovery.partitions.values()):
                discovery = await self._refresh()
            week = discovery.live
            assert week is not None  # noqa: S101 - put_in_order made one
            await live_file.open(week, self._catalog[week].path)
        return live_file

    async def _migrate(self, partitions: Collection[Partition]) -> bool:
        await self._at_desk(lambda: refuse_foreign_code(partitions, self._migrator.migrations))
        return await migrate(partitions, self._migrator, allowed=self._settings.migrate_on_open)

    async def close(self) -> None:
        """Finish what runs (queries within ten seconds) and close every file. Closing twice does nothing."""
        await finish(self._close())

    async def _close(self) -> None:
        live, self._live = self._live, None
        reading = self._reading
        if live is None or reading is None:
            return
        async with contextlib.AsyncExitStack() as closing:  # in reverse, each of them whatever the others raise
            closing.callback(self._stop_reading)
            closing.push_async_callback(reading.desk.close)
            closing.push_async_callback(self._finalize_sealed, reading)
            closing.push_async_callback(reading.stop_retiring)
            # Before the writer, which as the last one to close takes -wal and -shm away; a reader would leave them.
            closing.push_async_callback(live.close)
            closing.push_async_callback(reading.scanners.close)
            closing.push_async_callback(reading.counting.stop)

    async def _finalize_sealed(self, reading: Reading) -> None:
        """Finish what a query of ours, which had a week open while it was retired, kept from being done."""
        sealed = [entry.path for entry in self._catalog.values() if entry.state is PartitionState.SEALED]
        await reading.desk.run(lambda _: [finalize(path) for path in sealed])

    def _stop_reading(self) -> None:
        self._reading = None

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

    def claim(self, name: str) -> contextlib.AbstractContextManager[bool]:
        """Try to be the one that does what `name` says for these files: true in one process at a time.

        Released at the end of the block, or when the process dies.
        """
        return self._family.claim(f".{name}.lock")

    # The live week

    @property
    def current_week(self) -> Week:
        """The week that takes writes, as far as this process has noticed."""
        return self._writing().current.week

    async def write(
        self, function: Callable[[sqlite3.Connection, int], T], *, replay: Replay[T] | None = None, alone: bool = False
    ) -> T:
        """Return `function(connection, now)`, run as one transaction on the live week inside a group commit.

        `now` is in microseconds, within the live week. Where a rotation has moved the week on, the successor is
        followed. `replay(live_week)` may answer in place of the function, from an earlier week. With `alone` it has a
        commit of its own: for one that takes long, so that who came before does not wait for it.
        """
        while True:
            live_file = self._writing()
            live = live_file.current
            earlier = None if replay is None else replay(live.week)
            if earlier is not None and (first := await earlier) is not None:
                return first
            try:
                written = await live_file.write(live, function, alone=alone)
                self.wrote.set()
                return written
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
        async def find() -> Partition:
            discovery = await self._refresh()
            if discovery.live is None or discovery.live == left.week:
                raise PartitionDamagedError(
                    f"{left.path} was sealed, and now says it is not; somebody put another file in its place",
                    path=left.path,
                    reason="replaced while in use",
                )
            live = discovery.partitions[discovery.live]
            await self._migrate([live])  # a process of an older release may have made it
            return live

        # Where it is closed meanwhile there is nothing to follow; the caller will find that out by itself.
        if self._live is not None and await self._live.follow(left, find):
            self._opened().retire(left)

    # Rotation

    async def rotate_to_new_week(self, week: Week | str | None = None) -> RotationReport:
        """Move the live week on to the current one (or to `week`), carrying users and open bets over.

        Safe to call at any time, from any process: when there is nothing to do, or somebody else did it, the report
        says so. Raises RotationError for a week in the past, for a clock that is implausibly far ahead and where the
        new file cannot be made; BusyTimeoutError while another process rotates, starts or migrates for longer than the
        busy budget; CommitOutcomeUnknownError.
        """
        target = Week.of(self._clock()) if week is None else Week.parse(week)
        if target > self.current_week:
            async with self._family.alone(self._database.busy_timeout, ROTATION):
                await self.read(lambda _: None)  # follows, where a rival was faster
                live = self._writing().current
                if target > live.week:
                    if week is None:
                        check_clock(target, live.week, self._settings.max_clock_ahead)
                    return await self._rotate(live, target)
        live_week = self.current_week
        if week is not None and target < live_week:
            raise RotationError(f"{target} is over, the live week is {live_week}; weeks only move forward", week=target)
        return RotationReport(live_week, live_week, performed=False)

    async def _rotate(self, live: LiveWeek, target: Week) -> RotationReport:
        started = perf_counter()
        step = Step(self._family, live.week, target, self._migrator.migrations, to_microseconds(self._clock()))
        carried, blocked_since = await rotate(live.pool, step, self._database.busy_timeout)
        await self._follow(live)
        blocked = perf_counter() - blocked_since
        head = self._head
        with contextlib.suppress(BetcoreError, OSError):  # what is left now is removed by the next start
            async with self._family.alone(timedelta(0)):
                await self._at_desk(lambda: clean(self._family, discover(self._family, head), staging=True))
        return RotationReport(
            target,
            live.week,
            performed=True,
            users=carried.users,
            open_bets=carried.open_bets,
            seconds=perf_counter() - started,
            blocked_seconds=blocked,
        )

    # Watching

    async def health(self) -> PoolHealth:
        """Say whether the live week answers, and how fast."""
        return await self._writing().current.pool.health()

    def stats(self) -> PoolStats:
        """Return the counters of the live week's pool."""
        return self._writing().current.pool.stats()
