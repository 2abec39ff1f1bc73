"""SQLitePool: one file, one writer with group commit, as many readers as it takes."""

import asyncio
import contextlib
import os
import sqlite3
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import aiosqlite

from betcore_async.config import DatabaseSettings, Durability
from betcore_async.errors import BetcoreError, DatabaseError, PoolClosedError
from betcore_async.sqlite.connection import Hook, Hooks
from betcore_async.sqlite.mapping import fetch_models
from betcore_async.sqlite.readers import Readers
from betcore_async.sqlite.retry import retry_busy
from betcore_async.sqlite.rows import ExecuteResult, Row
from betcore_async.sqlite.stats import Counters, PoolHealth, PoolStats
from betcore_async.sqlite.streaming import stream
from betcore_async.sqlite.transaction import Outcome, Parameters, Transaction, execute, execute_many
from betcore_async.sqlite.writer import Writer
from betcore_async.tasks import finish

T = TypeVar("T")

CLOSE_TIMEOUT = 10.0
"""Seconds that running work has before `close()` interrupts it."""

_DEFAULTS = DatabaseSettings()

_run = sqlite3.Connection.execute  # past the tracking of cursors, for statements that leave none open

# The transactions a task is in: one for each pool, and a copy in every task started from there, which is not in them.
_held: ContextVar[tuple[tuple["SQLitePool", "asyncio.Task[Any] | None", Transaction], ...]] = ContextVar(
    "betcore_transactions", default=()
)


class SQLitePool:
    """A pool of connections to one SQLite file in WAL mode.

        async with SQLitePool("data/app.db") as pool:
            await pool.execute("INSERT INTO t VALUES (?)", (1,))
            rows = await pool.fetch_all("SELECT * FROM t")

    Errors of the caller's own SQL (a constraint, a typo) are sqlite3's; everything else is a DatabaseError:
    BusyTimeoutError, WriteTimeoutError, PoolTimeoutError, TooManyWaitersError, PoolClosedError, StorageFullError,
    CommitOutcomeUnknownError.
    """

    def __init__(
        self,
        path: str | Path,
        settings: DatabaseSettings = _DEFAULTS,
        *,
        name: str = "",
        on_connect: Hook | None = None,
        after_begin: Hook | None = None,
        before_commit: Hook | None = None,
    ) -> None:
        """Remember what to open; `on_connect(sqlite3.Connection)` is called on the thread of each new connection.

        `after_begin(sqlite3.Connection)` and `before_commit(sqlite3.Connection)` are called first and last in every
        write transaction, of groups as of callers of their own, on the writer's thread: what they write is committed
        with it, and when they raise it is undone. What `after_begin` raises goes to everybody in the line.
        """
        self.path = Path(path).absolute()  # the process may change its working directory
        self.name = name or self.path.stem
        self._settings = settings
        self._hooks = Hooks(on_connect, after_begin, before_commit)
        self._counters = Counters()
        self._parts: tuple[Writer, Readers] | None = None
        self._opening = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def __repr__(self) -> str:
        return f"<SQLitePool {self.name!r} {'open' if self._parts else 'closed'}>"

    def __del__(self) -> None:
        parts = getattr(self, "_parts", None)
        if parts is None or os.getpid() != self._pid:  # a fork's copy owns nothing
            return
        for part in parts:
            part.stop()
        warnings.warn(f"{self!r} was never closed; use `async with` or close()", ResourceWarning, stacklevel=2)

    # Life

    async def open(self) -> None:
        """Open the writer and a first reader; creates the file (mode 0600) where there is none."""
        if self._parts is not None or self._opening:
            raise DatabaseError(f"{self!r} is open already")
        self._counters = Counters()
        writer = Writer(self.path, self._settings, self._counters, self._hooks)
        readers = Readers(self.path, self._settings, self._counters, self._hooks.on_connect)
        self._opening = True
        try:
            await writer.open()
            await readers.open()
        except BaseException:
            await finish(_shut(readers, writer))
            raise
        finally:
            self._opening = False
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        self._parts = writer, readers

    async def close(self, timeout: float | None = None) -> None:
        """Let running work finish within `timeout` seconds (default 10), interrupt the rest, close everything.

        Calls after it, and calls that are not done at the deadline, get PoolClosedError. A close that is cancelled does
        not wait for running work any longer, but closes all the same. Closing a closed pool does nothing.
        """
        if self._parts is None:
            return
        (writer, readers), self._parts = self._open_parts(), None
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT if timeout is None else timeout):
                await asyncio.gather(writer.drained(), readers.drained())
        except TimeoutError:
            pass  # told to whoever is cut off
        finally:
            await finish(_shut(readers, writer))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _open_parts(self) -> tuple[Writer, Readers]:
        if self._parts is None:
            raise PoolClosedError(f"{self!r}: open it first, best with `async with`")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # in a process that was forked inside a coroutine
            loop = None
        if loop is not self._loop:
            if os.getpid() != self._pid:
                raise PoolClosedError(f"{self!r} was opened before a fork; open a pool of its own in each process")
            raise PoolClosedError(f"{self!r} belongs to another event loop; open one pool per loop")
        return self._parts

    # Reading

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Return `function(connection)`, run on a reader in one hop: every query in it sees the same snapshot."""
        return await self._open_parts()[1].submit(function, snapshot=True)

    @overload
    async def fetch_all(self, sql: str, parameters: Parameters = ()) -> list[Row]: ...
    @overload
    async def fetch_all(self, sql: str, parameters: Parameters = (), *, as_model: type[T]) -> list[T]: ...
    async def fetch_all(
        self, sql: str, parameters: Parameters = (), *, as_model: type[Any] | None = None
    ) -> list[Row] | list[Any]:
        """Return all rows of a query; with `as_model` as models, made in bulk on the reader's thread.

        A model is whatever pydantic validates: a BaseModel, a dataclass. Columns are its fields by name.
        `User` and `Bet` know how their tables keep them: `fetch_all(f"SELECT {Bet.COLUMNS} FROM bets", as_model=Bet)`.
        A row that does not fit raises ModelError, columns that cannot fit raise DatabaseError.
        """
        readers = self._open_parts()[1]
        if as_model is None:
            return await readers.submit(lambda raw: _run(raw, sql, parameters).fetchall(), snapshot=False)
        return await readers.submit(
            lambda raw: fetch_models(lambda: _run(raw, sql, parameters), as_model), snapshot=False
        )

    async def fetch_one(self, sql: str, parameters: Parameters = ()) -> Row | None:
        """Return the first row of a query, or None."""

        def first(raw: sqlite3.Connection) -> Row | None:
            cursor = _run(raw, sql, parameters)
            row: Row | None = cursor.fetchone()
            cursor.close()  # an unfinished statement would hold on to its snapshot
            return row

        return await self._open_parts()[1].submit(first, snapshot=False)

    async def fetch_value(self, sql: str, parameters: Parameters = ()) -> Any:
        """Return the first column of the first row, or None."""
        row = await self.fetch_one(sql, parameters)
        return None if row is None else row[0]

    @overload
    def iterate(self, sql: str, parameters: Parameters = (), *, chunk: int = ...) -> AsyncGenerator[Row, None]: ...
    @overload
    def iterate(
        self, sql: str, parameters: Parameters = (), *, chunk: int = ..., as_model: type[T]
    ) -> AsyncGenerator[T, None]: ...
    def iterate(
        self, sql: str, parameters: Parameters = (), *, chunk: int = 1000, as_model: type[Any] | None = None
    ) -> AsyncGenerator[Any, None]:
        """Yield the rows of a query one by one, fetched `chunk` at a time: memory stays bounded, whatever the size.

        Holds one reader, and its snapshot, until it is exhausted or closed. Leave early inside `contextlib.aclosing`,
        so that the reader comes back at once; an iterator that is only forgotten gives it back with a ResourceWarning.
        `as_model` is that of `fetch_all`.
        """
        if chunk < 1:
            raise DatabaseError(f"iterate() fetches at least one row at a time, not chunk={chunk}", chunk=chunk)
        return stream(
            self._open_parts()[1],
            self._settings,
            lambda raw: raw.execute(sql, parameters),
            what=f"iterate() of {self!r}",
            chunk=chunk,
            as_model=as_model,
        )

    @contextlib.asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncIterator[aiosqlite.Connection]:
        """Lend a reader as a plain aiosqlite connection; waits at most `timeout` seconds (DB_ACQUIRE_TIMEOUT).

        What the borrower leaves behind (a transaction, cursors, settings) is cleaned up; a connection that cannot be
        brought back to what it was is replaced.
        """
        async with self._open_parts()[1].turn(timeout) as link:
            yield link.connection

    # Writing

    async def write(
        self, function: Callable[[sqlite3.Connection], T], *, durability: Durability | None = None, alone: bool = False
    ) -> T:
        """Return `function(connection)`, run as a whole transaction body in the next group commit.

        "Returned" means committed. A function that raises is undone alone. It may run more than once (when a neighbour
        brought the group down), so it must touch nothing but its connection.

        With `alone` it has a commit of its own: for one that takes long, so that who came before does not wait for it.

        One that runs longer than DB_WRITE_TIMEOUT is stopped at its next step in SQLite and undone, alone, with
        WriteTimeoutError; so is one whose caller is cancelled. What never calls SQLite (a `while True` in Python, a
        C function that hangs) no library can stop: all writes wait for it. Work that may be long belongs into
        `transaction()`, which has no deadline of its own.
        """
        self._refuse_inside_transaction()
        return await self._open_parts()[0].submit(function, durability, alone=alone)

    async def execute(self, sql: str, parameters: Parameters = ()) -> ExecuteResult:
        """Run one statement in the next group commit."""
        return await self.write(lambda raw: execute(raw, sql, parameters))

    async def execute_many(self, sql: str, rows: Iterable[Parameters]) -> ExecuteResult:
        """Run one statement for each of `rows`, all or none of them, in the next group commit.

        `rows` is read to its end first, in the caller's task. For more than memory holds, take several calls.
        """
        kept = list(rows)  # the function may run twice, an iterator would be empty by then
        return await self.write(lambda raw: execute_many(raw, sql, kept))

    @contextlib.asynccontextmanager
    async def transaction(self, *, durability: Durability | None = None) -> AsyncIterator[Transaction]:
        """Hold the writer for an interactive BEGIN IMMEDIATE … COMMIT; rolled back when the block raises.

        Nested in the same task it is a SAVEPOINT. For a fixed sequence of statements `write` is many times faster,
        since it shares its commit with others.
        """
        if (outer := self._open_transaction()) is not None:
            async with outer.savepoint():
                yield outer
            return
        writer = self._open_parts()[0]
        wanted, budget = durability or self._settings.synchronous, self._settings.busy_timeout
        async with writer.turn() as (link, group):
            transaction = Transaction(link, group)
            token = _held.set((*_held.get(), (self, asyncio.current_task(), transaction)))
            try:
                await retry_busy(lambda: transaction.begin(wanted), budget, f"writing to {self.path}")
                self._counters.transactions += 1
                yield transaction
            except BaseException:
                await transaction.rollback()
                raise
            else:
                await transaction.commit()
            finally:
                with contextlib.suppress(ValueError):  # left from another context, when garbage-collected
                    _held.reset(token)

    def _open_transaction(self) -> Transaction | None:
        for pool, task, transaction in _held.get():
            if pool is self and transaction.outcome is Outcome.OPEN and task is asyncio.current_task():
                return transaction
        return None

    def _refuse_inside_transaction(self) -> None:
        if self._open_transaction() is not None:
            raise DatabaseError("this task holds the writer in pool.transaction(); write through that transaction")

    # Watching

    async def health(self) -> PoolHealth:
        """Read one value through the pool and say how long it took; never raises for a database that fails."""
        started = perf_counter()
        try:
            await self.fetch_value("SELECT count(*) FROM sqlite_schema")  # touches the file
        except (BetcoreError, sqlite3.Error) as error:
            return PoolHealth(ok=False, latency=perf_counter() - started, error=str(error))
        return PoolHealth(ok=True, latency=perf_counter() - started)

    def stats(self) -> PoolStats:
        """Return sizes and counts as they are now; all zero sizes when the pool is closed."""
        if self._parts is None:
            return PoolStats.of(self._counters, (), readers=(0, 0, 0), waiting=(0, 0))
        writer, readers = self._parts
        return PoolStats.of(
            self._counters,
            (*writer.tallies, *readers.tallies),
            readers=readers.sizes,
            waiting=(readers.waiting, writer.waiting),
        )


async def _shut(readers: Readers, writer: Writer) -> None:
    try:
        await readers.shut()
    finally:
        await writer.shut()  # after the readers: the last connection to close takes the WAL along
