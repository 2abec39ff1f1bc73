"""How a weekly file is born, and how the live week passes to a new one. Synchronous: runs on a connection's thread.

A rotation holds the write lock of the old file throughout, so nothing can change under it:

    1. BEGIN IMMEDIATE on the old file; it must still be live
    2. build the new file under a staging name: schema at head, users, open bets, an opening ledger entry for each user
    3. compare counts and sums with the old file
    4. sync, rename to its own name, sync the folder
    5. old file: state = sealed, successor = …; COMMIT with synchronous=FULL      ← the one commit point

Killed before 5, the new file is an orphan (its predecessor is not sealed): it was never live, and the next attempt
replaces it. Killed after 5, the rotation is complete.
"""

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from betcore_async.errors import PartitionSealedError, RotationError
from betcore_async.partitions.catalog import inspect
from betcore_async.partitions.files import Family, publish, remove
from betcore_async.partitions.meta import SEAL, PartitionState, read_meta, write_meta
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import create_private, open_raw
from betcore_async.sqlite.migration_files import Migration
from betcore_async.sqlite.migration_runner import migrate_connection
from betcore_async.sqlite.retry import error_code

_OPEN = "status IN ('pending', 'confirmed')"

_COPY_USERS = """
INSERT INTO main.users (id, wallet_address, balance, version, created_at, updated_at)
SELECT id, wallet_address, balance, version, created_at, updated_at
FROM old.users
ORDER BY id
"""

_COPY_OPEN_BETS = f"""
INSERT INTO main.bets (
    id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at, payout_amount, confirmed_at
)
SELECT id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at, payout_amount, confirmed_at
FROM old.bets
WHERE {_OPEN}
ORDER BY id
"""

# What is closed stays closed for at least one more week; a settlement that was cut off is remembered until its end.
_COPY_CLOSED_CELLS = """
INSERT INTO main.cell_settlements (cell_id, chunk, won, upto, bets, payout, unpaid, is_last, settled_at)
SELECT cell_id, chunk, won, upto, bets, payout, unpaid, is_last, settled_at
FROM old.cell_settlements
WHERE cell_id IN (
    SELECT cell_id
    FROM old.cell_settlements
    GROUP BY cell_id
    HAVING max(settled_at) >= (SELECT starts_at FROM old.partition_meta) OR max(is_last) = 0
)
ORDER BY cell_id, chunk
"""

_CARRY_FORWARD = """
INSERT INTO main.ledger_entries (id, user_id, version, amount, balance_after, ref_type, ref_id, created_at)
SELECT new_id(), id, version, balance, balance, 'carry_forward', id, :now
FROM old.users
ORDER BY id
"""

_TOTALS = f"""
SELECT users, balance_high, balance_low, versions, bets, amount_high, amount_low
FROM (
    SELECT count(*) AS users, sum(balance >> 32) AS balance_high, sum(balance & 4294967295) AS balance_low,
        sum(version) AS versions
    FROM {{schema}}.users
), (
    SELECT count(*) AS bets, sum(amount >> 32) AS amount_high, sum(amount & 4294967295) AS amount_low
    FROM {{schema}}.bets
    WHERE {_OPEN}
)
"""
"""Sums of balances near 2^63 would overflow: their upper and lower halves are added up apart."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a new week took over from the old one."""

    users: int
    open_bets: int


def check_clock(target: Week, live: Week, limit: timedelta) -> None:
    """Refuse a week that the clock says and that lies further ahead than a downtime would explain."""
    if target.start - live.end > limit:
        raise RotationError(
            f"the clock says {target}, far ahead of the live week {live}; "
            f"check it, or name the week: rotate_to_new_week({target.name!r})",
            week=target,
        )


def hand_over(
    raw: sqlite3.Connection,
    family: Family,
    week: Week,
    successor: Week,
    *,
    migrations: tuple[Migration, ...],
    now: int,
    new_id: Callable[[], str],
) -> Carried:
    """Build and publish the file of `successor`, and seal the live file of `week` in its favour.

    `raw` is a connection to the live file, inside a write transaction: with its COMMIT the successor is live. Raises
    RotationError, PartitionSealedError, StorageFullError; the caller rolls back, and the old week stays live.
    """
    path, final, staging = family.path_of(week), family.path_of(successor), family.new_staging(successor)
    meta = read_meta(raw, path)
    if meta.successor is not None:
        raise PartitionSealedError(f"{path} is sealed already", successor=meta.successor)
    _check_place(final, successor, week, migrations[-1].version)
    try:
        carried = build(staging, successor, migrations, now, predecessor=(week, path), new_id=new_id)
        publish(staging, final)
        raw.execute(SEAL, (successor.name, max(now, week.starts_at)))
    except (OSError, sqlite3.Error) as error:
        remove(staging)
        if error_code(error) & 0xFF == sqlite3.SQLITE_FULL:
            raise
        reason = getattr(error, "strerror", None) or error
        raise RotationError(f"cannot make {final}: {reason}; the old week stays live", week=successor) from error
    return carried


def _check_place(final: Path, successor: Week, week: Week, head: int) -> None:
    """Refuse to put a file in the place of one that is not left over from a rotation that was cut."""
    if not os.path.lexists(final):
        return
    there = inspect(final, successor, head)
    if there.state is not PartitionState.LIVE or there.predecessor != week:
        what = there.problem or f"{final} is there already ({there.state}, predecessor {there.predecessor})"
        raise RotationError(f"{what}; move it away, then rotate again", week=successor, path=final)


def build(
    staging: Path,
    week: Week,
    migrations: tuple[Migration, ...],
    now: int,
    *,
    predecessor: tuple[Week, Path] | None = None,
    new_id: Callable[[], str],
) -> Carried:
    """Write a complete weekly file to `staging`; nothing is left behind when it raises.

    With a `predecessor`, whose write lock the caller holds, it takes over users and open bets. `now` in microseconds.
    """
    create_private(staging)
    try:
        with closing(open_raw(staging, readonly=False)) as raw:
            _prepare(raw, migrations)
            return _fill(raw, week, week.clamp(now), predecessor, new_id)
    except BaseException:
        remove(staging)
        raise


def _prepare(raw: sqlite3.Connection, migrations: tuple[Migration, ...]) -> None:
    # Nobody sees the file before it is complete and synced: it needs no journal of its own.
    raw.execute("PRAGMA journal_mode = OFF")
    raw.execute("PRAGMA synchronous = OFF")
    raw.execute("PRAGMA trusted_schema = OFF")
    migrate_connection(raw, migrations)


def _fill(
    raw: sqlite3.Connection, week: Week, now: int, predecessor: tuple[Week, Path] | None, new_id: Callable[[], str]
) -> Carried:
    if predecessor is not None:
        raw.execute("ATTACH DATABASE ? AS old", (f"file:{quote(str(predecessor[1].absolute()))}?mode=ro",))
    raw.execute("BEGIN IMMEDIATE")
    write_meta(raw, week, predecessor and predecessor[0], now)
    carried = Carried(0, 0) if predecessor is None else _carry_over(raw, now, new_id)
    raw.execute("COMMIT")
    if predecessor is not None:
        raw.execute("DETACH DATABASE old")
    raw.execute("PRAGMA journal_mode = WAL")
    return carried


def _carry_over(raw: sqlite3.Connection, now: int, new_id: Callable[[], str]) -> Carried:
    raw.create_function("new_id", 0, new_id)
    raw.execute(_COPY_USERS)
    raw.execute(_COPY_OPEN_BETS)
    raw.execute(_COPY_CLOSED_CELLS)
    raw.execute(_CARRY_FORWARD, {"now": now})
    before, after = (tuple(raw.execute(_TOTALS.format(schema=schema)).fetchone()) for schema in ("old", "main"))
    if before != after:
        raise RotationError(
            f"the new week does not hold what the old one did (users, balances, versions, open bets, amounts): "
            f"{after} instead of {before}; the old week stays live",
            before=before,
            after=after,
        )
    return Carried(users=after[0], open_bets=after[4])


def finalize(path: Path) -> bool:
    """Turn a sealed file into a plain read-only one: no WAL, no side files, mode 0400.

    False while somebody still has it open, and where it cannot be done at all; it can be repeated at any time, and
    reading does not depend on it.
    """
    try:
        if not path.stat().st_mode & stat.S_IWUSR:
            return True
        with closing(open_raw(path, readonly=False)) as raw:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            (mode,) = raw.execute("PRAGMA journal_mode = DELETE").fetchone()
        if mode == "delete":
            path.chmod(stat.S_IRUSR)
    except (sqlite3.Error, OSError):
        return False
    return bool(mode == "delete")


def make_whole(path: Path) -> bool:
    """Bring all that a sealed week holds into its one file, so that it may be moved without its -wal.

    False while a reader, in whatever process, keeps that from being done.
    """
    if finalize(path):
        return True
    try:
        with closing(open_raw(path, readonly=False)) as raw:
            busy, logged, moved = raw.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    except sqlite3.Error:
        return False
    return not busy and logged == moved
