"""An interactive transaction: statements one by one, with decisions of the caller in between."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from betcore_async.config import Durability
from betcore_async.errors import CommitOutcomeUnknownError, DatabaseError, PoolClosedError
from betcore_async.sqlite.connection import Link
from betcore_async.sqlite.group import GroupCommit
from betcore_async.sqlite.rows import ExecuteResult, Row
from betcore_async.tasks import finish

T = TypeVar("T")
Parameters = Sequence[Any] | Mapping[str, Any]


class Outcome(Enum):
    """How a transaction ended, or that it has not."""

    OPEN = "open"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown"


class Transaction:
    """What `pool.transaction()` hands out; `outcome` stays readable after its end, also when it was cancelled."""

    def __init__(self, link: Link, group: GroupCommit) -> None:
        self.outcome = Outcome.OPEN
        self._link = link
        self._group = group
        self._savepoints = 0

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Return `function(sqlite3.Connection)`, run inside the transaction in one hop."""
        if self.outcome is not Outcome.OPEN:
            raise DatabaseError(f"this transaction is over ({self.outcome.value}); begin a new one")
        return await self._link.run(lambda _: self._group.call(function))

    async def execute(self, sql: str, parameters: Parameters = ()) -> ExecuteResult:
        return await self.run(lambda raw: execute(raw, sql, parameters))

    async def execute_many(self, sql: str, rows: Iterable[Parameters]) -> ExecuteResult:
        return await self.run(lambda raw: execute_many(raw, sql, rows))

    async def fetch_all(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        return await self.run(lambda raw: raw.execute(sql, parameters).fetchall())

    async def fetch_one(self, sql: str, parameters: Parameters = ()) -> Row | None:
        return await self.run(lambda raw: raw.execute(sql, parameters).fetchone())

    async def fetch_value(self, sql: str, parameters: Parameters = ()) -> Any:
        row = await self.fetch_one(sql, parameters)
        return None if row is None else row[0]

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Open a nested block, undone alone when it raises."""
        self._savepoints += 1
        name = f"betcore_{self._savepoints}"
        await self.run(lambda raw: raw.execute(f"SAVEPOINT {name}"))
        try:
            yield
        except BaseException:
            await finish(self._undo_savepoint(name))
            raise
        await self.run(lambda raw: raw.execute(f"RELEASE {name}"))

    async def _undo_savepoint(self, name: str) -> None:
        def undo(raw: sqlite3.Connection) -> None:
            if raw.in_transaction:  # an interrupt may have rolled everything back already
                raw.execute(f"ROLLBACK TO {name}")
                raw.execute(f"RELEASE {name}")

        with contextlib.suppress(PoolClosedError):  # closing the connection has undone it
            await self._link.run(undo)

    # The end of it. What happened is noted on the thread, where it happens: whoever waits here may be cancelled.

    async def begin(self, durability: Durability) -> None:
        await self._link.run(lambda _: self._group.begin(durability))

    async def commit(self) -> None:
        """Commit, uninterrupted; a cancellation is let through once the outcome is known."""
        await finish(self._link.run(self._commit))

    def _commit(self, raw: sqlite3.Connection) -> None:
        if not raw.in_transaction:
            self._rollback(raw)
            raise DatabaseError("the transaction was rolled back by SQLite before its end; nothing was kept")
        try:
            self._group.commit()
        except CommitOutcomeUnknownError:
            self._link.broken = True
            self.outcome = Outcome.UNKNOWN
            raise
        except sqlite3.Error:
            self._rollback(raw)
            raise
        self.outcome = Outcome.COMMITTED

    async def rollback(self) -> None:
        """Undo everything; survives cancellation."""
        with contextlib.suppress(PoolClosedError):  # closing the connection undoes it
            await finish(self._link.run(self._rollback))
        if self.outcome is Outcome.OPEN:
            self.outcome = Outcome.ROLLED_BACK

    def _rollback(self, _: sqlite3.Connection) -> None:
        if self.outcome is Outcome.OPEN:
            self.outcome = Outcome.ROLLED_BACK
            try:
                self._group.rollback()
            except sqlite3.Error:
                self._link.broken = True  # closing the connection undoes it


def execute(raw: sqlite3.Connection, sql: str, parameters: Parameters) -> ExecuteResult:
    cursor = raw.execute(sql, parameters)
    cursor.fetchall()  # runs a RETURNING clause to its end
    return ExecuteResult(cursor.rowcount, cursor.lastrowid)


def execute_many(raw: sqlite3.Connection, sql: str, rows: Iterable[Parameters]) -> ExecuteResult:
    cursor = raw.executemany(sql, rows)
    return ExecuteResult(cursor.rowcount, cursor.lastrowid)
