"""One SQLite connection on its own thread, opened the one right way.

This is the only module that touches private names of aiosqlite: it has no public way to run a function on the
connection's thread, nor to make that thread a daemon. `tests/unit/test_aiosqlite_names.py` guards both.
"""

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiosqlite

from betcore_async.config import DatabaseSettings
from betcore_async.errors import DatabaseError, PoolClosedError, WalUnavailableError
from betcore_async.sqlite.failures import is_broken, translated
from betcore_async.sqlite.private import create_private
from betcore_async.sqlite.raw import RawConnection
from betcore_async.sqlite.retry import is_busy, retry_busy
from betcore_async.sqlite.rows import Row
from betcore_async.sqlite.uri import uri_of
from betcore_async.tasks import finish

T = TypeVar("T")
Hook = Callable[[sqlite3.Connection], None]


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the owner of a pool wants done on the threads of its connections; see `SQLitePool`."""

    on_connect: Hook | None = None
    after_begin: Hook | None = None
    before_commit: Hook | None = None


INTERRUPT_AGAIN_AFTER = 0.01
"""Seconds. An interrupt that falls between two statements is lost, so it is repeated until the work ended."""

COMMON_PRAGMAS = (
    ("foreign_keys", "ON"),  # off by default; per connection
    ("trusted_schema", "OFF"),  # a hostile file's views and triggers cannot call functions with side effects
    ("recursive_triggers", "ON"),  # else INSERT OR REPLACE deletes rows past the triggers that keep them
    ("temp_store", "MEMORY"),  # sorting never touches the disk
    ("cache_size", "-8000"),  # 8 MB of page cache
)
WRITER_PRAGMAS = (
    # 32 MB of WAL instead of 4: a checkpoint then writes once what many commits changed, and placing bets is a fifth
    # cheaper. The price is a recovery of some tens of milliseconds after a crash.
    ("wal_autocheckpoint", "8000"),
)
READER_PRAGMAS = (
    ("query_only", "ON"),  # a second lock on the door beside mode=ro
    ("wal_autocheckpoint", "0"),  # the writer is the only checkpointer (WAL-reset bug of SQLite < 3.51.3)
)


class Cancellable(Protocol):
    """A function for the thread whose caller may lose interest in it."""

    function: Callable[[sqlite3.Connection], Any]
    cancelled: bool


class Hop:
    """A function on its way to the thread and back."""

    __slots__ = ("cancelled", "ended", "function", "future")

    def __init__(self, function: Callable[[sqlite3.Connection], Any], future: "asyncio.Future[Any]") -> None:
        self.function = function
        self.future = future
        self.cancelled = False
        self.ended = False


class Link:
    """An aiosqlite connection together with the sqlite3 connection that lives on its thread."""

    def __init__(self, connection: aiosqlite.Connection, raw: sqlite3.Connection) -> None:
        self.connection = connection
        self.raw = raw
        self.broken = False
        """Set once something was raised after which the connection cannot be trusted."""
        self._lock = threading.Lock()
        self._running: Cancellable | None = None
        self._interrupting = False
        self._calmed = False  # nothing may be interrupted any more
        self._closing: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """False once the connection was closed, by whomever."""
        return self.connection._running and self.connection._connection is not None  # noqa: SLF001

    def post(self, function: Callable[[], object]) -> None:
        """Run `function` on the thread, after what is queued there; it reports back by itself and must not raise."""
        if not self.alive:
            raise PoolClosedError("the connection was closed while it was in use; the pool was closed")
        self.connection._tx.put_nowait((None, function))  # noqa: SLF001 - see the module docstring

    def stop(self) -> None:
        """Close the connection and end its thread without waiting; for who has no loop to wait in."""
        self.connection.stop()

    # One at a time runs on the thread, and only the one that is meant is ever interrupted.

    def perform(self, job: Cancellable) -> Any:
        """On the thread: return what the job's function returns; None without running it if it was cancelled before."""
        # No lock on this path: what one side sets, it sets before it looks at what the other side sets, so that under
        # the interpreter lock at least one of the two sees the other.
        self._running = job
        try:
            return None if job.cancelled else job.function(self.raw)
        finally:
            self._running = None
            if self._interrupting:  # perhaps this job: the next one begins when that is over
                with self._lock:
                    self._interrupting = False
                    self._refuse(None)

    def interrupt(self, job: Cancellable) -> bool:
        """Interrupt `job` if it is the one that runs, and no other; False when it is not."""
        with self._lock:
            before, self._interrupting = self._interrupting, True
            if self._running is not job:
                self._interrupting = before
                return False
            self._refuse(DatabaseError("stopped: its caller was cancelled"))
            self.raw.interrupt()
        return True

    def _refuse(self, error: DatabaseError | None) -> None:
        # An interrupt does not reach statements that are too short to look: a loop around them ends at the next one.
        if isinstance(self.raw, RawConnection):
            self.raw.stopped = error

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Return `function(sqlite3.Connection)`, run on the thread in one hop.

        When cancelled, a function that has not started never will, one that runs is interrupted, and CancelledError is
        raised only after the thread is done with it, so that nothing of the call is still going on.
        """
        hop = Hop(function, asyncio.get_running_loop().create_future())
        self.post(partial(self._hop, hop))
        try:
            return await hop.future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if hop.future.cancelled() and not hop.ended:
                hop.cancelled = True
                hop.future = asyncio.get_running_loop().create_future()  # the first went with its caller
                await finish(self._interrupt_until_done(hop))
            raise

    def _hop(self, hop: Hop) -> None:
        value, error = None, None
        try:
            value = self.perform(hop)
        except BaseException as caught:  # noqa: BLE001 - whatever it is, it goes to the caller
            error = translated(caught)
            self.broken = self.broken or is_broken(caught)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            hop.future.get_loop().call_soon_threadsafe(_settle, hop, value, error)

    async def _interrupt_until_done(self, hop: Hop) -> None:
        while not hop.future.done():
            self.interrupt(hop)
            await asyncio.wait([hop.future], timeout=INTERRUPT_AGAIN_AFTER)
        hop.future.exception()  # retrieved, so that asyncio does not report it as forgotten

    async def close(self) -> None:
        """Interrupt what runs, close the connection and end its thread, also when cancelled meanwhile."""
        if self._closing is None:  # a second close of aiosqlite's would wait for an ended thread
            self._closing = asyncio.ensure_future(self._close())
        await finish(self._closing)

    async def _close(self) -> None:
        if self.alive:
            self.post(self._calm)
        closing = asyncio.ensure_future(self.connection.close())
        while not closing.done():
            with self._lock, contextlib.suppress(sqlite3.ProgrammingError):  # closed already
                if not self._calmed:
                    self._refuse(PoolClosedError("the pool was closed before this call was done"))
                    self.raw.interrupt()
            await asyncio.wait([closing], timeout=INTERRUPT_AGAIN_AFTER)
        closing.result()

    def _calm(self) -> None:
        """On the thread, before it closes: a pending interrupt or an open cursor would leave the WAL behind."""
        with self._lock:
            self._calmed = True
            self._refuse(None)
        with contextlib.suppress(sqlite3.Error):
            if isinstance(self.raw, RawConnection):
                self.raw.held = False
                self.raw.close_cursors()
            self.raw.execute("SELECT 1").close()


def _settle(hop: Hop, value: object, error: BaseException | None) -> None:
    hop.ended = True  # also when the caller was cancelled in this very turn of the loop, and has yet to learn of it
    if hop.future.done():
        return
    if error is None:
        hop.future.set_result(value)
    else:
        hop.future.set_exception(error)


async def connect(
    path: str | Path, settings: DatabaseSettings, *, readonly: bool = False, on_connect: Hook | None = None
) -> Link:
    """Open the database file at `path` in WAL mode, waiting out other processes for the busy budget.

    A file that does not exist is created with mode 0600, unless `readonly`. `on_connect` is called with the connection,
    on its thread. Raises WalUnavailableError where WAL cannot be had, BusyTimeoutError, DatabaseError for a file that
    cannot be opened.
    """
    file = Path(os.path.abspath(path))  # noqa: PTH100 - resolves `..` without touching the disk

    def connector() -> sqlite3.Connection:
        if not readonly:
            create_private(file)
        raw = open_raw(file, readonly=readonly, cached_statements=settings.cached_statements, factory=RawConnection)
        try:
            _prepare(raw, file, settings, readonly=readonly)
            if on_connect is not None:
                on_connect(raw)
            if isinstance(raw, RawConnection):
                raw.begin_counting()
        except BaseException:
            raw.close()
            raise
        return raw

    try:
        return await retry_busy(lambda: link_to(connector), settings.busy_timeout, f"opening {file}")
    except sqlite3.Error as error:
        raise DatabaseError(f"cannot open {file}: {error}", path=file) from error
    except OSError as error:
        raise DatabaseError(f"cannot create {file}: {error.strerror}", path=file) from error
    except RuntimeError as error:  # can't start new thread
        raise DatabaseError(f"cannot open {file}: {error}", path=file) from error


async def connect_memory(factory: type[sqlite3.Connection] = sqlite3.Connection) -> Link:
    """Open an empty in-memory database: a thread with a connection to which files can be attached read-only."""

    def connector() -> sqlite3.Connection:
        raw = sqlite3.connect(
            "file::memory:", uri=True, timeout=0, isolation_level=None, check_same_thread=False, factory=factory
        )
        for name, value in COMMON_PRAGMAS:
            raw.execute(f"PRAGMA {name} = {value}")
        raw.execute("PRAGMA temp_store = FILE")  # what is sorted here may be all there is in ten files
        raw.row_factory = Row
        return raw

    return await link_to(connector)


async def link_to(connector: Callable[[], sqlite3.Connection]) -> Link:
    """Start a thread, on which `connector()` makes the connection; if cancelled meanwhile, that is closed again."""
    opening = asyncio.ensure_future(_start(connector))
    try:
        return await finish(opening)
    except asyncio.CancelledError:
        # Left alone, a connection whose opener was cancelled stays open for good.
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            await opening.result().close()
        raise


async def _start(connector: Callable[[], sqlite3.Connection]) -> Link:
    opened: list[sqlite3.Connection] = []

    def connect_and_keep() -> sqlite3.Connection:
        opened.append(connector())
        return opened[0]

    connection = aiosqlite.Connection(connect_and_keep, iter_chunk_size=64)
    connection._thread.daemon = True  # noqa: SLF001 - a forgotten connection must not keep the process alive
    try:
        await connection
    finally:
        if not opened:
            while connection._thread.is_alive():  # noqa: SLF001, ASYNC110 - else it would report to a loop that is gone
                await asyncio.sleep(0.001)
    return Link(connection, opened[0])


def open_raw(
    file: Path,
    *,
    readonly: bool,
    cached_statements: int = 128,
    factory: type[sqlite3.Connection] = sqlite3.Connection,
) -> sqlite3.Connection:
    """Return a plain connection with explicit transactions and no waiting; never creates the file."""
    return sqlite3.connect(
        uri_of(file, readonly=readonly),
        uri=True,
        timeout=0,
        isolation_level=None,
        check_same_thread=False,  # interrupt() comes from the loop's thread
        cached_statements=cached_statements,
        factory=factory,
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
    own = READER_PRAGMAS if readonly else (*WRITER_PRAGMAS, ("synchronous", settings.synchronous.value))
    for name, value in (*COMMON_PRAGMAS, *own):
        raw.execute(f"PRAGMA {name} = {value}")
    raw.row_factory = Row
