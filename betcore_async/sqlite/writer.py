"""The one writer of a file: group commits and interactive transactions in one fair order."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import TypeVar, cast

from betcore_async.config import DatabaseSettings, Durability
from betcore_async.errors import BetcoreError, PoolClosedError
from betcore_async.sqlite.connection import Hooks, Link, connect
from betcore_async.sqlite.failures import is_interrupt
from betcore_async.sqlite.group import GroupCommit, GroupResult
from betcore_async.sqlite.raw import RawConnection
from betcore_async.sqlite.retry import backoff, busy_timeout
from betcore_async.sqlite.stats import Counters, Tally
from betcore_async.sqlite.waiting import Item, Job, Line, Sweeper, Turn, settle
from betcore_async.sqlite.watch import Watch
from betcore_async.tasks import finish

T = TypeVar("T")
R = TypeVar("R")


class Writer:
    """Owns the writing connection. Its state changes on the loop only; the thread takes jobs and reports back."""

    def __init__(
        self,
        path: Path,
        settings: DatabaseSettings,
        counters: Counters,
        hooks: Hooks,
    ) -> None:
        self._path = path
        self._settings = settings
        self._counters = counters
        self._hooks = hooks
        self._line = Line(settings.max_waiters)
        self._sweeper = Sweeper(self._line, settings.acquire_timeout.total_seconds(), counters)
        self._watch = Watch(settings.write_timeout.total_seconds(), counters, lambda: self._working)
        self._link: Link | None = None
        self._group: GroupCommit | None = None
        self._working = False  # the thread, a turn, a pause or a replacement has the connection
        self._closing = False  # nothing new is taken
        self._shut = False  # nothing more is started
        self._busy_since: float | None = None
        self._busy_attempts = 0
        self._pause: asyncio.TimerHandle | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._line)

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._use(await self._connect())

    @property
    def tallies(self) -> list[Tally]:
        return [] if self._link is None else [cast("RawConnection", self._link.raw).tally]

    async def _connect(self) -> Link:
        with self._counters.opening():
            return await connect(self._path, self._settings, on_connect=self._hooks.on_connect)

    def _use(self, link: Link) -> None:
        self._link = link
        raw = cast("RawConnection", link.raw)
        self._group = GroupCommit(raw, self._settings, self._counters, self._watch, self._hooks)

    # What callers do

    async def submit(
        self, function: Callable[[sqlite3.Connection], T], durability: Durability | None, *, alone: bool = False
    ) -> T:
        """Run `function` in the next group commit, or in one of its own; returns its result once that took place.

        A caller that is cancelled before its function started leaves no trace. Later, the function is stopped and
        undone if the group has not committed yet; CancelledError comes after that is settled.
        """
        job = Job(function, self._loop.create_future(), durability=durability or self._settings.synchronous)
        job.alone = alone
        self._enqueue(job)
        try:
            return await job.future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            self._counters.cancelled += 1
            if not self._line.abandon(job) and not job.answered:
                job.cancelled = True
                self._watch.stop_cancelled()
                job.future = self._loop.create_future()  # the first one was cancelled with its caller
                await finish(asyncio.wait([job.future]))
                job.future.exception()
            raise

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[tuple[Link, GroupCommit]]:
        """Have the connection alone, in order of arrival; given back outside of any transaction, or replaced."""
        turn = Turn(self._loop.create_future())
        self._enqueue(turn)
        try:
            held: tuple[Link, GroupCommit] = await turn.future
        except asyncio.CancelledError:
            self._counters.cancelled += 1
            if not self._line.abandon(turn) and turn.held is not None:
                self._next()  # granted in the same moment: hand it on
            raise
        tally, granted = self._counters.tally, monotonic()
        tally.waited += granted - turn.enqueued_at
        try:
            yield held
        finally:
            tally.used += monotonic() - granted
            self._take_back(held[0])

    def _take_back(self, link: Link) -> None:
        if link is not self._link:
            return  # closed under its holder
        if link.broken or not link.alive or link.raw.in_transaction:
            self._start_replacing()
        else:
            self._next()

    def _enqueue(self, item: Item) -> None:
        if self._closing:
            raise PoolClosedError(f"the pool of {self._path} is closed")
        try:
            self._line.append(item)
        except BetcoreError:
            self._counters.refused += 1
            raise
        self._counters.requests += 1
        self._counters.requests_queued += self._working
        self._sweeper.watch()
        self._kick()

    # Whose turn it is

    def _next(self) -> None:
        self._working = False
        self._kick()

    def _kick(self) -> None:
        """Start what stands at the head of the line, unless something is going on."""
        if self._working:
            return
        if self._shut:
            self._refuse_line()
        if self._line.head() is None:
            self._busy_since, self._busy_attempts = None, 0
            self._idle.set()
            return
        self._idle.clear()
        self._working = True
        if self._link is None or self._group is None:
            self._start_replacing()
        elif (turn := self._line.take_turn()) is not None:
            self._busy_since, self._busy_attempts = None, 0
            turn.grant((self._link, self._group))
        else:
            self._watch.arm()
            self._link.post(self._work)

    def _work(self) -> None:
        """On the thread: commit groups while jobs stand at the head of the line."""
        group, line = self._group, self._line
        assert group is not None  # noqa: S101 - _kick holds it
        while True:
            result = group.run(line)
            if result is not None:
                line.put_back(result.again)
            if result is None or result.busy or result.broken or self._shut or not isinstance(line.head(), Job):
                self._report(self._stopped, result)
                return
            self._report(self._deliver, result)

    def _report(self, callback: Callable[[R], None], result: R) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(callback, result)

    def _deliver(self, result: GroupResult) -> None:
        counters = self._counters
        if result.committed:
            counters.groups += 1
            counters.writes += result.committed
            counters.largest_group = max(counters.largest_group, result.committed)
            counters.group_sizes[result.committed.bit_length() - 1] += 1
        if result.busy is None:
            self._busy_since, self._busy_attempts = None, 0
        for job, value, error in result.done:
            if error is not None:
                settle(job, error=self._closed() if self._shut and is_interrupt(error) else error)
            else:  # on the path of every write: `settle` is written out
                job.answered = True
                if not job.future.done():
                    job.future.set_result(value)

    def _stopped(self, result: GroupResult | None) -> None:
        if result is not None:
            self._deliver(result)
        if result is None or self._shut:
            self._next()
        elif result.broken is not None:
            self._start_replacing()
        elif result.busy is not None:
            self._pause_for_lock()
        else:
            self._next()

    # Waiting for others

    def _pause_for_lock(self) -> None:
        """Another process has the lock: try again after a pause, and tell those whose busy budget is spent."""
        now, budget = monotonic(), self._settings.busy_timeout.total_seconds()
        if self._busy_since is None:
            self._busy_since = now
        self._busy_attempts += 1
        self._counters.busy_retries += 1
        if now - self._busy_since >= budget:
            for item in self._line.take_expired(now - budget)[0]:
                self._counters.timeouts += 1
                waited = now - max(item.enqueued_at, self._busy_since)
                settle(item, error=busy_timeout(f"writing to {self._path}", waited, self._busy_attempts))
        left = max(self._busy_since + budget - now, 0) or budget
        self._pause = self._loop.call_later(min(backoff(self._busy_attempts), left), self._next)

    def _start_replacing(self) -> None:
        self._working = True
        self._replacing = self._loop.create_task(self._replace())

    async def _replace(self) -> None:
        """Close the connection and open a new one; if that fails, everybody in the line is told."""
        link, self._link, self._group = self._link, None, None
        try:
            if link is not None:
                self._counters.broken += 1
                await self._close_link(link)
            self._use(await self._connect())
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            for item in self._line.take_all():
                settle(item, error=error)
        self._next()

    async def _close_link(self, link: Link) -> None:
        self._counters.closed += 1
        self._counters.tally.add(cast("RawConnection", link.raw).tally)
        with contextlib.suppress(sqlite3.Error, ValueError):  # it is being given up because it is broken
            await link.close()

    # The end

    async def drained(self) -> None:
        """Take nothing new and wait until everything taken is done."""
        self._closing = True
        self._kick()
        await self._idle.wait()

    async def shut(self) -> None:
        """Refuse what waits, interrupt what runs, close the connection."""
        self._closing = self._shut = True
        self._refuse_line()
        self._sweeper.stop()
        self._watch.disarm()
        if self._pause is not None:
            self._pause.cancel()
        if self._replacing is not None and not self._replacing.done():
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
        link, self._link = self._link, None
        if link is not None:
            await self._close_link(link)
        self._refuse_line()

    def stop(self) -> None:
        """End the thread without waiting, for a pool that was forgotten."""
        if self._link is not None:
            self._link.stop()

    def _refuse_line(self) -> None:
        for item in self._line.take_all():
            settle(item, error=self._closed())

    def _closed(self) -> PoolClosedError:
        return PoolClosedError(f"the pool of {self._path} was closed before this call was done")
