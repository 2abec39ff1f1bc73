"""Names and file-system steps of a family of weekly files.

A file that SQLite has open is never opened here with `open()`: closing any descriptor of it would drop the locks SQLite
holds (https://www.sqlite.org/howtocorrupt.html, section 2.2). What is synced, renamed or removed here is not open.
"""

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from betcore_async.errors import ModelError
from betcore_async.partitions.week import Week

_SIDE_FILES = ("-wal", "-shm", "-journal")


class Family:
    """The weekly files that one DB_PATH names: `data/bets.db` gives `data/bets-2026-W47.db`."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self._stem, self._suffix = path.stem, path.suffix
        name = re.escape(self._stem) + r"-(\d{4}-W\d{2})" + re.escape(self._suffix)
        self._weekly = re.compile(name, re.ASCII)
        self._staging = re.compile(name + r"\.[0-9a-f]{8}\.staging(-wal|-shm|-journal)?", re.ASCII)

    def path_of(self, week: Week) -> Path:
        return self.folder / f"{self._stem}-{week}{self._suffix}"

    def new_staging(self, week: Week) -> Path:
        """Return a fresh name beside the week's file, under which its successor-to-be is built."""
        return self.folder / f"{self.path_of(week).name}.{secrets.token_hex(4)}.staging"

    def weekly_files(self) -> dict[Week, Path]:
        """Return the files named after a week of this family, oldest first."""
        found = {}
        for entry in self.folder.iterdir():
            match = self._weekly.fullmatch(entry.name)
            with contextlib.suppress(ModelError):  # 2025-W53 fits the pattern, but there is no such week: not ours
                if match and entry.is_file() and not entry.is_symlink():
                    found[Week(match[1])] = entry
        return dict(sorted(found.items()))

    def staging_files(self) -> list[Path]:
        """Return what builds that never ended left behind."""
        return [entry for entry in self.folder.iterdir() if self._staging.fullmatch(entry.name)]

    def make_folder(self) -> None:
        """Create the folder, for the owner alone, where there is none."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Try to hold the family's lock; yields whether it is held. The kernel frees it when its holder dies.

        It keeps start-ups and rotations from cleaning up after each other; what must be exclusive for correctness is so
        by the write lock of the live file.
        """
        name = self.folder / f"{self._stem}{self._suffix}.lock"
        descriptor = os.open(name, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)


def publish(staging: Path, final: Path) -> None:
    """Give a finished file its name so that it survives a power cut: sync it, rename it, sync the folder."""
    sync(staging)
    staging.replace(final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a database file that is not in use, with its side files."""
    for name in (path, *(path.with_name(path.name + side) for side in _SIDE_FILES)):
        name.unlink(missing_ok=True)
