"""The file of a week to be, while it is built under a staging name. Synchronous: runs on a connection's thread.

Nobody else sees it, so it needs no journal and no locks; whatever goes wrong, it is thrown away.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from betcore_async.errors import RotationError
from betcore_async.partitions.carry import Carried, catch_up_all, check_all, copy_all
from betcore_async.partitions.files import Family, remove
from betcore_async.partitions.meta import write_meta
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import open_raw
from betcore_async.sqlite.migration_files import Migration
from betcore_async.sqlite.migration_runner import migrate_connection
from betcore_async.sqlite.private import create_private
from betcore_async.sqlite.uri import uri_of

CACHE_KIB = 16_384
"""Page cache of the connection that builds, and again for the file that it reads: what the build takes of memory."""

READ_PATIENCE_MS = 1000
"""How long the build waits, on a thread of its own, for who recovers the log of the old file."""

_TRIGGERS = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY rowid"


@dataclass(frozen=True, slots=True)
class Step:
    """From which week to which."""

    family: Family
    week: Week
    successor: Week
    migrations: tuple[Migration, ...]
    """All there are: the new file is born at head."""
    now: int
    """Microseconds since the epoch."""


class Staging:
    """Builds the file of the week that succeeds a live one. `open()` first; then copy, catch up, complete."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.path = step.family.new_staging(step.successor)
        self.final = step.family.path_of(step.successor)
        self.old = step.family.path_of(step.week)
        self._now = step.successor.clamp(step.now)
        self._mark = 0
        self._triggers: list[str] = []

    def open(self) -> sqlite3.Connection:
        """Create the file, with its schema at head, and return the connection that all other steps want."""
        raw = _create(self.path, self.step.migrations)
        try:
            self._triggers = _drop_triggers(raw)
            raw.execute(f"PRAGMA busy_timeout = {READ_PATIENCE_MS}")
            raw.execute("ATTACH DATABASE ? AS old", (uri_of(self.old, readonly=True),))
            for schema in ("main", "old"):
                raw.execute(f"PRAGMA {schema}.cache_size = {-CACHE_KIB}")
            self._insist_same_schema(raw)
            raw.execute("PRAGMA synchronous = NORMAL")  # COMMIT syncs, so that little is left to sync under the lock
        except BaseException:
            raw.close()
            raise
        return raw

    def copy(self, raw: sqlite3.Connection) -> None:
        """Take over what the old file holds, as of one moment. Writers are not held up."""
        raw.execute("BEGIN IMMEDIATE")
        write_meta(raw, self.step.successor, self.step.week, self._now)
        self._mark = copy_all(raw, self._now)
        raw.execute("COMMIT")

    def catch_up(self, raw: sqlite3.Connection) -> int:
        """Take over what was written to the old file since; returns how many rows that were."""
        raw.execute("BEGIN IMMEDIATE")
        self._mark, changes = catch_up_all(raw, self._mark, self._now)
        raw.execute("COMMIT")
        return changes

    def complete(self, raw: sqlite3.Connection) -> Carried:
        """Catch up for the last time, check, and close the connection; the caller holds the old file's write lock.

        What is left is to sync the file. Raises RotationError where it does not hold what the old one does.
        """
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("BEGIN IMMEDIATE")
        self._insist_same_schema(raw)
        catch_up_all(raw, self._mark, self._now)
        carried = check_all(raw)
        for statement in self._triggers:
            raw.execute(statement)
        raw.execute("COMMIT")
        raw.execute("DETACH DATABASE old")
        _to_wal(raw)
        raw.close()
        return carried

    def _insist_same_schema(self, raw: sqlite3.Connection) -> None:
        """Refuse a file that a newer release has migrated meanwhile: nothing of what it added would be carried over."""
        (version,) = raw.execute("PRAGMA old.user_version").fetchone()
        head = self.step.migrations[-1].version
        if version != head:
            raise RotationError(
                f"{self.old} has schema version {version}, this code knows {head}; let the newer release rotate",
                week=self.step.successor,
                path=self.old,
            )


def build_first(path: Path, week: Week, migrations: tuple[Migration, ...], now: int) -> None:
    """Write the complete file of a first week, which takes over from none; nothing is left behind when it raises."""
    try:
        with closing(_create(path, migrations)) as raw:
            write_meta(raw, week, None, week.clamp(now))
            _to_wal(raw)
    except BaseException:
        remove(path)
        raise


def _create(path: Path, migrations: tuple[Migration, ...]) -> sqlite3.Connection:
    create_private(path)
    raw = open_raw(path, readonly=False)
    try:
        raw.execute("PRAGMA journal_mode = OFF")
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("PRAGMA trusted_schema = OFF")
        migrate_connection(raw, migrations)
    except BaseException:
        raw.close()
        raise
    return raw


def _drop_triggers(raw: sqlite3.Connection) -> list[str]:
    """Drop all triggers and return what makes them again.

    They guard what happens in the course of a week: a bet that was decided while it was being copied has to go again.
    """
    triggers = raw.execute(_TRIGGERS).fetchall()
    for name, _ in triggers:
        raw.execute(f'DROP TRIGGER "{name}"')
    return [sql for _, sql in triggers]


def _to_wal(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA journal_mode = WAL")
