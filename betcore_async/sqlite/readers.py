"""The readers of a file: as many as the load needs, reads that queue up taken several to a hop."""

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import TypeVar

from betcore_async.config import DatabaseSettings
from betcore_async.errors import BetcoreError, PoolClosedError
from betcore_async.sqlite.connection import INTERRUPT_AGAIN_AFTER, Hook, Link
from betcore_async.sqlite.failures import is_interrupt
from betcore_async.sqlite.fleet import Fleet
from betcore_async.sqlite.reader import Reader
from betcore_async.sqlite.retry import is_busy
from betcore_async.sqlite.stats import Counters, Tally
from betcore_async.sqlite.waiting import Item, Job, Line, Retries, State, Sweeper, Turn, settle, turn_timeout
from betcore_async.tasks import finish

T = TypeVar("T")

GROW_AFTER = 0.005
"""Seconds a read may stand in the line before another reader is taken for it. Short reads gain nothing from more
threads (they take turns at the interpreter lock anyway); long ones would hold up the rest."""

GROW_AGAIN_AFTER = 0.1
"""Seconds until another reader is tried for after one could not be opened."""

LATE_AFTER = 0.005
"""Seconds between looks at hops that take long. The answers of a hop usually come all at once, with its end."""


class Readers:
    """The set of readers of one file. Its state changes on the loop only."""

    def __init__(
        self, path: Path, settings: DatabaseSettings, counters: Counters, on_connect: Hook | None = None
    ) -> None:
        self._path = path
        self._settings = settings
        self._counters = counters
        self._limit = settings.max_open_conns - 1
        self._most_idle = max(settings.max_idle_conns, 1)
        self._line = Line(settings.max_waiters)
        busy_budget = settings.busy_timeout.total_seconds()
        self._retries = Retries(self._line, busy_budget, counters, f"reading {path}")
        self._sweeper = Sweeper(self._line, settings.acquire_timeout.total_seconds(), counters)
        self._fleet = Fleet(path, settings, counters, on_connect, self._work)
        self._open = self._fleet.open
        self._idle: deque[Reader] = deque()
        self._opening = 0
        self._serving: set[Reader] = set()
        self._newest: tuple[Reader, float] | None = None  # the reader that began its hop last, and when
        self._closing = False  # nothing new is taken
        self._shut = False  # nothing more is started
        self._late_timer: asyncio.TimerHandle | None = None
        self._grow_timer: asyncio.TimerHandle | None = None
        self._retire_timer: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._line) + sum(len(reader.taken) for reader in self._open)

    @property
    def tallies(self) -> list[Tally]:
        return self._fleet.tallies

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Readers open, idle, and most there may be."""
        return len(self._open), len(self._idle), self._limit

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle.append(await self._fleet.add())
        self._retire_later()

    # What callers do

    async def submit(self, function: Callable[[sqlite3.Connection], T], *, snapshot: bool) -> T:
        """Return `function(connection)` from a reader. A caller that is cancelled has its own read interrupted."""
        job = Job(function, self._loop.create_future(), snapshot=snapshot)
        self._enqueue(job)
        try:
            return await job.future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            self._counters.cancelled += 1
            if not self._line.abandon(job):
                job.cancelled = True
                self._counters.interrupts += self._interrupt(job)
            raise

    @contextlib.asynccontextmanager
    async def turn(self, timeout: float | None = None) -> AsyncIterator[Link]:
        """Have one reader alone, in order of arrival; given back clean or not at all."""
        reader = await self.claim(timeout)
        try:
            yield reader.link
        finally:
            await self.release(reader)

    async def claim(self, timeout: float | None = None) -> Reader:
        """As `turn`, for who cannot use a context manager; to be followed by `release`."""
        turn = Turn(self._loop.create_future(), patient=timeout is not None)
        self._enqueue(turn)
        try:
            async with asyncio.timeout(timeout):
                reader: Reader = await turn.future
        except (asyncio.CancelledError, TimeoutError) as error:
            if not self._line.abandon(turn) and turn.held is not None:
                self._give_back(turn.held)  # granted in the same moment: hand it on
            if isinstance(error, TimeoutError):
                self._counters.timeouts += 1
                raise turn_timeout(timeout or 0.0) from error
            self._counters.cancelled += 1
            raise
        reader.lent_at = monotonic()
        self._counters.tally.waited += reader.lent_at - turn.enqueued_at
        return reader

    async def release(self, reader: Reader) -> None:
        self._counters.tally.used += monotonic() - reader.lent_at
        await finish(self._clean(reader))

    async def _clean(self, reader: Reader) -> None:
        """Bring a reader back into service if it can be made as it was, destroy it otherwise."""
        try:
            await reader.link.run(lambda _: reader.restore())
        except (sqlite3.Error, BetcoreError):
            reader.link.broken = True
        self._give_back(reader)

    def _interrupt(self, job: Job) -> bool:
        # Repeated, because an interrupt between two statements of the job is lost.
        running = any(reader.link.interrupt(job) for reader in self._open)
        if running:
            self._loop.call_later(INTERRUPT_AGAIN_AFTER, self._interrupt, job)
        return running

    # Whose turn it is

    def _enqueue(self, item: Item) -> None:
        if self._closing:
            raise PoolClosedError(f"the pool of {self._path} is closed")
        try:
            self._line.append(item)
        except BetcoreError:
            self._counters.refused += 1
            raise
        self._counters.requests += 1
        self._sweeper.watch()
        if len(self._line) > 1:
            self._counters.requests_queued += 1
            return  # whoever stands at the head has been seen to
        if self._newest is None and self._idle and isinstance(item, Job):
            self._start(self._idle.pop())  # what `_kick` would come to: the quick way for the usual case
        else:
            self._kick()
            self._counters.requests_queued += item.state is State.WAITING

    def _kick(self) -> None:
        """Give what stands at the head of the line to a reader, if one should take it now."""
        while (head := self._line.head()) is not None:
            patience = self._patience(head)
            if patience > 0 or not self._idle:
                self._look_again(patience)
                return
            reader = self._idle.pop()  # the one used last: its cache is warm, the others may age out
            if isinstance(head, Job):
                self._start(reader)
            elif not reader.link.alive:
                self._fleet.drop(reader, broken=True)
            elif (turn := self._line.take_turn()) is not None:
                turn.grant(reader)
            else:
                self._idle.append(reader)
        if self._closing:
            self._settle_down()

    def _start(self, reader: Reader) -> None:
        try:
            reader.link.post(reader.hop)
        except PoolClosedError:  # by somebody who had borrowed it
            self._fleet.drop(reader, broken=True)
            self._kick()
            return
        reader.hop_began = monotonic()
        self._newest = reader, reader.hop_began
        self._serving.add(reader)
        if self._late_timer is None:
            self._late_timer = self._loop.call_later(LATE_AFTER, self._look_after_hops)

    def _patience(self, head: Item) -> float:
        """Return how many seconds the head of the line should wait for a reader that is at work.

        One reader is enough while reads are short: it takes what queues up along with its next hop.
        """
        if self._newest is None or not isinstance(head, Job):
            return 0
        return min(self._newest[1], head.enqueued_at) + GROW_AFTER - monotonic()

    def _look_again(self, patience: float) -> None:
        """Come back when the head of the line has waited long enough for one more reader."""
        may_grow = len(self._open) + self._opening < self._limit
        if self._grow_timer is None and not self._shut and (self._idle or may_grow):
            self._grow_timer = self._loop.call_later(max(patience, 0), self._grow)

    def _grow(self) -> None:
        self._grow_timer = None
        head = self._line.head()
        if head is None:
            return
        if self._idle or self._patience(head) > 0:
            self._kick()
        elif len(self._open) + self._opening < self._limit and self._opening < len(self._line):
            self._opening += 1
            self._fleet.spawn(self._add_reader())

    def _work(self, reader: Reader) -> None:
        """On the reader's thread: one hop."""
        reader.serve(self._line)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(self._served, reader)

    def _served(self, reader: Reader) -> None:
        self._serving.discard(reader)
        if self._newest is not None and self._newest[0] is reader:
            self._newest = None
        self._collect(reader)
        self._take_back(reader)
        self._give_back(reader)

    def _collect(self, reader: Reader) -> None:
        answers = reader.answers
        self._counters.reads += len(answers)
        while answers:
            job, value, failure = answers.popleft()
            if failure is None:
                job.answered = True
                if not job.future.done():
                    job.future.set_result(value)
            elif self._shut and (is_busy(failure) or is_interrupt(failure)):
                settle(job, error=self._closed())
            elif is_busy(failure):
                self._retries.add(job, failure, self._kick)
            else:
                settle(job, error=failure)

    def _take_back(self, reader: Reader) -> None:
        """Put reads that a hop took along and has not begun back at the head of the line."""
        jobs = [job for job in reader.take_back() if not job.cancelled] if reader.taken else []
        if self._shut:
            for job in jobs:  # taken along while the line was being emptied: nobody else will answer them
                settle(job, error=self._closed())
        elif jobs:
            self._line.put_back(jobs)
            self._sweeper.watch()

    def _look_after_hops(self) -> None:
        """Deliver what hops that are still going on have answered, and let others do what waits behind a long read."""
        now = monotonic()
        for reader in self._serving:
            self._collect(reader)
            if now >= reader.hop_began + GROW_AFTER:
                self._take_back(reader)
        self._kick()
        self._late_timer = self._loop.call_later(LATE_AFTER, self._look_after_hops) if self._serving else None

    def _give_back(self, reader: Reader) -> None:
        """Take a reader into service again, unless it is broken, too old or one too many."""
        if reader not in self._open:
            return  # closed under its holder
        wanted = len(self._line) > 0
        surplus = not wanted and (self._closing or len(self._idle) >= self._most_idle)
        broken = reader.link.broken or not reader.link.alive
        if broken or surplus or monotonic() >= reader.expires_at:
            self._fleet.drop(reader, broken=broken)
        else:
            self._idle.append(reader)
        if wanted or self._closing:
            self._kick()

    async def _add_reader(self) -> None:
        reader, failure = None, None
        try:
            reader = await self._fleet.add()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            failure = error
        finally:
            self._opening -= 1
        if reader is not None:
            self._give_back(reader)
        elif not self._open:  # nobody else will serve the line
            for item in self._line.take_all():
                settle(item, error=failure)
        elif len(self._line):
            self._look_again(GROW_AGAIN_AFTER)
        self._settle_down()

    # What the clock does

    def _retire_later(self) -> None:
        lifetime = self._settings.conn_max_lifetime.total_seconds()
        self._retire_timer = self._loop.call_later(lifetime, self._retire)

    def _retire(self) -> None:
        """Close readers that lie idle beyond their lifetime; those at work are looked at when they come back."""
        now = monotonic()
        for reader in [reader for reader in self._idle if now >= reader.expires_at]:
            self._idle.remove(reader)
            self._fleet.drop(reader)
        self._retire_later()

    # The end

    def _settle_down(self) -> None:
        if len(self._idle) == len(self._open) and not self._retries and not self._opening:
            self._quiet.set()

    async def drained(self) -> None:
        """Take nothing new and wait until everything taken is done."""
        self._closing = True
        self._quiet.clear()
        self._kick()
        await self._quiet.wait()

    async def shut(self) -> None:
        """Refuse what waits, interrupt what runs, close every connection."""
        self._closing = self._shut = True
        self._sweeper.stop()
        for timer in (self._grow_timer, self._late_timer, self._retire_timer):
            if timer is not None:
                timer.cancel()
        begun = [job for reader in self._open for job in reader.take_back()]
        for item in (*begun, *self._line.take_all(), *self._retries.take_all()):
            settle(item, error=self._closed())
        self._idle.clear()
        await self._fleet.shut()

    def stop(self) -> None:
        """End the threads without waiting, for a pool that was forgotten."""
        self._fleet.stop()

    def _closed(self) -> PoolClosedError:
        return PoolClosedError(f"the pool of {self._path} was closed before this call was done")
