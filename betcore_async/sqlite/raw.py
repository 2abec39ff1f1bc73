"""The sqlite3 connection the pool works with: it leaves no statement open, and runs nothing outside its transaction."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from weakref import ref

from betcore_async.errors import DatabaseError
from betcore_async.sqlite.stats import Tally

C = TypeVar("C", bound=sqlite3.Cursor)

_execute = sqlite3.Connection.execute

TIDY_AFTER = 256
"""Statements after which the list of cursors is rid of those that are gone, so that it stays short."""


class RawConnection(sqlite3.Connection):
    """A sqlite3 connection that knows its open cursors and whether it has to be inside a transaction.

    An open cursor pins its snapshot, keeps COMMIT from working, and makes an interrupt hit whatever runs next. One that
    escaped (returned, kept, or held by the traceback of an exception) is closed when its function is over.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.tally = Tally()
        self.held = False
        """True while a transaction of the pool is open: without it a statement would commit all by itself."""
        self.stopped: DatabaseError | None = None
        """Why nothing more may run; set from the loop while a function runs that has to end."""
        self._opened: list[ref[sqlite3.Cursor | sqlite3.Blob]] = []
        self._tidy_at = TIDY_AFTER

    def check(self) -> None:
        """Raise DatabaseError where SQLite ended the pool's transaction, or where the function is to end.

        SQLite ends a transaction by itself at INSERT OR ROLLBACK and when a write is interrupted.
        """
        if self.stopped is not None:
            raise self.stopped
        if self.held and not self.in_transaction:
            raise DatabaseError("SQLite rolled the transaction back; nothing more can run in it, and nothing was kept")

    def until_stopped(self, rows: Iterable[Any]) -> Iterable[Any]:
        """Yield `rows` as long as the function may run: an interrupt does not reach statements that are so short."""
        for row in rows:
            if self.stopped is not None:
                raise self.stopped
            yield row

    def close_cursors(self) -> None:
        """Close what is still open of the cursors and blobs made so far."""
        if not self._opened:
            return
        for reference in self._opened:
            if (opened := reference()) is not None:
                with contextlib.suppress(sqlite3.ProgrammingError):  # the connection itself was closed
                    opened.close()
        self.tally.statements += len(self._opened)
        self._opened.clear()

    def begin_counting(self) -> None:
        """Forget what setting the connection up took."""
        self.close_cursors()
        self.tally.statements = 0

    def _know(self, opened: sqlite3.Cursor | sqlite3.Blob) -> None:
        self._opened.append(ref(opened))
        if len(self._opened) >= self._tidy_at:
            self._tidy()

    def _tidy(self) -> None:
        before = len(self._opened)
        self._opened = [reference for reference in self._opened if reference() is not None]
        self.tally.statements += before - len(self._opened)
        self._tidy_at = max(TIDY_AFTER, 2 * len(self._opened))

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        # On the path of every statement: `check` and `_know` are written out.
        if self.stopped is not None or (self.held and not self.in_transaction):
            self.check()
        cursor = _execute(self, sql, parameters)
        opened = self._opened
        opened.append(ref(cursor))
        if len(opened) >= self._tidy_at:
            self._tidy()
        return cursor

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        self.check()
        cursor = super().executemany(sql, self.until_stopped(parameters))
        self._know(cursor)
        return cursor

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        self.check()
        cursor = super().executescript(sql_script)
        self._know(cursor)
        return cursor

    def cursor(self, factory: "Callable[[sqlite3.Connection], C] | None" = None) -> Any:
        cursor = super().cursor(factory or RawCursor)
        self._know(cursor)
        return cursor

    def blobopen(self, *arguments: Any, **options: Any) -> sqlite3.Blob:
        self.check()
        blob = super().blobopen(*arguments, **options)
        self._know(blob)
        return blob


class RawCursor(sqlite3.Cursor):
    """A cursor that keeps to the rules of its connection."""

    connection: RawConnection

    def execute(self, sql: str, parameters: Any = (), /) -> "RawCursor":
        self.connection.check()
        super().execute(sql, parameters)
        return self

    def executemany(self, sql: str, seq_of_parameters: Iterable[Any], /) -> "RawCursor":
        self.connection.check()
        super().executemany(sql, self.connection.until_stopped(seq_of_parameters))
        return self

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        self.connection.check()
        return super().executescript(sql_script)
