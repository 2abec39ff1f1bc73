"""One change of the schema, carried over every weekly file, with a result for each.

The live file goes first: it is the one the service needs, and the canary for all others. When its migration fails, the
others are not touched, so that all weeks stay at the version the running code reads. Once it went well, an error in
one file keeps no other from its turn.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from betcore_async.errors import BetcoreError, BusyTimeoutError, MigrationError, PartitionDamagedError
from betcore_async.partitions.catalog import Partition, inspect
from betcore_async.partitions.files import Family, remove
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.rotation import finalize
from betcore_async.partitions.week import Week
from betcore_async.sqlite.migrations import AppliedMigration, Migrator
from betcore_async.sqlite.retry import retry_busy
from betcore_async.sqlite.rewrite import is_read_only
from betcore_async.tasks import finish

Move = Callable[[Path], Awaitable[Sequence[AppliedMigration]]]
"""What is done to each file, such as `migrator.up`."""


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one weekly file."""

    week: Week
    path: Path
    state: PartitionState
    version: int | None
    """Version of its schema now; None where that cannot be told."""
    steps: tuple[AppliedMigration, ...]
    """The steps that were taken, in order."""
    error: BetcoreError | None
    """Why it was not brought to where it should be."""


OnResult = Callable[[FileResult], None]


async def migrate_all(
    family: Family, migrator: Migrator, target: int | None = None, *, on_result: OnResult | None = None
) -> list[FileResult]:
    """Bring every weekly file up to version `target` (default: the newest), the live one first.

    `on_result` is called after each file. An error of a file is in its result; raised are only those of the migrations
    themselves, of the folder, and BusyTimeoutError while another process opens, migrates or rotates the family.
    """
    return await move_all(family, migrator, lambda path: migrator.up(path, target), on_result=on_result)


async def move_all(
    family: Family, migrator: Migrator, move: Move, *, on_result: OnResult | None = None
) -> list[FileResult]:
    """Do `move` to every weekly file, like `migrate_all`. A file that it brings to version 0 is empty, and removed."""
    if not weekly_files(family):
        return []
    async with family.alone(migrator.settings.busy_timeout):  # a start-up would clean up the copies made here
        return await move_each(await look(family, migrator), migrator, move, on_result=on_result)


async def move_each(
    partitions: Iterable[Partition], migrator: Migrator, move: Move, *, on_result: OnResult | None = None
) -> list[FileResult]:
    """Do `move` to these files, like `move_all`, for who holds the family's lock."""
    results: list[FileResult] = []
    canary: Path | None = None
    for entry in in_order(partitions):
        if canary is None:
            result = await _move_one(entry, migrator, move)
        else:
            result = _failed(entry, MigrationError(f"not touched, because {canary} failed", path=str(entry.path)))
        if result.error is not None and entry.state is PartitionState.LIVE:
            canary = canary or entry.path
        results.append(result)
        if on_result is not None:
            on_result(result)
    return results


def in_order(partitions: Iterable[Partition]) -> list[Partition]:
    """Return the live file first, then the others from the newest to the oldest."""
    newest_first = sorted(partitions, key=lambda entry: entry.week, reverse=True)
    return sorted(newest_first, key=lambda entry: entry.state is not PartitionState.LIVE)


def weekly_files(family: Family) -> dict[Week, Path]:
    """Return the weekly files, oldest first; none where there is no folder."""
    return family.weekly_files() if family.folder.is_dir() else {}


async def look(family: Family, migrator: Migrator) -> list[Partition]:
    """Return what each weekly file says of itself, oldest first. Changes nothing."""
    return [await _inspect(path, week, migrator) for week, path in weekly_files(family).items()]


def at_version(entry: Partition, version: int) -> Partition:
    """Return the entry itself, or, for a sealed file of another schema version, one that says it cannot be read."""
    if entry.state is not PartitionState.SEALED or entry.schema_version == version:
        return entry
    problem = other_version(entry, version)
    return Partition(entry.week, entry.path, PartitionState.DAMAGED, entry.schema_version, problem=problem)


def is_news(entry: Partition | None, path: Path, week: Week, head: int) -> bool:
    """Tell whether a week that could not be read when the catalog was made has a file now, or another one."""
    if not os.path.lexists(path):
        return False
    if entry is None or entry.state is PartitionState.ARCHIVED:
        return True
    return entry.state is PartitionState.DAMAGED and at_version(inspect(path, week, head), head) != entry


def other_version(entry: Partition, wanted: int) -> str:
    """Return what is wrong with a file of another schema version, and what to do about it."""
    return f"{entry.path} has schema version {entry.schema_version}, this code needs {wanted}; run `betcore migrate up`"


async def _inspect(path: Path, week: Week, migrator: Migrator) -> Partition:
    head = migrator.migrations[-1].version
    try:
        return await retry_busy(
            lambda: finish(asyncio.to_thread(inspect, path, week, head)),
            migrator.settings.busy_timeout,
            f"reading {path}",
        )
    except BusyTimeoutError as error:
        return Partition(week, path, PartitionState.DAMAGED, problem=error.message)


async def _move_one(entry: Partition, migrator: Migrator, move: Move) -> FileResult:
    if entry.state is PartitionState.DAMAGED:
        problem = entry.problem if str(entry.path) in entry.problem else f"{entry.path}: {entry.problem}"
        return _failed(entry, PartitionDamagedError(problem, path=entry.path, reason=entry.problem))
    # Only a file that was made read-only is replaced by a copy. One that is still open somewhere is changed in place,
    # which is as safe, and made read-only after it or at the next start.
    unfinished = entry.state is PartitionState.SEALED and not is_read_only(entry.path)
    try:
        if unfinished:
            await finish(asyncio.to_thread(finalize, entry.path))
        steps = tuple(await move(entry.path))
        version = (await migrator.status(entry.path)).current
        if version == 0:
            await finish(asyncio.to_thread(remove, entry.path))
        elif unfinished:
            await finish(asyncio.to_thread(finalize, entry.path))
    except BetcoreError as error:
        # Looked at again: some steps may have been taken before the one that failed.
        return _failed(await _inspect(entry.path, entry.week, migrator), error)
    return FileResult(entry.week, entry.path, entry.state, version, steps, None)


def _failed(entry: Partition, error: BetcoreError) -> FileResult:
    version = None if entry.state is PartitionState.DAMAGED else entry.schema_version
    return FileResult(entry.week, entry.path, entry.state, version, (), error)
