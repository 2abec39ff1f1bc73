"""The live week: which file takes writes now, and how to follow it when a rotation, here or elsewhere, moves it on."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from betcore_async.clock import Clock, to_microseconds
from betcore_async.config import DatabaseSettings
from betcore_async.errors import PartitionSealedError
from betcore_async.partitions.meta import PartitionState, read_meta
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
        self.current: LiveWeek

    async def open(self, week: Week, path: Path) -> None:
        pool = SQLitePool(path, self._settings, name=week.name)
        await pool.open()
        self.current = LiveWeek(week, path, pool)

    async def write(self, live: LiveWeek, function: Callable[[sqlite3.Connection, int], T]) -> T:
        """Return `function(connection, now)`, run as a transaction on `live` if it still takes writes.

        `now` (microseconds) is read while the write lock is held and clamped into the week, so that a row never carries
        a time its file does not cover. Raises PartitionSealedError naming the successor where the week has moved on.
        """
        return await live.pool.write(partial(self._guarded, live, function))

    async def read(self, live: LiveWeek, function: Callable[[sqlite3.Connection], T]) -> T:
        """Return `function(connection)`, run in one snapshot of `live`. Raises PartitionSealedError like `write`."""

        def guarded(raw: sqlite3.Connection) -> T:
            _insist_live(raw, live)
            return function(raw)

        return await live.pool.read(guarded)

    def _guarded(self, live: LiveWeek, function: Callable[[sqlite3.Connection, int], T], raw: sqlite3.Connection) -> T:
        _insist_live(raw, live)
        now = to_microseconds(self._clock())
        return function(raw, min(max(now, live.week.starts_at), live.week.ends_at - 1))

    async def follow(self, left: LiveWeek, path_of: Callable[[Week], Path]) -> LiveWeek | None:
        """Move on from a sealed week to the one that is live now; returns what was left, to be closed by the caller.

        None when another task has moved on already.
        """
        async with self._swap:
            if self.current is not left:
                return None
            week = left.week
            while (successor := await self._successor(week, path_of(week), left)) is not None:
                week = successor
            if week == left.week:
                return None
            await self.open(week, path_of(week))
            return left

    async def _successor(self, week: Week, path: Path, left: LiveWeek) -> Week | None:
        if week == left.week:
            meta = await left.pool.read(lambda raw: read_meta(raw, path))
        else:
            async with SQLitePool(path, self._settings, name=week.name) as pool:
                meta = await pool.read(lambda raw: read_meta(raw, path))
        return meta.successor


def _insist_live(raw: sqlite3.Connection, live: LiveWeek) -> None:
    state, successor = raw.execute(_STATE).fetchone()
    if state != PartitionState.LIVE:
        raise PartitionSealedError(f"{live.path} is sealed; {successor} took over", successor=Week(successor))
