"""Figures of sealed weeks, kept in memory and in one small file beside the weeks.

A cache and nothing more: an entry counts only while the file it was counted from is the very same, unchanged one, and
the cache only while its checksum fits. What is missing, stale or damaged is counted again from the weekly files.
"""

import binascii
import contextlib
import hashlib
import json
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from betcore_async.errors import ModelError
from betcore_async.partitions.figures import Figures, Standing, Sums
from betcore_async.partitions.files import staging_of
from betcore_async.partitions.handles import Identity
from betcore_async.partitions.user_filter import UserFilter
from betcore_async.partitions.week import Week

_VERSION = 2
_LARGEST = 64_000_000
"""Bytes; a file larger than that is none of ours."""

Counted = tuple[Identity, Figures]
"""What a file comes to, and which file it was."""
Known = dict[str, Counted]
"""By name of the week."""


class FigureCache:
    """What is known of sealed weeks. Used from the threads of all scanners."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: Known | None = None
        self._bounds: dict[tuple[Path, int], int] = {}
        self._unsaved = False

    def known(self) -> Known:
        """Return what was counted in which files; to be believed only as long as it is still that very file."""
        known = self._known  # replaced as a whole and never changed
        if known is None:
            with self._lock:
                known = self._known = self._known or _read(self._path)
        return known

    def put(self, week: Week, identity: Identity, figures: Figures) -> None:
        with self._lock:
            self._known = {**(self._known or {}), week.name: (identity, figures)}
            self._unsaved = True

    def save(self) -> None:
        """Write down what is new, for the next run and for other processes; where that fails, they count themselves."""
        with self._lock:
            if not self._unsaved or self._known is None:
                return
            self._unsaved = False
            self._known = _read(self._path) | self._known  # others may have counted meanwhile
            with contextlib.suppress(OSError):
                _write(self._path, self._known)

    # Of the live week only where the carried-over bets end is worth remembering: all else changes.

    def last_carried(self, path: Path, inode: int) -> int | None:
        return self._bounds.get((path, inode))

    def know_last_carried(self, path: Path, inode: int, last: int) -> None:
        self._bounds = {(path, inode): last}


def _read(path: Path) -> Known:
    try:
        digest, _, body = _content(path).partition(b"\n")
        if digest.decode() != _digest(body):
            return {}
        found = json.loads(body)
        if found["version"] != _VERSION:
            return {}
        return {Week(name).name: _parsed(entry) for name, entry in found["weeks"].items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, ModelError):
        return {}


def _content(path: Path) -> bytes:
    # Not blocking: something else in its place, a pipe say, must not hold anybody up.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_LARGEST)
    finally:
        os.close(descriptor)


def _parsed(entry: Mapping[str, Any]) -> tuple[Identity, Figures]:
    device, inode, size, modified, changed = entry["file"]
    by_home: dict[int, dict[str, Sums]] = {}
    for home, status, count, amount, payout in entry["sums"]:
        by_home.setdefault(home, {})[status] = Sums(count, amount, payout)
    return (device, inode, size, modified, changed), Figures(
        {home: Standing.of(found) for home, found in by_home.items()},
        entry["last_carried"],
        UserFilter(binascii.a2b_base64(entry["users"], strict_mode=True)),
    )


def _write(path: Path, known: Known) -> None:
    weeks = {
        week: {
            "file": identity,
            "last_carried": figures.last_carried,
            "sums": _rows(figures.by_home),
            "users": binascii.b2a_base64(figures.users.bits, newline=False).decode(),
        }
        for week, (identity, figures) in sorted(known.items())
    }
    body = json.dumps({"version": _VERSION, "weeks": weeks}, separators=(",", ":")).encode()
    staging = staging_of(path)
    descriptor = os.open(staging, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(_digest(body).encode() + b"\n" + body)
        staging.replace(path)  # not synced: after a power cut the checksum tells
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def _rows(by_home: Mapping[int, Standing]) -> list[tuple[int, str, int, int, int]]:
    return [
        (home, status, sums.count, sums.amount, sums.payout)
        for home, standing in by_home.items()
        for status, sums in standing.by_status.items()
    ]


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
