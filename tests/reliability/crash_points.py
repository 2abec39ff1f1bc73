"""The files as a process leaves them that is killed while it commits: its log ends at any byte.

SQLite only appends to the log of a file until that is copied back, so a SIGKILL leaves what was there before with a
part of what was written since. That is a file to go on from, and every such moment can be tried.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

_HEADER, _FRAME_HEADER = 32, 24  # bytes, https://www.sqlite.org/fileformat2.html#walformat
_COMMIT = slice(4, 8)
"""Of a frame's header: the size of the database after a commit, 0 in all frames but the last one of a transaction."""


def log_of(path: Path) -> bytes:
    """Return the write-ahead log of a database file; empty when it has none."""
    log = path.with_name(f"{path.name}-wal")
    return log.read_bytes() if log.exists() else b""


def copy_files(folder: Path, to: Path) -> None:
    """Copy all files of a folder, as they are at one moment.

    A week that was left may be tidied up meanwhile, by a thread that cannot be stopped: a copy in which anything has
    changed since it was begun is no such moment, and made again.
    """
    while True:
        copy = contents_of(folder)
        if contents_of(folder) == copy:
            break
    to.mkdir(mode=0o700)
    for name, (mode, contents) in copy.items():
        (to / name).write_bytes(contents)
        (to / name).chmod(mode)


def contents_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and contents of each file but those that die with the last process."""
    found = {}
    for path in folder.iterdir():
        if path.is_file() and not path.name.endswith("-shm"):
            with contextlib.suppress(FileNotFoundError):  # gone by now
                found[path.name] = (path.stat().st_mode, path.read_bytes())
    return found


@dataclass(frozen=True)
class Crash:
    """What was being written to one of the files of a folder when the process died."""

    files: Path
    """Copies of all files of the folder."""
    name: str
    """Of the file that was written to."""
    before: bytes
    """Its log, before anything was written."""
    after: bytes
    """Its log as it would have been."""

    @classmethod
    def while_written(cls, path: Path, before: bytes, copies: Path) -> Self:
        """Return the crash that may have happened since the log of `path` was `before`."""
        copy_files(path.parent, copies)
        return cls(copies, path.name, before, log_of(copies / path.name))

    @property
    def start(self) -> int:
        """First byte that was written: behind the old log, or at the beginning of one that was used again."""
        return len(self.before) if self.after.startswith(self.before) else 0

    @property
    def commits(self) -> list[int]:
        """Where, in the log, each transaction that was written ends."""
        size = _FRAME_HEADER + int.from_bytes(self.after[8:12], "big")
        frames = range(_HEADER, len(self.after), size)
        ends = [at + size for at in frames if any(self.after[at:][_COMMIT])]
        return [end for end in ends if end > self.start]

    @property
    def cuts(self) -> list[int]:
        """Where a write can have stopped: before it began, behind each page of the log, and a byte before the end."""
        size = _FRAME_HEADER + int.from_bytes(self.after[8:12], "big")
        pages = [at for at in range(_HEADER, len(self.after) + 1, size) if at > self.start]
        return [self.start, *pages[:-1], pages[-1] - 1, pages[-1]]

    def leave(self, folder: Path, cut: int) -> None:
        """Make `folder` what the process leaves when only `cut` bytes of the log had been written."""
        copy_files(self.files, folder)
        log = folder / f"{self.name}-wal"
        log.write_bytes(self.after[:cut] + self.before[cut:])
        log.chmod(0o600)


@contextlib.contextmanager
def copied_amid(folder: Path, step: int, to: Path) -> Iterator[None]:
    """Copy a folder right before call number `step` (from 0) that syncs, renames or removes a file: killed there.

    Where there are fewer calls, nothing is copied.
    """
    calls = count()

    def watched(call: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: object) -> None:
            if next(calls) == step:
                copy_files(folder, to)
            call(*arguments)

        return counted

    originals = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "unlink")}
    for name, call in originals.items():
        setattr(os, name, watched(call))
    try:
        yield
    finally:
        for name, call in originals.items():
            setattr(os, name, call)
