"""The readers of a file: as many as the load needs, reads that queue up taken several to a hop."""

import asyncio
import contextlib
import random
import sqlite3
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from betcore_async.config import DatabaseSettings
from betcore_async.errors import BetcoreError, PoolClosedError
from betcore_async.sqlite.connection import INTERRUPT_AGAIN_AFTER, Link, connect, is_broken
from betcore_async.sqlite.group import translated
from betcore_async.sqlite.retry import backoff, busy_timeout, is_busy
from betcore_async.sqlite.stats import Counters
from betcore_async.sqlite.waiting import Item, Job, Line, Turn, settle, turn_timeout
from betcore_async.tasks import finish

T = TypeVar("T")
Answer = tuple[Job, Any, BaseException | None]

GROW_AFTER = 0.005
"""Seconds a read may stand in the line before another reader is opened. Short reads gain nothing from more threads
(they take turns at the interpreter lock anyway); long ones would hold up the rest."""
HOP_TIME = 0.001
"""Seconds after which a hop takes no further read along, so that answers are not kept back."""
HOP_READS = 64
LIFETIME_JITTER = 0.1
"""Share of the lifetime that is drawn at random, so that readers are not all replaced at once."""


class Reader:
    """One reading connection and what its thread is doing at the moment."""

    def __init__(self, link: Link, lifetime: float) -> None:
        self.link = link
        self.expires_at = monotonic() + lifetime * (1 - random.uniform(0, LIFETIME_JITTER))  # noqa: S311
        self._lock = threading.Lock()
        self._current: Job | None = None

    def serve(self, line: Line) -> list[Answer]:
        """On the thread: run reads from the head of the line and return their answers."""
        answers: list[Answer] = []
        ends = monotonic() + HOP_TIME
        raw = self.link.raw
        try:
            while len(answers) < HOP_READS and (job := line.take_job(_any)) is not None:
                if not raw.in_transaction and (job.snapshot or len(line)):
                    raw.execute("BEGIN")  # one snapshot for the hop; saves each read its own
                answers.append(self._answer(job))
                if monotonic() >= ends:
                    break
        finally:
            if raw.in_transaction:
                raw.execute("ROLLBACK")  # nothing was written; ends the snapshot, whatever state it is in
        return answers

    def _answer(self, job: Job) -> Answer:
        with self._lock:
            if job.cancelled:
                return job, None, None
            self._current = job
        try:
            return job, job.function(self.link.raw), None
        except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the caller
            return job, None, translated(error)
        finally:
            with self._lock:
                self._current = None

    def interrupt(self, job: Job) -> bool:
        """Interrupt `job` if it is the one that runs, and no other; False when it is not."""
        with self._lock:
            if self._current is not job:
                return False
            self.link.raw.interrupt()
            return True


def _any(_: Job) -> bool:
    return True


class Readers:
    """The set of readers of one file. Its state changes on the loop only."""

    def __init__(self, path: Path, settings: DatabaseSettings, counters: Counters) -> None:
        self._path = path
        self._settings = settings
        self._counters = counters
        self._limit = settings.max_open_conns - 1
        self._line = Line(settings.max_waiters)
        self._open: set[Reader] = set()
        self._idle: deque[Reader] = deque()
        self._opening = 0
        self._serving = 0
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._grow_timer: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._retries: set[asyncio.TimerHandle] = set()
        self._quiet = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def sizes(self) -> tuple[int, int]:
        """Open and idle readers."""
        return len(self._open), len(self._idle)

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle.append(await self._connect())

    async def _connect(self) -> Reader:
        link = await connect(self._path, self._settings, readonly=True)
        reader = Reader(link, self._settings.conn_max_lifetime.total_seconds())
        self._open.add(reader)
        self._counters.opened += 1
        return reader

    # What callers do

    async def submit(self, function: Callable[[sqlite3.Connection], T], *, snapshot: bool) -> T:
        """Return `function(connection)` from a reader. A caller that is cancelled has its own read interrupted."""
        job = Job(function, self._loop.create_future(), self._line.lock, snapshot=snapshot)
        self._enqueue(job)
        try:
            return await job.future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            self._counters.cancelled += 1
            if not job.abandon():
                job.cancelled = True
                self._interrupt(job)
            raise

    @contextlib.asynccontextmanager
    async def turn(self, timeout: float | None = None) -> AsyncIterator[Link]:
        """Have one reader alone, in order of arrival; given back clean or not at all."""
        turn = Turn(self._loop.create_future(), self._line.lock)
        self._enqueue(turn)
        try:
            async with asyncio.timeout(timeout):
                reader: Reader = await turn.future
        except (asyncio.CancelledError, TimeoutError) as error:
            if not turn.abandon() and turn.held is not None:
                self._give_back(turn.held)  # granted in the same moment: hand it on
            if isinstance(error, TimeoutError):
                self._counters.timeouts += 1
                raise turn_timeout(timeout or 0.0) from error
            self._counters.cancelled += 1
            raise
        try:
            yield reader.link
        finally:
            await finish(self._clean(reader))

    async def _clean(self, reader: Reader) -> None:
        """Bring a reader back into service if it is clean, destroy it otherwise."""
        try:
            await reader.link.run(lambda raw: raw.execute("ROLLBACK") if raw.in_transaction else None)
        except (sqlite3.Error, BetcoreError):
            self._drop(reader, broken=True)
        else:
            self._give_back(reader)

    def _interrupt(self, job: Job) -> None:
        # Repeated, because an interrupt between two statements of the job is lost.
        if any(reader.interrupt(job) for reader in self._open):
            self._counters.interrupts += 1
            self._loop.call_later(INTERRUPT_AGAIN_AFTER, self._interrupt, job)

    # Whose turn it is

    def _enqueue(self, item: Item) -> None:
        if self._closing:
            raise PoolClosedError(f"the pool of {self._path} is closed")
        try:
            self._line.append(item)
        except BetcoreError:
            self._counters.refused += 1
            raise
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._settings.acquire_timeout.total_seconds(), self._sweep_line)
        self._kick()

    def _kick(self) -> None:
        """Give what stands at the head of the line to a reader, if one should take it now."""
        while (head := self._line.head()) is not None:
            # One busy reader is enough while reads are short: it takes what queues up along with its next hop.
            patience = head.enqueued_at + GROW_AFTER - monotonic() if self._serving and isinstance(head, Job) else 0
            if patience > 0 or not self._idle:
                self._look_again(patience)
                return
            reader = self._idle.pop()  # the one used last: its cache is warm, the others may age out
            if (turn := self._line.take_turn()) is not None:
                turn.grant(reader)
            else:
                self._serving += 1
                reader.link.post(partial(self._work, reader))
                return
        self._settle_down()

    def _look_again(self, patience: float) -> None:
        """Come back when the head of the line has waited long enough for one more reader."""
        may_grow = len(self._open) + self._opening < self._limit
        if self._grow_timer is None and (self._idle or may_grow):
            self._grow_timer = self._loop.call_later(max(patience, 0), self._grow)

    def _work(self, reader: Reader) -> None:
        """On the reader's thread: one hop."""
        answers, error = [], None
        try:
            answers = reader.serve(self._line)
        except sqlite3.Error as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(self._served, reader, answers, error)

    def _served(self, reader: Reader, answers: list[Answer], error: sqlite3.Error | None) -> None:
        self._serving -= 1
        broken = error is not None
        self._counters.reads += len(answers)
        for job, value, failure in answers:
            if failure is not None and is_busy(failure):
                self._again(job, failure)
                continue
            broken = broken or (failure is not None and is_broken(failure))
            settle(job, value, failure)
        if broken:
            self._drop(reader, broken=True)
        else:
            self._give_back(reader)

    def _again(self, job: Job, error: BaseException) -> None:
        """Try a read again that met somebody else's lock (a recovery, a checkpoint at the wrong moment)."""
        waited = monotonic() - job.enqueued_at
        job.attempts += 1
        self._counters.busy_retries += 1
        if waited >= self._settings.busy_timeout.total_seconds():
            self._counters.timeouts += 1
            failure = busy_timeout(f"reading {self._path}", waited, job.attempts)
            failure.__cause__ = error
            settle(job, error=failure)
            return

        def put_back() -> None:
            self._retries.discard(timer)
            self._line.put_back([job])
            self._kick()

        timer = self._loop.call_later(backoff(job.attempts), put_back)
        self._retries.add(timer)

    def _give_back(self, reader: Reader) -> None:
        surplus = len(self._idle) >= max(self._settings.max_idle_conns, 1) and self._line.head() is None
        if surplus or self._closing or monotonic() >= reader.expires_at:
            self._drop(reader)
        else:
            self._idle.append(reader)
            self._kick()

    def _grow(self) -> None:
        self._grow_timer = None
        head = self._line.head()
        if head is None:
            return
        if self._idle or (monotonic() < head.enqueued_at + GROW_AFTER and self._serving):
            self._kick()
        elif len(self._open) + self._opening < self._limit:
            self._opening += 1
            self._spawn(self._add_reader())

    async def _add_reader(self) -> None:
        try:
            reader = await self._connect()
        except BetcoreError as error:
            self._opening -= 1
            if not self._open:  # nobody else will serve the line: tell those who stand in it
                for item in self._line.take_all():
                    settle(item, error=error)
            return
        self._opening -= 1
        self._give_back(reader)

    def _drop(self, reader: Reader, *, broken: bool = False) -> None:
        self._open.discard(reader)
        self._counters.closed += 1
        self._counters.broken += broken
        self._spawn(self._close_link(reader.link))
        self._kick()

    async def _close_link(self, link: Link) -> None:
        with contextlib.suppress(sqlite3.Error, ValueError):  # it is being given up, possibly because it is broken
            await link.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _sweep_line(self) -> None:
        """Tell callers whose turn did not come in time; one timer for all of them."""
        timeout, now = self._settings.acquire_timeout.total_seconds(), monotonic()
        for item in self._line.take_expired(now - timeout):
            self._counters.timeouts += 1
            settle(item, error=turn_timeout(now - item.enqueued_at))
        head = self._line.head()
        self._sweep = self._loop.call_later(head.enqueued_at + timeout - now, self._sweep_line) if head else None

    def _settle_down(self) -> None:
        if len(self._idle) == len(self._open) and not self._retries:
            self._quiet.set()

    async def close(self, timeout: float) -> None:
        """Let running reads finish within `timeout` seconds, then interrupt them and refuse the rest."""
        self._closing = True
        self._quiet.clear()
        self._kick()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._quiet.wait()
        for item in self._line.take_all():
            settle(item, error=PoolClosedError(f"the pool of {self._path} was closed before this call had its turn"))
        for timer in (self._grow_timer, self._sweep, *self._retries):
            if timer is not None:
                timer.cancel()
        for reader in list(self._open):
            reader.link.raw.interrupt()
            self._drop(reader)
        while self._tasks:
            await asyncio.wait(self._tasks)
