"""Threads that read weekly files, read-only: each with many files open beside one another, and with up to ten attached.

What reaches over several files in one statement needs them attached to one connection, and SQLite attaches no more than
ten; everything else goes file by file.
"""

import asyncio
import contextlib
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

from betcore_async.errors import BetcoreError, PartitionDamagedError, PoolClosedError
from betcore_async.partitions.catalog import Partition, check_columns, check_content
from betcore_async.partitions.handles import Handle, HandlesConnection, StaleCatalogError, identify, reaching
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import Link, connect_memory
from betcore_async.sqlite.failures import is_broken, is_interrupt
from betcore_async.sqlite.migration_history import insist
from betcore_async.sqlite.pool import CLOSE_TIMEOUT
from betcore_async.sqlite.retry import retry_busy
from betcore_async.sqlite.uri import uri_of

T = TypeVar("T")

ATTACH_LIMIT = 10
"""SQLITE_MAX_ATTACHED of every stock build."""


class Scanner:
    """Weekly files on one thread; used by one caller at a time."""

    def __init__(self, link: Link, hub: HandlesConnection) -> None:
        self.link = link
        self._hub = hub
        self.lock = asyncio.Lock()
        self._attached: OrderedDict[Week, Path] = OrderedDict()

    def attach(self, week: Week, path: Path) -> str:
        """Return the schema name under which the week's file is attached; attaches it if it is not."""
        schema = _schema(week)
        if self._attached.get(week) == path:
            self._attached.move_to_end(week)
            return schema
        self._detach(week)
        while len(self._attached) >= ATTACH_LIMIT:
            self._detach(next(iter(self._attached)))
        reaching(week, path, lambda: self._attach(schema, week, path))
        self._attached[week] = path
        return schema

    def _attach(self, schema: str, week: Week, path: Path) -> None:
        raw, inode = self.link.raw, identify(path)[:2]
        # A URI with mode=ro: a plain name would be created when missing.
        raw.execute(f"ATTACH DATABASE ? AS {schema}", (uri_of(path, readonly=True),))
        try:
            raw.execute(f"PRAGMA {schema}.cache_size = -256")  # it would be 2 MB for each, to no use
            check_content(raw, path, week, schema)  # it may have been swapped since the folder was read
            check_columns(raw, path, schema)
            if identify(path)[:2] != inode:
                raise StaleCatalogError
        except BaseException:
            insist(raw, f"DETACH DATABASE {schema}")
            raise

    def handle(self, entry: Partition) -> Handle:
        """Return a week's file, open for reading, in a snapshot that lasts until the question is answered."""
        return self._hub.handle(entry.week, entry.path)

    def standing_open(self, entry: Partition) -> Handle | None:
        """Return a week's file where it is open, or may be so without another one being closed for it."""
        return self._hub.standing_open(entry.week, entry.path)

    def let_go(self, week: Week) -> None:
        """Close the week's file where `handle` opened it; the next `handle` opens it anew."""
        self._hub.let_go(week)

    def end_question(self) -> None:
        self._hub.end_question()

    def detach(self, week: Week) -> None:
        """Let go of a week's file, so that it may be moved or finalized."""
        self.let_go(week)
        self._detach(week)

    def _detach(self, week: Week) -> None:
        if week in self._attached:
            self.link.raw.execute(f"DETACH DATABASE {_schema(week)}")
            del self._attached[week]


def _schema(week: Week) -> str:
    return f"w{week.name.replace('-W', '_')}"


class Scanners:
    """A few scanners, opened as needed; a caller gets a free one or waits for one."""

    def __init__(self, limit: int, busy_timeout: timedelta) -> None:
        self.limit = limit
        self._busy_timeout = busy_timeout
        self._scanners: list[Scanner] = []
        self._turns = asyncio.Semaphore(limit)
        self._mergers = asyncio.Semaphore(limit)
        self._merging: dict[Link, asyncio.Future[None]] = {}
        """Of questions that take several hops; each future is done when the question is."""
        self._passing: frozenset[Week] = frozenset()
        self._closing = False
        self._closed = False

    async def run(self, function: Callable[[Scanner], T], *, under_way: bool = False) -> T:
        """Return `function(scanner)`, run on the thread of a free scanner in one hop.

        A cancelled caller has its query interrupted. `under_way` says that this goes on with a question inside
        `merging()`, which may still finish while all others are refused.
        """
        return await retry_busy(
            lambda: self._run(function, under_way=under_way), self._busy_timeout, "reading weekly files"
        )

    async def _run(self, function: Callable[[Scanner], T], *, under_way: bool) -> T:
        async with self._turns:
            if self._closed or (self._closing and not under_way):
                raise PoolClosedError("the partitions are closed")
            scanner = next((scanner for scanner in self._scanners if not scanner.lock.locked()), None)
            if scanner is None:
                scanner = await self._open()
            async with scanner.lock:
                if scanner in self._scanners:
                    return await self._answer(scanner, function)
        return await self._run(function, under_way=under_way)  # somebody whose turn was before ours has destroyed it

    @contextlib.asynccontextmanager
    async def merging(self) -> AsyncIterator[Link]:
        """Yield an empty database in memory, with a thread of its own, to put the answers of several hops together in.

        As many at a time as there are scanners; others wait. Whoever is in here may finish before `close` closes.
        """
        async with self._mergers:
            if self._closing:
                raise PoolClosedError("the partitions are closed")
            link, ended = await connect_memory(), asyncio.get_running_loop().create_future()
            self._merging[link] = ended
            try:
                yield link
            except sqlite3.OperationalError as error:
                if self._closed and is_interrupt(error):
                    raise _too_late() from error
                raise
            finally:
                ended.set_result(None)
                del self._merging[link]
                await link.close()

    async def _open(self) -> Scanner:
        link = await connect_memory(HandlesConnection)
        if self._closed:
            await link.close()
            raise PoolClosedError("the partitions were closed")
        self._scanners.append(Scanner(link, cast("HandlesConnection", link.raw)))
        return self._scanners[-1]

    async def _answer(self, scanner: Scanner, function: Callable[[Scanner], T]) -> T:
        passing = self._passing
        try:
            return await scanner.link.run(lambda raw: _call(function, scanner, raw, passing))
        except (BetcoreError, StaleCatalogError):
            raise
        except BaseException as error:
            # Interrupted or failed anywhere: what is attached or open now is anybody's guess.
            if scanner in self._scanners:
                self._scanners.remove(scanner)
            await scanner.link.close()
            if self._closed and is_interrupt(error):
                raise _too_late() from error
            if is_broken(error):
                raise PartitionDamagedError(f"a weekly file cannot be read: {error}", reason=str(error)) from error
            raise

    async def forget(self, week: Week) -> None:
        """Make every scanner let go of a week's file; waits for what they are doing."""
        for scanner in list(self._scanners):
            async with scanner.lock:
                if scanner in self._scanners:
                    await scanner.link.run(lambda _, scanner=scanner: scanner.detach(week))  # type: ignore[misc]

    @contextlib.contextmanager
    def passing(self, week: Week) -> Iterator[None]:
        """Have the week's file open for no longer than a question takes: it can be finalized in between."""
        self._passing |= {week}
        try:
            yield
        finally:
            self._passing -= {week}

    async def close(self) -> None:
        """Let running queries finish within ten seconds, interrupt the rest, close everything."""
        self._closing = True
        deadline = asyncio.get_running_loop().time() + CLOSE_TIMEOUT
        if self._merging:
            await asyncio.wait(self._merging.values(), timeout=CLOSE_TIMEOUT)
        self._closed = True
        for scanner in list(self._scanners):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline), scanner.lock:
                    pass
            if scanner in self._scanners:
                self._scanners.remove(scanner)
            await scanner.link.close()
        for link in list(self._merging):
            await link.close()


def _too_late() -> PoolClosedError:
    return PoolClosedError("the partitions were closed before this query was done")


def _call(function: Callable[[Scanner], T], scanner: Scanner, raw: sqlite3.Connection, passing: frozenset[Week]) -> T:
    try:
        answer = function(scanner)
    finally:
        scanner.end_question()
        if raw.in_transaction:  # it would see the files as they are now for ever
            insist(raw, "ROLLBACK")
    for week in passing:
        scanner.detach(week)
    return answer


def deny_all_but_reading(action: int, *_: str | None) -> int:
    """Authorize a statement of the user's own to read, and nothing else."""
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
