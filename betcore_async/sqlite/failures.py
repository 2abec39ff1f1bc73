"""What SQLite's errors mean to the pool, and what a caller gets to see of them."""

import asyncio
import sqlite3
from types import CoroutineType
from typing import TypeVar

from betcore_async.errors import BetcoreError, DatabaseError, StorageFullError
from betcore_async.sqlite.retry import error_code

T = TypeVar("T")

_PRIMARY = 0xFF  # an extended result code carries its primary code in the low byte

_BREAKING_CODES = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_MISUSE,
}


def is_broken(error: BaseException) -> bool:
    """Tell whether a connection that raised this cannot be trusted any more and has to be replaced."""
    if isinstance(error, BetcoreError) or not isinstance(error, sqlite3.Error):
        return False
    return error_code(error) & _PRIMARY in _BREAKING_CODES or "closed database" in str(error)


def is_interrupt(error: BaseException | None) -> bool:
    """Tell whether a statement was stopped by `interrupt()`."""
    return error is not None and error_code(error) == sqlite3.SQLITE_INTERRUPT


def translated(error: BaseException) -> BaseException:
    """Return the error a caller should see for one that came out of a function on a connection's thread.

    Errors of the caller's own SQL and own code pass as they are.
    """
    better = _better(error)
    if better is not error:
        better.__cause__ = error
    return better


def _better(error: BaseException) -> BaseException:
    code = error_code(error) & _PRIMARY
    if code == sqlite3.SQLITE_FULL:
        return StorageFullError("the disk is full, nothing was written; make room and repeat")
    if code == sqlite3.SQLITE_AUTH:
        return DatabaseError(
            "the transaction and the settings of the connection belong to the pool: no BEGIN, COMMIT, ROLLBACK, "
            "ATTACH, executescript or PRAGMA that sets something (pool.transaction() makes a transaction of your own)"
        )
    # A future refuses the first two; the others would look like something that happened to the waiting task.
    if isinstance(error, (StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError)):
        return DatabaseError(f"the function raised {type(error).__name__}, which cannot leave a coroutine")
    return error


def plain(result: T) -> T:
    """Return what a function returned; a coroutine is refused, since nobody would ever run it."""
    if isinstance(result, CoroutineType):
        result.close()
        raise DatabaseError("a coroutine function was passed; the connection's thread runs plain functions only")
    return result
