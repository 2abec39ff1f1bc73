"""The steps of archiving and restoring a week. Synchronous: each runs on a thread, for who holds the archive lock.

    archive   check the file → compress it into a new object → read that back → manifest → read that back
              → record beside the live file → remove the file
    restore   download to a private name → check it → migrate it → sync, rename, sync the folder

Killed anywhere, the week is either still here or already whole in the archive, and a repeat ends the same.
"""

import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from betcore_async.errors import (
    ArchiveDamagedError,
    ArchiveError,
    PartitionDamagedError,
    PartitionError,
    PartitionMissingError,
    SchemaTooNewError,
)
from betcore_async.partitions.archive_manifest import Manifest, read_record, write_record
from betcore_async.partitions.archive_store import ArchiveStore
from betcore_async.partitions.archive_transfer import Digest, compress, decompress, pieces_of
from betcore_async.partitions.catalog import Partition, inspect
from betcore_async.partitions.files import Family, publish, remove, sync
from betcore_async.partitions.handles import Identity, identify
from betcore_async.partitions.info import COUNTS
from betcore_async.partitions.lineage import insist_in_line
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.rotation import finalize
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import open_raw
from betcore_async.sqlite.migration_files import Migration
from betcore_async.sqlite.migration_runner import migrate_connection
from betcore_async.sqlite.private import create_private

REPEATS = timedelta(days=7) // timedelta(microseconds=1)
"""How long after its end a week stays: an id of it may come again, and is looked up there."""

_FACTS = """
SELECT week, starts_at, ends_at, predecessor, successor, created_at, sealed_at, user_version AS schema_version
FROM partition_meta, pragma_user_version
"""
_OPCODES_AT_A_TIME = 10_000
"""SQLite's steps between two looks at whether the caller has gone."""

Report = Callable[[str, int, int], None]
"""Told the stage, and how many bytes of how many are done."""


class StoppedError(Exception):
    """The caller was cancelled; never seen by anybody."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one piece of work is done with."""

    family: Family
    store: ArchiveStore
    stop: threading.Event
    report: Report

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Return a function that is told of bytes done, tells the caller, and raises once he was cancelled."""
        done = 0

        def go_on(size: int) -> None:
            nonlocal done
            if self.stop.is_set():
                raise StoppedError
            done += size
            self.report(name, done, total)

        go_on(0)
        return go_on


# Archiving


def put_away(work: Work, entry: Partition, live: Week, now: int) -> tuple[Manifest, Identity]:
    """Bring a sealed week into the archive, unless it is there as it is; return what proves it, and the file it was.

    For a file that is whole. Raises PartitionError for a week that is too young, PartitionDamagedError for a file that
    is not intact, ArchiveError where the archive cannot be used or holds that week of another database.
    """
    seen = identify(entry.path)
    facts = _examine(work, entry, live)
    there = work.store.manifest(entry.week)
    if there is not None:
        _insist_ours(work, there, facts["created_at"])
    if there is None or not _is_there(work, entry, there):
        there = _upload(work, entry, facts | {"archived_at": now}, replace=there is not None)
    work.store.clear(there)
    return there, seen


def _examine(work: Work, entry: Partition, live: Week) -> dict[str, Any]:
    """Return what the manifest says of a file, once all of it is known to be intact."""
    work.stage("check", entry.path.stat().st_size)
    with closing(open_raw(entry.path, readonly=True)) as raw:
        raw.row_factory = sqlite3.Row
        raw.execute("PRAGMA trusted_schema = OFF")
        facts = dict(raw.execute(_FACTS).fetchone())
        if facts["sealed_at"] is None:
            raise PartitionDamagedError(f"{entry.path} does not say when it was sealed", path=entry.path, reason="seal")
        if facts["sealed_at"] + REPEATS > live.starts_at:
            raise PartitionError(
                f"{entry.week} was sealed less than seven days before the live week {live} began; "
                "what it holds may still be asked for by writes. Archive it a week later",
                week=entry.week,
            )
        check_integrity(raw, entry.path, work.stop)
        return facts | dict(raw.execute(COUNTS.format(schema="main")).fetchone())


def _insist_ours(work: Work, manifest: Manifest, created_at: int) -> None:
    if manifest.created_at != created_at:
        where = work.store.location
        text = f"{where} holds {manifest.week} of another database; give each one an archive of its own"
        raise ArchiveError(text, week=manifest.week, location=where)


def check_integrity(raw: sqlite3.Connection, path: Path, stop: threading.Event) -> None:
    """Let SQLite check every page. Raises PartitionDamagedError with what it found, StoppedError when to stop."""
    raw.set_progress_handler(stop.is_set, _OPCODES_AT_A_TIME)
    try:
        found = [str(row[0]) for row in raw.execute("PRAGMA integrity_check(3)")]
    except sqlite3.DatabaseError as error:
        if stop.is_set():
            raise StoppedError from error
        found = [str(error)]
    finally:
        raw.set_progress_handler(None, 0)
    if found != ["ok"]:
        raise PartitionDamagedError(f"{path} is damaged: {'; '.join(found)}", path=path, reason=found[0])


def _is_there(work: Work, entry: Partition, there: Manifest) -> bool:
    """Tell whether the archive has the very same file: of an attempt that was cut, or of a week restored.

    Where it has lost that, it is brought there anew.
    """
    if entry.path.stat().st_size != there.size:
        return False
    digest = Digest()
    for piece in pieces_of(entry.path, work.stage("compare", there.size)):
        digest.add(piece)
    if digest.sha256 != there.sha256:
        return False
    try:
        _read_back(work, there)
    except ArchiveDamagedError:
        return False
    return True


def _upload(work: Work, entry: Partition, facts: dict[str, Any], *, replace: bool) -> Manifest:
    """Bring a file to the archive, read it back, and write its manifest, in place of the one there where `replace`."""
    plain, archived = Digest(), Digest()
    # A name of its own for each attempt: what a rival or a killed process left is never written over.
    key = f"{entry.week}/{secrets.token_hex(4)}.db.zst"
    pieces = pieces_of(entry.path, work.stage("compress", entry.path.stat().st_size))
    work.store.upload(key, compress(pieces, plain, archived))
    made = {"size": plain.size, "sha256": plain.sha256}
    made |= {"archived_size": archived.size, "archived_sha256": archived.sha256}
    manifest = Manifest.model_validate(facts | made | {"location": work.store.location, "object": key})
    try:
        _read_back(work, manifest)
    except BaseException:
        work.store.discard(manifest)
        raise
    work.store.write_manifest(manifest, replace=replace)
    return manifest


def _read_back(work: Work, manifest: Manifest) -> None:
    """Read the object as a restore would. Raises ArchiveDamagedError."""
    for _ in _pieces_in(work, manifest, "read back"):
        pass


def take_away(family: Family, entry: Partition, seen: Identity, manifest: Manifest) -> None:
    """Remove the file of a week that is in the archive, for who holds the family's lock, too.

    Raises PartitionError where the file is not the one any more that was `seen` before it was archived, ArchiveError
    where the folder refuses.
    """
    try:
        if not entry.path.exists() or identify(entry.path) != seen:
            text = f"{entry.path} was changed while it was archived; it stays here. Archive it again"
            raise PartitionError(text, week=entry.week)
        write_record(family, manifest)
        remove(entry.path)
        sync(entry.path.parent)
    except OSError as error:
        raise ArchiveError(
            f"{entry.week} is in the archive, and {entry.path} cannot be removed: {error.strerror}", week=entry.week
        ) from error


# Restoring


def bring_back(work: Work, week: Week, migrations: tuple[Migration, ...]) -> tuple[Path, Manifest]:
    """Download a week under a private name, checked and at the newest schema, and return that name and its manifest.

    Raises PartitionMissingError for a week that is not in the archive, ArchiveDamagedError for one that is not what
    was put there, PartitionDamagedError, MigrationError, ArchiveError. The caller removes what is left behind then.
    """
    manifest, head = find(work, week), migrations[-1].version
    if manifest.schema_version > head:
        text = f"{week} was archived with schema version {manifest.schema_version}, this code knows {head}; upgrade it"
        raise SchemaTooNewError(text, location=work.store.location)
    staging = work.family.new_restoring(week)
    try:
        create_private(staging)
        with staging.open("wb") as file:
            for piece in _pieces_in(work, manifest, "restore"):
                file.write(piece)
        _make_readable(work, staging, week, migrations)
        insist_in_line(work.family, staging, manifest)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArchiveError(f"cannot restore {week} to {staging.parent}: {reason}", week=week) from error
    return staging, manifest


def find(work: Work, week: Week) -> Manifest:
    """Return the manifest of a week in the archive. Raises PartitionMissingError, ArchiveDamagedError."""
    manifest = work.store.manifest(week)
    if manifest is None:
        raise PartitionMissingError(f"{week} is not in the archive {work.store.location}", weeks=(week,))
    with suppress(ArchiveDamagedError):  # no record, or a damaged one: this is what it is made anew from
        _insist_ours(work, manifest, read_record(work.family, week).created_at)
    return manifest


def _make_readable(work: Work, staging: Path, week: Week, migrations: tuple[Migration, ...]) -> None:
    work.stage("check", staging.stat().st_size)
    entry = inspect(staging, week, migrations[-1].version)
    if entry.state is not PartitionState.SEALED:
        reason = entry.problem or f"it is {entry.state}"
        raise PartitionDamagedError(f"what was archived as {week} is not it: {reason}", path=staging, reason=reason)
    with closing(open_raw(staging, readonly=False)) as raw:
        raw.execute("PRAGMA trusted_schema = OFF")
        check_integrity(raw, staging, work.stop)
        if entry.schema_version < migrations[-1].version:
            # Nobody sees the file before it is whole: it needs no journal of its own.
            raw.execute("PRAGMA journal_mode = OFF")
            raw.execute("PRAGMA synchronous = OFF")
            raw.execute("PRAGMA foreign_keys = ON")
            migrate_connection(raw, migrations)
    if not finalize(staging):
        raise ArchiveError(f"cannot make a read-only file of {staging}", week=week)


def put_in_place(family: Family, staging: Path, manifest: Manifest) -> None:
    """Give a restored week its name, for who holds the family's lock, too. Raises PartitionError where there is one."""
    final = family.path_of(manifest.week)
    try:
        if os.path.lexists(final):
            raise PartitionError(f"{final} is there already", week=manifest.week, path=final)
        publish(staging, final)
        write_record(family, manifest)
    except OSError as error:
        raise ArchiveError(f"cannot restore {final}: {error.strerror}", week=manifest.week) from error


# Verifying


def problems_of(work: Work, week: Week) -> tuple[Manifest | None, list[str]]:
    """Return the manifest of a week in the archive, and what is wrong with it or its object."""
    try:
        manifest = find(work, week)
        if not work.family.path_of(week).exists() and read_record(work.family, week) != manifest:
            raise ArchiveDamagedError(f"{work.family.record_of(week)} does not say what the archive says", week=week)
        _read_back(work, manifest)
    except ArchiveDamagedError as error:
        return None, [error.message]
    except PartitionMissingError as error:
        if not work.family.record_of(week).exists():
            raise
        return None, [error.message]
    return manifest, []


def _pieces_in(work: Work, manifest: Manifest, stage: str) -> Iterator[bytes]:
    parts = work.store.download(manifest.object, manifest.archived_size)
    return decompress(parts, manifest, f"{work.store.location}/{manifest.object}", work.stage(stage, manifest.size))
