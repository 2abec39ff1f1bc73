"""What weekly files there are: read from the files themselves, so that it can be rebuilt at any time."""

import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

from betcore_async.errors import BetcoreError, NotBetcoreDatabaseError, PartitionDamagedError, SchemaTooNewError
from betcore_async.partitions.files import Family, remove
from betcore_async.partitions.meta import PartitionState, read_meta
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import open_raw
from betcore_async.sqlite.migration_history import APPLICATION_ID
from betcore_async.sqlite.retry import is_busy


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
        raw = open_raw(path, readonly=True)
        try:
            return _read(raw, path, week, head)
        except sqlite3.OperationalError as error:
            if is_busy(error):
                raise
        finally:
            raw.close()
        # A crash while the file left WAL mode leaves a hot journal behind, which only a writing connection rolls back.
        raw = open_raw(path, readonly=False)
        try:
            return _read(raw, path, week, head)
        finally:
            raw.close()
    except (sqlite3.DatabaseError, BetcoreError) as error:
        if is_busy(error):
            raise
        return Partition(week, path, PartitionState.DAMAGED, problem=str(error))


def _read(raw: sqlite3.Connection, path: Path, week: Week, head: int) -> Partition:
    owner, version = (raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if owner != APPLICATION_ID:
        raise NotBetcoreDatabaseError(f"{path} belongs to something else (application_id {owner:#x})", path=path)
    if version > head:
        raise SchemaTooNewError(f"{path} has schema version {version}, this code knows {head}; upgrade it", path=path)
    meta = read_meta(raw, path)
    if meta.week != week:
        raise PartitionDamagedError(f"{path} says it holds {meta.week}", path=path, reason="another week")
    return Partition(week, path, meta.state, version, meta.predecessor, meta.successor)


def discover(family: Family, head: int) -> Discovery:
    """Read every weekly file of the family. Changes nothing."""
    found = {week: inspect(path, week, head) for week, path in family.weekly_files().items()}
    return sort_out(found)


def sort_out(found: dict[Week, Partition]) -> Discovery:
    """Tell live, sealed and orphaned files apart. Pure.

    Live is the unsealed file whose predecessor is sealed and names it, or that has no predecessor at all. Raises
    PartitionDamagedError when there are two, or when the week that the newest sealed file names is not there.
    """
    kept, orphans, live = {}, [], []
    for week, partition in found.items():
        before = found.get(partition.predecessor) if partition.predecessor else None
        if partition.state is PartitionState.LIVE and before is not None and before.successor != week:
            orphans.append(partition.path)
            continue
        kept[week] = partition
        if partition.state is PartitionState.LIVE:
            live.append(partition)
    if len(live) > 1:
        names = ", ".join(str(partition.path) for partition in live)
        raise PartitionDamagedError(
            f"two files claim to be the live week: {names}; keep the one with the newer bets and move the other away",
            path=live[0].path,
            reason="two live weeks",
        )
    sealed = [partition for partition in kept.values() if partition.state is PartitionState.SEALED]
    if not live and (sealed or kept):
        raise _no_live_week(kept, sealed)
    return Discovery(kept, live[0].week if live else None, orphans)


def _no_live_week(kept: dict[Week, Partition], sealed: list[Partition]) -> PartitionDamagedError:
    damaged = [partition for partition in kept.values() if partition.state is PartitionState.DAMAGED]
    if damaged:
        newest = damaged[-1]
        return PartitionDamagedError(
            f"no weekly file can take writes: {newest.problem}", path=newest.path, reason=newest.problem
        )
    newest = sealed[-1]
    return PartitionDamagedError(
        f"{newest.path} was sealed in favour of {newest.successor}, whose file is not there; bring it back",
        path=newest.path,
        reason="the live week is missing",
    )


def clean(family: Family, discovery: Discovery) -> list[Path]:
    """Remove staging leftovers and orphans; returns them. Only for who holds the family's lock."""
    leftovers = [*family.staging_files(), *discovery.orphans]
    for path in leftovers:
        remove(path)
    return leftovers


def sealed(partition: Partition, successor: Week) -> Partition:
    """Return the entry of a file that was just sealed in favour of `successor`."""
    return replace(partition, state=PartitionState.SEALED, successor=successor)
