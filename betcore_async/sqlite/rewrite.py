"""Changing a read-only file: on a copy that takes its place when it is whole.

Readers that have the old file open go on with it, and a crash leaves the old file as it was. Only for files that
nobody writes to; the mark of those is that they have no write permission.
"""

import contextlib
import fcntl
import os
import secrets
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Sized
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from betcore_async.errors import DatabaseError
from betcore_async.sqlite.connection import open_raw
from betcore_async.sqlite.private import create_private
from betcore_async.tasks import in_thread

T = TypeVar("T", bound=Sized)

_PAGES_AT_A_TIME = 1000
"""Copied between two looks at whether the caller has gone."""
_OPCODES_AT_A_TIME = 10_000
"""SQLite's steps between two such looks while the change runs."""
_LOOK_EVERY = 0.01
"""Seconds between two looks at whether another process is done with its rewrite."""


def is_read_only(path: Path) -> bool:
    """Tell whether `path` is a file that even its owner may not write."""
    try:
        return not path.stat().st_mode & stat.S_IWUSR
    except FileNotFoundError:
        return False


async def rewrite(path: Path, change: Callable[[sqlite3.Connection], T]) -> T:
    """Return `change(connection to a copy of path)`; the copy then has taken the place of the file, synced to disk.

    When `change` returns nothing (an empty list), raises, or the caller is cancelled, the file stays as it was and the
    copy is removed; a killed process leaves the copy, named like the file plus `.XXXXXXXX.staging`. Rewrites in one
    folder take turns, in all processes. Raises DatabaseError where the folder refuses it.
    """
    return await in_thread(lambda stop: _rewrite(path, change, stop))


def _rewrite(path: Path, change: Callable[[sqlite3.Connection], T], stop: threading.Event) -> T:
    copy = path.with_name(f"{path.name}.{secrets.token_hex(4)}.staging")
    try:
        with _turn(path.parent, stop):
            try:
                _refuse_unfinished(path)
                create_private(copy)
                result = _change_copy(path, copy, change, stop)
                if result:
                    _replace(path, copy, stop)
            finally:
                copy.unlink(missing_ok=True)
    except OSError as exc:
        raise DatabaseError(f"{path} cannot be replaced: {exc.strerror}", path=str(path)) from exc
    return result


@contextlib.contextmanager
def _turn(folder: Path, stop: threading.Event) -> Iterator[None]:
    # Without it, a process that knows fewer migrations might put its older copy over a newer one.
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop.wait(_LOOK_EVERY):
                    raise _StoppedError from None
        yield
    finally:
        os.close(descriptor)


def _refuse_unfinished(path: Path) -> None:
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        # It would be played into the copy that takes the file's place.
        raise DatabaseError(
            f"{path} is read-only, but {log.name} beside it holds changes that are not in it yet; "
            f"make it writable (chmod u+w), then repeat",
            path=str(path),
        )


def _replace(path: Path, copy: Path, stop: threading.Event) -> None:
    copy.chmod(stat.S_IMODE(path.stat().st_mode))
    _sync(copy)
    if stop.is_set():
        raise _StoppedError
    copy.replace(path)
    _sync(path.parent)


def _change_copy(path: Path, copy: Path, change: Callable[[sqlite3.Connection], T], stop: threading.Event) -> T:
    def go_on(*_: int) -> None:
        if stop.is_set():
            raise _StoppedError

    with closing(open_raw(copy, readonly=False)) as target:
        # SQLite copies it, not open(): closing a descriptor of our own would drop the locks SQLite has on the file.
        with closing(open_raw(path, readonly=True)) as source:
            source.backup(target, pages=_PAGES_AT_A_TIME, progress=go_on)
        # Neither a rollback nor a sync is of use to a file that is thrown away on any error and synced at the end.
        target.execute("PRAGMA journal_mode = OFF")
        target.execute("PRAGMA synchronous = OFF")
        target.execute("PRAGMA foreign_keys = ON")
        target.execute("PRAGMA trusted_schema = OFF")
        target.set_progress_handler(stop.is_set, _OPCODES_AT_A_TIME)
        return change(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _StoppedError(Exception):
    """The caller was cancelled."""
