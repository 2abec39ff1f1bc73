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

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from betcore_async.errors import RotationError
from betcore_async.partitions.files import remove
from betcore_async.partitions.meta import write_meta
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import create_private, open_raw
from betcore_async.sqlite.migration_files import Migration
from betcore_async.sqlite.migration_runner import migrate_connection

_OPEN = "status IN ('pending', 'confirmed')"

_COPY_USERS = """
INSERT INTO main.users (id, wallet_address, balance, version, created_at, updated_at)
SELECT id, wallet_address, balance, version, created_at, updated_at
FROM old.users
ORDER BY id
"""

_COPY_OPEN_BETS = f"""
INSERT INTO main.bets (id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at, payout_amount)
SELECT id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at, payout_amount
FROM old.bets
WHERE {_OPEN}
ORDER BY id
"""

_CARRY_FORWARD = """
INSERT INTO main.ledger_entries (id, user_id, version, amount, balance_after, ref_type, ref_id, created_at)
SELECT new_id(), id, version, balance, balance, 'carry_forward', id, :now
FROM old.users
ORDER BY id
"""

_TOTALS = f"""
SELECT
    (SELECT count(*) FROM {{schema}}.users),
    (SELECT coalesce(sum(balance), 0) FROM {{schema}}.users),
    (SELECT coalesce(sum(version), 0) FROM {{schema}}.users),
    (SELECT count(*) FROM {{schema}}.bets WHERE {_OPEN}),
    (SELECT coalesce(sum(amount), 0) FROM {{schema}}.bets WHERE {_OPEN})
"""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a new week took over from the old one."""

    users: int
    balance: int
    open_bets: int
    open_amount: int


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
        raw = open_raw(staging, readonly=False)
        try:
            _prepare(raw, migrations)
            return _fill(raw, week, now, predecessor, new_id)
        finally:
            raw.close()
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
    carried = Carried(0, 0, 0, 0) if predecessor is None else _carry_over(raw, now, new_id)
    raw.execute("COMMIT")
    if predecessor is not None:
        raw.execute("DETACH DATABASE old")
    raw.execute("PRAGMA journal_mode = WAL")
    return carried


def _carry_over(raw: sqlite3.Connection, now: int, new_id: Callable[[], str]) -> Carried:
    raw.create_function("new_id", 0, new_id)
    raw.execute(_COPY_USERS)
    raw.execute(_COPY_OPEN_BETS)
    raw.execute(_CARRY_FORWARD, {"now": now})
    before, after = (tuple(raw.execute(_TOTALS.format(schema=schema)).fetchone()) for schema in ("old", "main"))
    if before != after:
        raise RotationError(
            f"the new week does not hold what the old one did (users, balance, versions, open bets, amount): "
            f"{after} instead of {before}; the old week stays live",
            before=before,
            after=after,
        )
    users, balance, _, open_bets, open_amount = after
    return Carried(users, balance, open_bets, open_amount)


def finalize(path: Path) -> bool:
    """Turn a sealed file into a plain read-only one: no WAL, no side files, mode 0400.

    False while somebody still has it open; it can be repeated at any time, and reading does not depend on it.
    """
    if not path.stat().st_mode & 0o200:
        return True
    raw = open_raw(path, readonly=False)
    try:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (mode,) = raw.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.OperationalError:
        return False
    finally:
        raw.close()
    if mode == "delete":
        path.chmod(0o400)
    return bool(mode == "delete")
