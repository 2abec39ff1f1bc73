"""One SQLite connection on its own thread, opened the one right way.

This is the only module that touches private names of aiosqlite: it has no public way to run a function on the
connection's thread, nor to make that thread a daemon. `tests/unit/test_aiosqlite_names.py` guards both.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import quote

import aiosqlite

from betcore_async.config import DatabaseSettings
from betcore_async.errors import BetcoreError, DatabaseError, PoolClosedError, WalUnavailableError
from betcore_async.sqlite.retry import is_busy, retry_busy
from betcore_async.sqlite.rows import Row
from betcore_async.tasks import finish

T = TypeVar("T")

INTERRUPT_AGAIN_AFTER = 0.01
"""Seconds. An interrupt that falls between two statements is lost, so it is repeated until the work ended."""

COMMON_PRAGMAS = (
    ("foreign_keys", "ON"),  # off by default; per connection
    ("trusted_schema", "OFF"),  # a hostile file's views and triggers cannot call functions with side effects
    ("temp_store", "MEMORY"),  # sorting never touches the disk
    ("cache_size", "-8000"),  # 8 MB of page cache
)
READER_PRAGMAS = (
    ("query_only", "ON"),  # a second lock on the door beside mode=ro
    ("wal_autocheckpoint", "0"),  # the writer is the only checkpointer (WAL-reset bug of SQLite < 3.51.3)
)


class Link:
    """An aiosqlite connection together with the sqlite3 connection that lives on its thread."""

    def __init__(self, connection: aiosqlite.Connection, raw: sqlite3.Connection) -> None:
        self.connection = connection
        self.raw = raw
        self.opened_at = monotonic()

    def post(self, function: Callable[[], object]) -> None:
        """Run `function` on the thread, after what is queued there; it reports back by itself and must not raise."""
        self.connection._tx.put_nowait((None, function))  # noqa: SLF001 - see the module docstring

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Return `function(sqlite3.Connection)`, run on the thread in one hop.

        For who has the connection alone. When cancelled, what runs is interrupted, and CancelledError is raised only
        after the thread is free again, so that nothing of the call is still going on.
        """
        work = self.connection._execute(function, self.raw)  # type: ignore[no-untyped-call]  # noqa: SLF001
        hop: asyncio.Future[T] = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(hop)
        except ValueError as error:
            if hop.done() and self.connection._connection is None:  # noqa: SLF001
                raise PoolClosedError("the connection was closed while it was in use; the pool was closed") from error
            raise
        except asyncio.CancelledError:
            await finish(self._interrupt_until_done(hop))
            raise

    async def _interrupt_until_done(self, hop: asyncio.Future[Any]) -> None:
        while not hop.done():
            self.raw.interrupt()
            await asyncio.wait([hop], timeout=INTERRUPT_AGAIN_AFTER)
        if not hop.cancelled():
            hop.exception()  # retrieved, so that asyncio does not report it as forgotten

    async def close(self) -> None:
        """Close the connection and end its thread, also when cancelled meanwhile."""
        await finish(self.connection.close())


async def connect(path: str | Path, settings: DatabaseSettings, *, readonly: bool = False) -> Link:
    """Open the database file at `path` in WAL mode, waiting out other processes for the busy budget.

    A file that does not exist is created with mode 0600, unless `readonly`. Raises WalUnavailableError where WAL cannot
    be had, BusyTimeoutError, DatabaseError for a file that cannot be opened.
    """
    file = Path(os.path.abspath(path))  # noqa: PTH100 - resolves `..` without touching the disk

    async def attempt() -> Link:
        opening = asyncio.ensure_future(_open(file, settings, readonly=readonly))
        try:
            return await finish(opening)
        except asyncio.CancelledError:
            # Left alone, a connection whose opener was cancelled stays open for good.
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                await opening.result().close()
            raise

    try:
        return await retry_busy(attempt, settings.busy_timeout, f"opening {file}")
    except sqlite3.Error as error:
        raise DatabaseError(f"cannot open {file}: {error}", path=file) from error


async def _open(file: Path, settings: DatabaseSettings, *, readonly: bool) -> Link:
    opened: list[sqlite3.Connection] = []

    def connector() -> sqlite3.Connection:
        if not readonly:
            create_private(file)
        raw = open_raw(file, readonly=readonly, cached_statements=settings.cached_statements)
        try:
            _prepare(raw, file, settings, readonly=readonly)
        except BaseException:
            raw.close()
            raise
        opened.append(raw)
        return raw

    connection = aiosqlite.Connection(connector, iter_chunk_size=64)
    connection._thread.daemon = True  # noqa: SLF001 - a forgotten connection must not keep the process alive
    try:
        await connection
    except OSError as error:
        raise DatabaseError(f"cannot create {file}: {error.strerror}", path=file) from error
    return Link(connection, opened[0])


def create_private(file: Path) -> None:
    """Create an empty file readable by its owner alone; SQLite gives -wal and -shm the mode of the main file."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def open_raw(file: Path, *, readonly: bool, cached_statements: int = 128) -> sqlite3.Connection:
    """Return a plain connection with explicit transactions and no waiting; never creates the file."""
    mode = "ro" if readonly else "rw"
    return sqlite3.connect(
        f"file:{quote(str(file))}?mode={mode}",
        uri=True,
        timeout=0,
        isolation_level=None,
        check_same_thread=False,  # interrupt() comes from the loop's thread
        cached_statements=cached_statements,
    )


def _prepare(raw: sqlite3.Connection, file: Path, settings: DatabaseSettings, *, readonly: bool) -> None:
    # The value that comes back is the truth: SQLite answers with the old mode instead of raising.
    wanted = "PRAGMA journal_mode" if readonly else "PRAGMA journal_mode = WAL"
    try:
        (mode,) = raw.execute(wanted).fetchone()
    except sqlite3.Error as error:
        if is_busy(error) or not isinstance(error, sqlite3.OperationalError):
            raise
        raise WalUnavailableError(f"{file} cannot be put into WAL mode: {error}", path=file, journal_mode="") from error
    if mode != "wal":
        raise WalUnavailableError(
            f"{file} is in journal mode {mode!r} and cannot be put into WAL mode; "
            "a network file system or an in-memory database cannot hold it",
            path=file,
            journal_mode=mode,
        )
    own = READER_PRAGMAS if readonly else (("synchronous", settings.synchronous.value),)
    for name, value in (*COMMON_PRAGMAS, *own):
        raw.execute(f"PRAGMA {name} = {value}")
    raw.row_factory = Row


def is_broken(error: BaseException) -> bool:
    """Tell whether a connection that raised this cannot be trusted any more and has to be replaced."""
    if isinstance(error, BetcoreError) or not isinstance(error, sqlite3.Error):
        return False
    primary = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    return primary in _BREAKING_CODES or "closed database" in str(error)


_BREAKING_CODES = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_MISUSE,
}
