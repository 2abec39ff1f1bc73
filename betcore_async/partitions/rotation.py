"""How the live week passes to a new one.

    1. staging file: schema at head; users, open bets and an opening of each ledger, copied from a snapshot   ┐ writers
    2. what was written meanwhile is brought along, twice, so that little is left                             ┘ go on
       (before the second time the folder's lock is taken: starts, too, go on until then)
    3. BEGIN IMMEDIATE on the old file; it must still be live                                  ┐
    4. the rest is brought along; counts and sums are compared                                 │ writers
    5. sync, rename to its own name, sync the folder                                           │ wait
    6. old file: state = sealed, successor = …; COMMIT with synchronous=FULL                   ┘ ← the one commit point

Killed before 6, the new file is an orphan (its predecessor is not sealed): it was never live, and the next attempt
replaces it. Killed after 6, the rotation is complete. A rival at work at the same time finds in 3 that it is too late.
"""

import asyncio
import contextlib
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from time import perf_counter

from betcore_async.config import Durability
from betcore_async.errors import RotationError
from betcore_async.partitions.carry import Carried
from betcore_async.partitions.catalog import inspect
from betcore_async.partitions.files import publish, remove
from betcore_async.partitions.meta import SEAL, PartitionState
from betcore_async.partitions.staging import Staging, Step
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import Link, link_to, open_raw
from betcore_async.sqlite.failures import translated
from betcore_async.sqlite.pool import SQLitePool
from betcore_async.sqlite.retry import retry_false
from betcore_async.tasks import finish, in_thread


def check_clock(target: Week, live: Week, limit: timedelta) -> None:
    """Refuse a week that the clock says and that lies further ahead than a downtime would explain."""
    if target.start - live.end > limit:
        raise RotationError(
            f"the clock says {target}, far ahead of the live week {live}; "
            f"check it, or name the week: rotate_to_new_week({target.name!r})",
            week=target,
        )


async def rotate(pool: SQLitePool, step: Step, budget: timedelta) -> tuple[Carried, float]:
    """Build and publish the file of `step.successor`, and seal the live file, which is that of `pool`, in its favour.

    For who holds the family's lock of rotations; that of the folder is waited for within `budget`. Returns what was
    carried, and since when writers wait (`perf_counter`): they can go on as soon as the pool of the successor is open.
    Raises RotationError, PartitionSealedError, StorageFullError, BusyTimeoutError, and what `pool.transaction()`
    raises; nothing is left behind then, and the old week stays live.
    """
    staging = Staging(step)
    try:
        async with _opened(staging) as link:
            # The copy takes long, the first catching up a fraction of that; the second leaves no more than is written
            # in moments.
            await link.run(staging.copy)
            await link.run(staging.catch_up)
            async with step.family.alone(budget):
                await link.run(staging.catch_up)
                async with pool.transaction(durability=Durability.FULL) as transaction:
                    blocked_since = perf_counter()
                    carried = await transaction.run(lambda raw: _hand_over(raw, staging, link.raw))
    except BaseException:
        await finish(asyncio.to_thread(remove, staging.path))
        raise
    return carried, blocked_since


@contextlib.asynccontextmanager
async def _opened(staging: Staging) -> AsyncIterator[Link]:
    """Open the staging file on a thread of its own; what goes wrong meanwhile is told as a failed rotation."""
    try:
        link = await link_to(staging.open)
        try:
            yield link
        finally:
            await link.close()
    except (OSError, sqlite3.Error) as error:
        if (told := translated(error)) is not error:  # a full disk
            raise told from error
        reason, week = getattr(error, "strerror", None) or error, staging.step.successor
        raise RotationError(f"cannot make {staging.final}: {reason}; the old week stays live", week=week) from error


def _hand_over(raw: sqlite3.Connection, staging: Staging, new: sqlite3.Connection) -> Carried:
    """Complete and publish the new file, and seal the old one; with the COMMIT on `raw` the successor is live."""
    step = staging.step
    _check_place(staging.final, step)
    carried = staging.complete(new)
    publish(staging.path, staging.final)
    raw.execute(SEAL, (step.successor.name, max(step.now, step.week.starts_at)))
    return carried


def _check_place(final: Path, step: Step) -> None:
    """Refuse to put a file in the place of one that is not left over from a rotation that was cut."""
    if not os.path.lexists(final):
        return
    there = inspect(final, step.successor, step.migrations[-1].version)
    if there.state is not PartitionState.LIVE or there.predecessor != step.week:
        what = there.problem or f"{final} is there already ({there.state}, predecessor {there.predecessor})"
        raise RotationError(f"{what}; move it away, then rotate again", week=step.successor, path=final)


def finalize(path: Path) -> bool:
    """Turn a sealed file into a plain read-only one: no WAL, no side files, mode 0400.

    False while somebody still has it open, and where it cannot be done at all; it can be repeated at any time, and
    reading does not depend on it.
    """
    try:
        if not path.stat().st_mode & stat.S_IWUSR:
            if not any(path.with_name(path.name + side).exists() for side in ("-wal", "-journal")):
                return True
            path.chmod(stat.S_IRUSR | stat.S_IWUSR)  # protected by somebody else while a part was in its log
        with closing(open_raw(path, readonly=False)) as raw:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            (mode,) = raw.execute("PRAGMA journal_mode = DELETE").fetchone()
        if mode == "delete":
            path.chmod(stat.S_IRUSR)
    except (sqlite3.Error, OSError):
        return False
    return bool(mode == "delete")


async def make_whole(path: Path, budget: timedelta) -> bool:
    """Bring all that a sealed week holds into its one file, so that it may be moved without its -wal.

    False where a reader, in whatever process, keeps that from being done for as long as `budget`. A moment is nothing
    unusual: two processes that finalize a week at a time are in each other's way.
    """
    return await retry_false(lambda: in_thread(lambda _: finalize(path) or _checkpointed(path)), budget)


def _checkpointed(path: Path) -> bool:
    try:
        with closing(open_raw(path, readonly=False)) as raw:
            busy, logged, moved = raw.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    except sqlite3.Error:
        return False
    return not busy and logged == moved
