"""The reading connections of a file: opened, counted, closed. Which of them serves whom is for `readers` to say."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

from betcore_async.config import DatabaseSettings
from betcore_async.sqlite.connection import Hook, Link, connect
from betcore_async.sqlite.raw import RawConnection
from betcore_async.sqlite.reader import Reader
from betcore_async.sqlite.stats import Counters, Tally


class Fleet:
    """The readers that are open, and the tasks that open and close them."""

    def __init__(
        self,
        path: Path,
        settings: DatabaseSettings,
        counters: Counters,
        on_connect: Hook | None,
        work: Callable[[Reader], None],
    ) -> None:
        self.open: set[Reader] = set()
        self._path = path
        self._settings = settings
        self._counters = counters
        self._on_connect = on_connect
        self._work = work
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def tallies(self) -> list[Tally]:
        return [reader.tally for reader in self.open]

    async def add(self) -> Reader:
        with self._counters.opening():
            link = await connect(self._path, self._settings, readonly=True, on_connect=self._on_connect)
        reader = Reader(link, cast("RawConnection", link.raw), self._settings, self._work)
        self.open.add(reader)
        return reader

    def drop(self, reader: Reader, *, broken: bool = False) -> None:
        """Close a reader, in a task of its own."""
        self.open.discard(reader)
        self._counters.tally.add(reader.tally)
        self._counters.closed += 1
        self._counters.broken += broken
        self.spawn(_close(reader.link))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work that opens or closes a reader; `shut` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def shut(self) -> None:
        """Close every reader, those that are being opened included."""
        for reader in list(self.open):
            self.drop(reader)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """End the threads without waiting, for a pool that was forgotten."""
        for reader in self.open:
            reader.link.stop()


async def _close(link: Link) -> None:
    with contextlib.suppress(sqlite3.Error, ValueError):  # it is being given up, possibly because it is broken
        await link.close()
