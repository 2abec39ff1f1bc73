"""Weekly files that a scanner has open, one connection each: more of them than can be attached, the last used first.

A question sees each file in one snapshot. A file that was made read-only for good keeps its snapshot from question to
question, which spares SQLite the locks: measured, a look at an index takes 1.7 µs instead of 6.8.
"""

import contextlib
import os
import sqlite3
import stat
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from betcore_async.errors import PartitionDamagedError
from betcore_async.partitions.catalog import ask, check_columns, check_content
from betcore_async.partitions.user_filter import UserFilter
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import open_raw
from betcore_async.sqlite.failures import is_interrupt
from betcore_async.sqlite.migration_history import insist
from betcore_async.sqlite.retry import is_busy

T = TypeVar("T")

HANDLE_LIMIT = 64
"""Files that one scanner keeps open: a year of weeks and some."""

STATEMENT_LIMIT = 8
"""Prepared statements kept per file, 7 kB each and more: SQL of the user's own is another one with each value in it."""

_PRAGMAS = (
    ("trusted_schema", "OFF"),  # a hostile file's views and triggers cannot call functions with side effects
    ("query_only", "ON"),  # a second lock on the door beside mode=ro
    ("temp_store", "FILE"),  # sorts of a megabyte or more: in memory they have no bound, and take 1.5 times as long
    ("cache_size", "-64"),  # in kB; 2 MB for each file would add up, and the system caches the files anyway
)

Identity = tuple[int, int, int, int, int]
"""Tells a file from any other, and from itself before it was changed."""


class StaleCatalogError(Exception):
    """The files are not any more what the catalog says: read it anew and ask again."""


@dataclass(slots=True, eq=False)
class Handle:
    raw: sqlite3.Connection
    path: Path
    identity: Identity
    """Of the file when it was opened."""
    users: UserFilter | None = None
    """Those who placed bets in the week, once they are known."""


class HandlesConnection(sqlite3.Connection):
    """The in-memory connection of a scanner, together with the files it has open beside it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._handles: OrderedDict[str, Handle] = OrderedDict()  # by name of the week: it has its hash at hand
        self._asked: list[Handle] = []  # in the question that is being answered, and not fixed

    def interrupt(self) -> None:
        """Stop whatever runs, on this connection or on one of a file. From any thread."""
        super().interrupt()
        for handle in list(self._handles.values()):
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed meanwhile
                handle.raw.interrupt()

    def close(self) -> None:
        while self._handles:
            self._handles.popitem()[1].raw.close()
        super().close()

    def handle(self, week: Week, path: Path) -> Handle:
        """Return the week's file, open for reading, in a snapshot that lasts until `end_question`.

        Raises StaleCatalogError where it is gone, PartitionDamagedError where it cannot be read.
        """
        handle = self._handles.get(week.name)
        if handle is None or (handle.path is not path and handle.path != path):
            handle = self._open(week, path)
        else:
            self._handles.move_to_end(week.name)
        if not handle.raw.in_transaction:
            handle.raw.execute("BEGIN")
            self._asked.append(handle)
        return handle

    def standing_open(self, week: Week, path: Path) -> Handle | None:
        """Return the week's file where it is open, or may be so without another one being closed for it."""
        handle = self._handles.get(week.name)
        if handle is not None and (handle.path is path or handle.path == path):
            return handle
        return self._open(week, path) if len(self._handles) < HANDLE_LIMIT else None

    def _open(self, week: Week, path: Path) -> Handle:
        self.let_go(week)
        while len(self._handles) >= HANDLE_LIMIT:
            # The file that is asked first in a question is the live one: the question keeps its snapshot of it.
            first = self._asked[0] if self._asked else None
            self.let_go(Week(next(name for name, handle in self._handles.items() if handle is not first)))
        handle = self._handles[week.name] = reaching(week, path, lambda: _opened(week, path))
        return handle

    def let_go(self, week: Week) -> None:
        """Close a week's file, so that it may be moved or finalized."""
        handle = self._handles.pop(week.name, None)
        if handle is not None:
            handle.raw.close()
            if handle in self._asked:
                self._asked.remove(handle)

    def end_question(self) -> None:
        """Let the next question see the files as they are then."""
        while self._asked:
            insist(self._asked.pop().raw, "ROLLBACK")


def identify(path: Path) -> Identity:
    """Return what tells this file from others. Raises StaleCatalogError where there is none, or no plain file."""
    try:
        found = path.lstat()
    except OSError as error:
        raise StaleCatalogError from error
    if not stat.S_ISREG(found.st_mode):
        raise StaleCatalogError
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _opened(week: Week, path: Path) -> Handle:
    identity = identify(path)
    raw = open_raw(path.absolute(), readonly=True, cached_statements=STATEMENT_LIMIT)
    try:
        for name, value in _PRAGMAS:
            raw.execute(f"PRAGMA {name} = {value}")
        (mode,) = raw.execute("PRAGMA journal_mode").fetchone()
        if mode == "delete" and not path.stat().st_mode & stat.S_IWUSR:
            raw.execute("BEGIN")  # of the one snapshot that is kept for good
        check_content(raw, path, week)  # it may have been swapped since the folder was read
        check_columns(raw, path)
        if identify(path) != identity:
            raise StaleCatalogError
    except BaseException:
        raw.close()
        raise
    return Handle(raw, path, identity)


def reaching(week: Week, path: Path, attempt: Callable[[], T]) -> T:
    """Return `attempt()`, which opens a file, after a repair where a crash left it in need of one.

    Raises StaleCatalogError where the file is gone, PartitionDamagedError where it cannot be read.
    """
    try:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            if is_busy(error) or is_interrupt(error) or not path.exists():
                raise
            ask(path, lambda raw: raw.execute("SELECT count(*) FROM sqlite_schema").fetchone())  # repairs what it can
            return attempt()
    except (sqlite3.DatabaseError, OSError) as error:
        if is_busy(error) or is_interrupt(error):
            raise
        if not os.path.lexists(path):
            raise StaleCatalogError from error
        raise PartitionDamagedError(
            f"{path} cannot be read: {error}", week=week, path=path, reason=str(error)
        ) from error
