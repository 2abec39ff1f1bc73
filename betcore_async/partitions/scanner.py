"""Threads that read weekly files: each an in-memory database to which weeks are attached read-only, as needed.

SQLite attaches at most ten files to a connection, so each scanner keeps the ten it used last.
"""

import asyncio
import contextlib
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from betcore_async.errors import PartitionDamagedError, PoolClosedError
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import Link, connect_memory
from betcore_async.sqlite.retry import is_busy, retry_busy

T = TypeVar("T")

ATTACH_LIMIT = 10
"""SQLITE_MAX_ATTACHED of every stock build."""


class Scanner:
    """One connection with weeks attached; used by one caller at a time, on its thread."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.lock = asyncio.Lock()
        self._attached: OrderedDict[Week, Path] = OrderedDict()

    def attach(self, week: Week, path: Path) -> str:
        """Return the schema name under which the week's file is attached; attaches it if it is not."""
        schema = f"w{week.name.replace('-W', '_')}"
        if self._attached.get(week) == path:
            self._attached.move_to_end(week)
            return schema
        self.detach(week)
        while len(self._attached) >= ATTACH_LIMIT:
            self.detach(next(iter(self._attached)))
        try:
            # An absolute path, and mode=ro: a plain name would be created when missing.
            self.link.raw.execute(f"ATTACH DATABASE ? AS {schema}", (f"file:{quote(str(path.absolute()))}?mode=ro",))
        except sqlite3.DatabaseError as error:
            if is_busy(error):
                raise
            raise PartitionDamagedError(
                f"{path} cannot be read: {error}", week=week, path=path, reason=str(error)
            ) from error
        self._attached[week] = path
        self.link.raw.execute(f"PRAGMA {schema}.cache_size = -256")  # it would be 2 MB for each, to no use
        return schema

    def detach(self, week: Week) -> None:
        """Let go of a week's file, so that it may be moved or finalized."""
        if self._attached.pop(week, None) is not None:
            self.link.raw.execute(f"DETACH DATABASE w{week.name.replace('-W', '_')}")


class Scanners:
    """A few scanners, opened as needed; a caller gets a free one or waits for one."""

    def __init__(self, limit: int, busy_timeout: timedelta) -> None:
        self._limit = limit
        self._busy_timeout = busy_timeout
        self._scanners: list[Scanner] = []
        self._turns = asyncio.Semaphore(limit)
        self._closed = False

    async def run(self, function: Callable[[Scanner], T]) -> T:
        """Return `function(scanner)`, run on the thread of a free scanner in one hop.

        A cancelled caller has its query interrupted and gives the scanner back.
        """
        async with self._turns, self._take() as scanner:
            return await retry_busy(
                lambda: scanner.link.run(lambda _: function(scanner)), self._busy_timeout, "reading weekly files"
            )

    @contextlib.asynccontextmanager
    async def _take(self) -> AsyncIterator[Scanner]:
        if self._closed:
            raise PoolClosedError("the partitions are closed")
        scanner = next((scanner for scanner in self._scanners if not scanner.lock.locked()), None)
        if scanner is None:
            scanner = Scanner(await connect_memory())
            self._scanners.append(scanner)
        async with scanner.lock:
            yield scanner

    async def forget(self, week: Week) -> None:
        """Make every scanner let go of a week's file."""
        for scanner in self._scanners:
            async with scanner.lock:
                await scanner.link.run(partial(_detach, scanner, week))

    async def close(self) -> None:
        self._closed = True
        while self._scanners:
            scanner = self._scanners.pop()
            async with scanner.lock:
                await scanner.link.close()


def _detach(scanner: Scanner, week: Week, _: sqlite3.Connection) -> None:
    scanner.detach(week)


def deny_all_but_reading(action: int, *_: str | None) -> int:
    """Authorize a statement of the user's own to read, and nothing else."""
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
