"""What weekly files there are: read from the files themselves, so that it can be rebuilt at any time."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from betcore_async.errors import (
    ArchiveDamagedError,
    BetcoreError,
    DatabaseError,
    NotBetcoreDatabaseError,
    PartitionDamagedError,
    SchemaTooNewError,
)
from betcore_async.models import Bet, User
from betcore_async.partitions.archive_manifest import Manifest, read_record
from betcore_async.partitions.files import Family, remove
from betcore_async.partitions.merging import ENTRY_COLUMNS
from betcore_async.partitions.meta import PartitionMeta, PartitionState, read_meta
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import open_raw
from betcore_async.sqlite.looking import open_to_look
from betcore_async.sqlite.migration_history import APPLICATION_ID
from betcore_async.sqlite.retry import error_code, is_busy

T = TypeVar("T")

_TABLES = """
SELECT count(*)
FROM {schema}.sqlite_schema
WHERE type = 'table' AND rootpage > 0 AND name IN ('partition_meta', 'users', 'bets', 'ledger_entries')
"""
"""Views and virtual tables, which run code of their own when they are read, have no root page."""

_COLUMNS = (
    f"SELECT {User.COLUMNS} FROM {{schema}}.users LIMIT 0",
    f"SELECT {Bet.COLUMNS} FROM {{schema}}.bets LIMIT 0",
    f"SELECT {ENTRY_COLUMNS} FROM {{schema}}.ledger_entries LIMIT 0",
)

# What tells that a file was written to since it was born, from which schema version on.
_WRITTEN = {
    1: """
SELECT
    EXISTS (SELECT 1 FROM ledger_entries WHERE ref_type <> 'carry_forward')
    OR EXISTS (SELECT 1 FROM bets, partition_meta WHERE placed_at >= starts_at OR resolved_at IS NOT NULL)
""",
    2: """
SELECT
    EXISTS (SELECT 1 FROM bets, partition_meta WHERE confirmed_at >= starts_at)
    OR EXISTS (SELECT 1 FROM cell_settlements, partition_meta WHERE settled_at >= starts_at)
""",
}


@dataclass(frozen=True, slots=True)
class Partition:
    """One weekly file as it describes itself."""

    week: Week
    path: Path
    state: PartitionState
    schema_version: int = 0
    predecessor: Week | None = None
    successor: Week | None = None
    problem: str = ""
    """Why it is `damaged`; empty otherwise."""
    archived: Manifest | None = None
    """What the record of an `archived` week says."""
    written: bool = False
    """Whether anything came in since it was born; looked at only where nothing else tells whether it was ever live."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a look at the folder found."""

    partitions: dict[Week, Partition]
    """By week, oldest first; damaged ones included."""
    live: Week | None
    """The week that takes writes; None where nothing has been written yet."""
    orphans: list[Path]
    """Files of rotations that were cut before their commit point; they were never live."""


def inspect(path: Path, week: Week, head: int) -> Partition:
    """Return what the file at `path`, named after `week`, says of itself. A file that makes no sense is `damaged`."""
    try:
        if not is_plain(path):
            raise PartitionDamagedError(f"{path} is not a regular file", path=path, reason="not a regular file")
        return ask(path, lambda raw: _read(raw, path, week, head))
    except (sqlite3.DatabaseError, BetcoreError) as error:
        if is_busy(error):
            raise
        return Partition(week, path, PartitionState.DAMAGED, problem=str(error))


def is_plain(path: Path) -> bool:
    """Tell whether there is a file: no link to one, no folder, no pipe, whose reader would wait for ever."""
    return path.is_file() and not path.is_symlink()


def ask(path: Path, question: Callable[[sqlite3.Connection], T]) -> T:
    """Return `question(connection)`, asked of one file on a connection of its own that only reads."""
    with closing(open_to_look(path)) as raw:
        raw.execute("PRAGMA trusted_schema = OFF")
        try:
            return question(raw)
        except sqlite3.OperationalError as error:
            if error_code(error) & 0xFF not in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}:
                raise
    # A crash while the file left WAL mode leaves a hot journal behind, which only a writing connection rolls back.
    with closing(open_raw(path, readonly=False)) as raw:
        raw.execute("PRAGMA trusted_schema = OFF")
        return question(raw)


def _read(raw: sqlite3.Connection, path: Path, week: Week, head: int) -> Partition:
    _check_owner(raw, path)
    (version,) = raw.execute("PRAGMA user_version").fetchone()
    if version > head:
        raise SchemaTooNewError(f"{path} has schema version {version}, this code knows {head}; upgrade it", path=path)
    meta = check_content(raw, path, week)
    if version == head:
        check_columns(raw, path)
    return Partition(week, path, meta.state, version, meta.predecessor, meta.successor)


def _check_owner(raw: sqlite3.Connection, path: Path, schema: str = "main") -> None:
    (owner,) = raw.execute(f"PRAGMA {schema}.application_id").fetchone()
    if owner != APPLICATION_ID:
        raise NotBetcoreDatabaseError(f"{path} belongs to something else (application_id {owner:#x})", path=path)


def check_content(raw: sqlite3.Connection, path: Path, week: Week, schema: str = "main") -> PartitionMeta:
    """Return what a file says of itself. Raises PartitionDamagedError for one that is not the week's file."""
    _check_owner(raw, path, schema)
    if tuple(raw.execute(_TABLES.format(schema=schema)).fetchone()) != (4,):
        raise PartitionDamagedError(f"{path} has not the tables of a weekly file", path=path, reason="tables")
    meta = read_meta(raw, path, schema)
    if meta.week != week:
        raise PartitionDamagedError(f"{path} says it holds {meta.week}", path=path, reason="another week")
    return meta


def check_columns(raw: sqlite3.Connection, path: Path, schema: str = "main") -> None:
    """Raise PartitionDamagedError for a file at the newest schema that has not the columns which queries read."""
    for sql in _COLUMNS:
        try:
            raw.execute(sql.format(schema=schema)).fetchall()
        except sqlite3.OperationalError as error:
            if "no such column" not in str(error):
                raise
            text = f"{path} has not the columns of a weekly file: {error}"
            raise PartitionDamagedError(text, path=path, reason="columns") from error


def discover(family: Family, head: int) -> Discovery:
    """Read every weekly file of the family. Changes nothing."""
    found: dict[Week, Partition] = {}
    try:
        named = family.weekly_files()
        while named:
            found |= {week: inspect(path, week, head) for week, path in named.items()}
            # A rotation may have gone on since the folder was listed.
            wanted = {entry.successor for entry in found.values() if entry.successor} - found.keys()
            named = {week: path for week in wanted if os.path.lexists(path := family.path_of(week))}
        there = {week: entry for week, entry in sorted(found.items()) if os.path.lexists(entry.path)}
        # After the files: the record of a week is there before its file is gone.
        away = {week: _archived(family, week) for week in family.records() if week not in there}
    except OSError as error:
        raise DatabaseError(f"cannot read the folder {family.folder}: {error.strerror}", path=family.folder) from error
    if away and not there:
        raise _only_records(family, list(away.values()))
    looked = {week: _looked_into(entry, there) for week, entry in there.items()}
    for before in [looked[entry.predecessor] for entry in looked.values() if entry.written and entry.predecessor]:
        looked[before.week] = inspect(before.path, before.week, head)  # sealed, perhaps, since it was read
    discovery = sort_out(looked)
    return replace(discovery, partitions=dict(sorted((discovery.partitions | away).items())))


def _archived(family: Family, week: Week) -> Partition:
    path = family.path_of(week)
    try:
        record = read_record(family, week)
    except ArchiveDamagedError as error:
        problem = f"{error}; restore {week}, and it is written anew"
        return Partition(week, path, PartitionState.DAMAGED, problem=problem)
    return Partition(
        week,
        path,
        PartitionState.ARCHIVED,
        record.schema_version,
        record.predecessor,
        record.successor,
        archived=record,
    )


def _only_records(family: Family, away: list[Partition]) -> PartitionDamagedError:
    newest = away[-1]
    text = f"{family.record_of(newest.week)} says that weeks went from here to the archive, but no weekly file is here"
    return PartitionDamagedError(
        f"{text}; bring back the newest ones, or, to begin anew, move the records away",
        path=newest.path,
        reason="the live week is missing",
    )


def _looked_into(entry: Partition, found: dict[Week, Partition]) -> Partition:
    before = found.get(entry.predecessor) if entry.predecessor else None
    if entry.state is not PartitionState.LIVE or before is None or before.successor == entry.week:
        return entry
    return replace(entry, written=ask(entry.path, lambda raw: _was_written(raw, entry)))


def _was_written(raw: sqlite3.Connection, entry: Partition) -> bool:
    return any(raw.execute(sql).fetchone()[0] for since, sql in _WRITTEN.items() if entry.schema_version >= since)


def sort_out(found: dict[Week, Partition]) -> Discovery:
    """Tell live, sealed and orphaned files apart. Pure.

    Live is the unsealed file whose predecessor is sealed and names it, or is not there. Raises PartitionDamagedError
    when there are two, when there is none although there are files, and when nobody can say.
    """
    orphans = [entry for entry in found.values() if _is_orphan(entry, found)]
    kept = {week: entry for week, entry in found.items() if entry not in orphans}
    live = [entry for entry in kept.values() if entry.state is PartitionState.LIVE]
    if len(live) > 1:
        names = ", ".join(str(entry.path) for entry in live)
        raise PartitionDamagedError(
            f"two files claim to be the live week: {names}; keep the one with the newer bets and move the other away",
            path=live[0].path,
            reason="two live weeks",
        )
    if kept and not live:
        raise _no_live_week(kept)
    return Discovery(kept, live[0].week if live else None, [entry.path for entry in orphans])


def _is_orphan(entry: Partition, found: dict[Week, Partition]) -> bool:
    """Tell whether a file comes from a rotation that was cut: its predecessor has not been sealed in its favour."""
    before = found.get(entry.predecessor) if entry.predecessor else None
    if entry.state is not PartitionState.LIVE or before is None:
        return False
    if before.state is not PartitionState.DAMAGED:
        if before.successor != entry.week and entry.written:  # it was live: whoever put the other file there was wrong
            raise PartitionDamagedError(
                f"{entry.path} took over from {before.week} and was written to, but {before.path} does not name it: "
                f"bring back the {before.week} that does, such as it was before a copy replaced it",
                path=before.path,
                reason="it does not name its successor",
            )
        return before.successor != entry.week
    if not entry.written:
        raise PartitionDamagedError(
            f"{before.path} cannot be used ({before.problem}), so nobody can say whether "
            f"{entry.path} has taken over from it: bring {before.path} back, or, if it was sealed, move it away",
            path=before.path,
            reason=before.problem,
        )
    return False


def _no_live_week(kept: dict[Week, Partition]) -> PartitionDamagedError:
    damaged = [entry for entry in kept.values() if entry.state is PartitionState.DAMAGED]
    if damaged:
        newest = damaged[-1]
        return PartitionDamagedError(
            f"no weekly file can take writes: {newest.problem}", path=newest.path, reason=newest.problem
        )
    newest = list(kept.values())[-1]
    return PartitionDamagedError(
        f"{newest.path} was sealed in favour of {newest.successor}, whose file is not there; bring it back",
        path=newest.path,
        reason="the live week is missing",
    )


def nothing_left(family: Family) -> PartitionDamagedError:
    """Return the error for a folder that has become empty while it was in use."""
    text = f"no weekly file is in {family.folder} any more; bring back what was there, or mount it again"
    return PartitionDamagedError(text, path=family.folder, reason="the live week is missing")


def clean(family: Family, discovery: Discovery, *, staging: bool) -> None:
    """Remove orphans, for who holds the folder's lock; with `staging` also what no rotation is building any more."""
    for path in (*(family.staging_files() if staging else ()), *discovery.orphans):
        remove(path)
