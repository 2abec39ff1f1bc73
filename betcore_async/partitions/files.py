"""Names and file-system steps of a family of weekly files.

A file that SQLite has open is never opened here with `open()`: closing any descriptor of it would drop the locks SQLite
holds (https://www.sqlite.org/howtocorrupt.html, section 2.2). What is synced, renamed or removed here is not open.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from time import monotonic

from betcore_async.errors import DatabaseError, ModelError
from betcore_async.partitions.week import Week
from betcore_async.sqlite.private import create_private
from betcore_async.sqlite.retry import backoff, busy_timeout

FOLDER, ROTATION, ARCHIVE = ".lock", ".rotation.lock", ".archive.lock"
"""Locks of a family. The first is for what changes which files there are, and is held for moments; the others are for
work that lasts. Who wants two takes the first last, or does not wait."""

_DOING = {FOLDER: "opening or rotating", ROTATION: "rotating", ARCHIVE: "archiving or restoring weeks of"}

_SIDE_FILES = ("-wal", "-shm", "-journal")


class Family:
    """The weekly files that one DB_PATH names: `data/bets.db` gives `data/bets-2026-W47.db`."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self._stem, self._suffix = path.stem, path.suffix
        name = re.escape(self._stem) + r"-(\d{4}-W\d{2})" + re.escape(self._suffix)
        self._weekly = re.compile(name, re.ASCII)
        self.figures = path.with_name(f"{path.name}.figures")
        """What each sealed week comes to, kept from run to run; it may be deleted at any time."""
        staging = r"\.[0-9a-f]{8}\.staging(-wal|-shm|-journal)?"
        self._staging = re.compile(f"({name}|{re.escape(self.figures.name)}){staging}", re.ASCII)
        self._restoring = re.compile(name + r"\.(archived\.new|[0-9a-f]{8}\.restoring(-wal|-shm|-journal)?)", re.ASCII)
        self._record = re.compile(name + r"\.archived", re.ASCII)

    def path_of(self, week: Week) -> Path:
        return self.folder / f"{self._stem}-{week}{self._suffix}"

    def new_staging(self, week: Week) -> Path:
        """Return a fresh name beside the week's file, under which its successor-to-be is built."""
        return staging_of(self.path_of(week))

    def record_of(self, week: Week) -> Path:
        """Return the name of the file that says where a week was archived."""
        return self.folder / f"{self.path_of(week).name}.archived"

    def new_restoring(self, week: Week) -> Path:
        """Return a fresh name for a week that comes back. Not a staging name: a start in between would remove it."""
        return self.folder / f"{self.path_of(week).name}.{secrets.token_hex(4)}.restoring"

    @property
    def default_archive(self) -> Path:
        return self.folder / f"{self._stem}{self._suffix}-archive"

    def weekly_files(self) -> dict[Week, Path]:
        """Return whatever bears the name of a week of this family, oldest first."""
        return self._by_week(self._weekly)

    def records(self) -> dict[Week, Path]:
        """Return the records of archived weeks, oldest first; the week itself may be back."""
        return self._by_week(self._record)

    def _by_week(self, names: re.Pattern[str]) -> dict[Week, Path]:
        found = {}
        for entry in self.folder.iterdir():
            if match := names.fullmatch(entry.name):
                with contextlib.suppress(ModelError):  # 2025-W53 fits the pattern, but there is no such week: not ours
                    found[Week(match[1])] = entry
        return dict(sorted(found.items()))

    def staging_files(self) -> list[Path]:
        """Return what builds that never ended left behind."""
        return [entry for entry in self.folder.iterdir() if self._staging.fullmatch(entry.name)]

    def restoring_files(self) -> list[Path]:
        """Return what restores that never ended left behind."""
        return [entry for entry in self.folder.iterdir() if self._restoring.fullmatch(entry.name)]

    def make_folder(self) -> None:
        """Create the folder, for the owner alone, where there is none."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(f"cannot make the folder {self.folder}: {error.strerror}", path=self.folder) from error

    @contextlib.asynccontextmanager
    async def alone(self, budget: timedelta, lock: str = FOLDER) -> AsyncIterator[None]:
        """Hold one of the family's locks: of all that need it, in all processes, one goes on at a time.

        It keeps them from cleaning up after each other; what must be exclusive for correctness is so by the write lock
        of the live file. The kernel frees it when its holder dies. Raises BusyTimeoutError once `budget` is spent.
        """
        started, attempts = monotonic(), 0
        while True:
            attempts += 1
            with self.claim(lock) as held:
                if held:
                    yield
                    return
            waited = monotonic() - started
            if waited >= budget.total_seconds():
                raise busy_timeout(f"{_DOING[lock]} {self.folder / self._stem}", waited, attempts)
            await asyncio.sleep(backoff(attempts))

    @contextlib.contextmanager
    def claim(self, suffix: str) -> Iterator[bool]:
        """Hold the lock of that name, if nobody else does; the kernel frees it when its holder dies."""
        name = self.folder / f"{self._stem}{self._suffix}{suffix}"
        try:
            if not os.path.lexists(name):
                create_private(name)
            descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise DatabaseError(f"cannot use the lock file {name}: {error.strerror}", path=name) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)


def staging_of(path: Path) -> Path:
    """Return a fresh name beside a file, under which what takes its place is written. A start removes left-overs."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.staging")


def publish(staging: Path, final: Path) -> None:
    """Give a finished file its name so that it survives a power cut: sync it, rename it, sync the folder."""
    sync(staging)
    _remove_side_files(final)  # of a file that went without them: SQLite would play its -wal into the new one
    staging.replace(final)
    sync(final.parent)


def occupied(path: Path) -> bool:
    """Tell whether there is a file of that name, or what SQLite would take for its log."""
    return any(os.path.lexists(path.with_name(path.name + side)) for side in ("", *_SIDE_FILES))


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a database file that is not in use, with its side files."""
    _remove_side_files(path)
    path.unlink(missing_ok=True)


def _remove_side_files(path: Path) -> None:
    for side in _SIDE_FILES:
        path.with_name(path.name + side).unlink(missing_ok=True)
