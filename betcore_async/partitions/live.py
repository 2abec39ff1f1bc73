"""The live week: which file takes writes now, and how to follow it when a rotation, here or elsewhere, moves it on."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from betcore_async.clock import Clock, to_microseconds
from betcore_async.config import DatabaseSettings
from betcore_async.errors import PartitionSealedError
from betcore_async.partitions import chain
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.week import Week
from betcore_async.sqlite.pool import SQLitePool

T = TypeVar("T")

_STATE = "SELECT state, successor FROM partition_meta WHERE id = 1"


@dataclass(frozen=True, slots=True)
class LiveWeek:
    """A file that takes writes, or did a moment ago."""

    week: Week
    path: Path
    pool: SQLitePool


class LiveFile:
    """Holds the pool of the live week and swaps it when the week moves on."""

    def __init__(self, settings: DatabaseSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._swap = asyncio.Lock()
        self._closed = False
        self.current: LiveWeek

    async def open(self, week: Week, path: Path) -> None:
        pool = SQLitePool(
            path,
            self._settings,
            name=week.name,
            after_begin=partial(_insist_live, path),
            before_commit=chain.extend,
        )
        await pool.open()
        self.current = LiveWeek(week, path, pool)

    def write(
        self, live: LiveWeek, function: Callable[[sqlite3.Connection, int], T], *, alone: bool = False
    ) -> Awaitable[T]:
        """Return `function(connection, now)`, run as a transaction on `live` if it still takes writes.

        `now` (microseconds) is read while the write lock is held and clamped into the week, so that a row never carries
        a time its file does not cover. Raises PartitionSealedError naming the successor where the week has moved on.
        """
        week, clock = live.week, self._clock
        return live.pool.write(lambda raw: function(raw, week.clamp(to_microseconds(clock()))), alone=alone)

    async def read(self, live: LiveWeek, function: Callable[[sqlite3.Connection], T]) -> T:
        """Return `function(connection)`, run in one snapshot of `live`. Raises PartitionSealedError like `write`."""

        def guarded(raw: sqlite3.Connection) -> T:
            _insist_live(live.path, raw)
            return function(raw)

        return await live.pool.read(guarded)

    async def follow(self, left: LiveWeek, find: Callable[[], Awaitable[Partition]]) -> bool:
        """Move on from a sealed week to the one that `find()` returns; what was left is to be closed by the caller.

        False when another task has moved on already, and when all is being closed.
        """
        async with self._swap:
            if self._closed or self.current is not left:
                return False
            live = await find()
            await self.open(live.week, live.path)
            return True

    async def close(self) -> None:
        """Let running work end and close the pool; nothing is followed any more."""
        async with self._swap:
            self._closed = True
            await self.current.pool.close()


def _insist_live(path: Path, raw: sqlite3.Connection) -> None:
    state, successor = raw.execute(_STATE).fetchone()
    if state != PartitionState.LIVE:
        raise PartitionSealedError(f"{path} is sealed; {successor} took over", successor=Week(successor))
