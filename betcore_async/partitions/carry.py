"""What a new week takes over from the old one: for each table how it is copied, caught up with, and checked.

All of it is SQL between two files: `old` is the live week, read-only, `main` the week to be, its triggers off. The copy
is made once, from a snapshot, while writers go on. To catch up is to make `main` equal to `old` again, whatever was
written since: as often as one likes while writers go on, and a last time under the write lock, when `old` stands still.

Nothing here asks for the time of a change, because clocks step back. What changed is found

- among the open bets by comparing all of them, in both directions. A bet moves on from pending to confirmed to decided
  and never back, and its terms are fixed, so the columns of the index `bets_open_by_cell` tell whether it changed;
- among the users by the ledger entries behind `:mark`, the last one that was there when the copy was made or caught up
  with before. That no balance changes without an entry is not taken for granted: versions only grow, so one user
  that was missed would leave the sums of the versions apart.

A table that is to be carried too adds a `Carry` of its own to `CARRIED`. Where it is small, `copy` may be empty, and
`catch_up` may delete all rows and insert them anew. Parameters of all statements: `:mark`, `:now` (microseconds, within
the new week) and `:ms` (the same in milliseconds, for `NEW_ID`).
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from betcore_async.errors import RotationError
from betcore_async.ids import SQL_UUID7 as NEW_ID

_OPEN = "status IN ('pending', 'confirmed')"


@dataclass(frozen=True, slots=True)
class Carry:
    """One table (or one kind of its rows) that goes on in the new week."""

    what: str
    """What the rows are, for people."""
    copy: str
    """Fills the table from a snapshot; may be empty."""
    catch_up: tuple[str, ...]
    """Makes the table equal to what `old` holds now, from any state that it had between the copy and now."""
    expected: str
    """What there is to be carried, in sums: the columns that `found` returns, but read from `old`."""
    found: str
    """What was carried. The first column of both is the number of rows."""


_USER_COLUMNS = "id, wallet_address, balance, version, created_at, updated_at"

_CHANGED_USERS = "id IN (SELECT user_id FROM old.ledger_entries NOT INDEXED WHERE rowid > :mark)"

# Sums of balances near 2^63 would overflow: their upper and lower halves are added up apart.
_USER_SUMS = """
SELECT count(*), sum(balance >> 32), sum(balance & 4294967295), sum(version)
FROM {schema}.users
"""

USERS = Carry(
    what="users",
    copy=f"""
INSERT INTO main.users ({_USER_COLUMNS})
SELECT {_USER_COLUMNS}
FROM old.users
ORDER BY rowid
""",
    catch_up=(
        f"""
INSERT INTO main.users ({_USER_COLUMNS})
SELECT {_USER_COLUMNS}
FROM old.users
WHERE {_CHANGED_USERS}
ON CONFLICT (id) DO UPDATE
SET balance = excluded.balance, version = excluded.version, updated_at = excluded.updated_at
""",
    ),
    expected=_USER_SUMS.format(schema="old"),
    found=_USER_SUMS.format(schema="main"),
)

_OPENING = f"""
INSERT INTO main.ledger_entries (id, user_id, version, amount, balance_after, ref_type, ref_id, created_at)
SELECT {NEW_ID}, id, version, balance, balance, 'carry_forward', id, :now
FROM main.users
"""

OPENINGS = Carry(
    what="openings of the ledger",
    copy=f"""{_OPENING}
ORDER BY rowid
""",
    catch_up=(
        f"""{_OPENING}
WHERE {_CHANGED_USERS}
ON CONFLICT (ref_id, ref_type) DO UPDATE
SET version = excluded.version, amount = excluded.amount, balance_after = excluded.balance_after
""",
    ),
    expected=_USER_SUMS.format(schema="old"),
    found="""
SELECT count(*), sum(amount >> 32), sum(balance_after & 4294967295), sum(version)
FROM main.ledger_entries
WHERE ref_type = 'carry_forward'
""",
)

_BET_COLUMNS = "id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at, payout_amount, confirmed_at"

# In the order of the index, so that two sorted lists are walked side by side.
_OPEN_BETS_APART = f"""
SELECT id
FROM (
    SELECT cell_id, id, status, amount FROM {{one}}.bets WHERE {_OPEN}
    EXCEPT
    SELECT cell_id, id, status, amount FROM {{other}}.bets WHERE {_OPEN}
    ORDER BY 1, 2, 3, 4
)
"""

_OPEN_BET_SUMS = f"""
SELECT count(*), count(*) FILTER (WHERE status = 'pending'), sum(amount >> 32), sum(amount & 4294967295)
FROM {{schema}}.bets
WHERE {_OPEN}
"""

OPEN_BETS = Carry(
    what="open bets",
    copy=f"""
INSERT INTO main.bets ({_BET_COLUMNS})
SELECT {_BET_COLUMNS}
FROM old.bets
WHERE {_OPEN}
ORDER BY id
""",
    catch_up=(
        f"""
DELETE FROM main.bets
WHERE id IN ({_OPEN_BETS_APART.format(one="main", other="old")})
""",
        f"""
INSERT INTO main.bets ({_BET_COLUMNS})
SELECT {_BET_COLUMNS}
FROM old.bets
WHERE id IN ({_OPEN_BETS_APART.format(one="old", other="main")})
""",
    ),
    expected=_OPEN_BET_SUMS.format(schema="old"),
    found=_OPEN_BET_SUMS.format(schema="main"),
)

_CELL_COLUMNS = "cell_id, chunk, won, upto, bets, payout, unpaid, is_last, settled_at"

# What is closed stays closed for at least one more week; a settlement that was cut off is remembered until its end, and
# one with winners who could not be paid for ever: they may still be open, and must not lose under the name's next use.
# The last moment of a week stands for all the time until somebody rotated, so it may have been only just before the old
# week was born: what was settled then goes on until seven days have passed since. The birth of a week that was over by
# then is noted at its last moment, too.
STAYS_CLOSED = """
SELECT cell_id
FROM {before}.cell_settlements
GROUP BY cell_id
HAVING max(settled_at) >= (SELECT starts_at FROM {before}.partition_meta)
    OR max(is_last) = 0
    OR max(unpaid) > 0
    OR (
        (max(settled_at) + 1 - 345600000000) % 604800000000 = 0
        AND (
            SELECT (old.created_at + 1 - 345600000000) % 604800000000 = 0
                OR new.created_at - old.created_at < 604800000000
            FROM {before}.partition_meta AS old
            CROSS JOIN {this}.partition_meta AS new
        )
    )
"""
"""Which cells of the week in schema `before` are still closed in the next one, `this`: for the copy and its audit."""

# Rows are never changed, and what is to be carried remains so: what is there already is right.
_CLOSED_CELLS = f"""
FROM old.cell_settlements
WHERE cell_id IN ({STAYS_CLOSED.format(before="old", this="main")})
"""

_COPY_CLOSED_CELLS = f"""
INSERT OR IGNORE INTO main.cell_settlements ({_CELL_COLUMNS})
SELECT {_CELL_COLUMNS}
{_CLOSED_CELLS}
ORDER BY cell_id, chunk
"""

_CELL_SUMS = """
SELECT count(*), sum(chunk), sum(bets), sum(unpaid), sum(payout >> 32), sum(payout & 4294967295)
"""

CLOSED_CELLS = Carry(
    what="closed cells",
    copy=_COPY_CLOSED_CELLS,
    catch_up=(_COPY_CLOSED_CELLS,),
    expected=_CELL_SUMS + _CLOSED_CELLS,
    found=_CELL_SUMS + "FROM main.cell_settlements",
)

_LAST_HASH = "SELECT hash FROM old.ledger_chain ORDER BY seq DESC LIMIT 1"

CHAIN = Carry(
    what="hash of the ledger",
    copy="",
    catch_up=(
        "DELETE FROM main.ledger_chain",
        f"""
INSERT INTO main.ledger_chain (seq, upto, hash)
SELECT 0, (SELECT coalesce(max(position), 0) FROM main.ledger_entries), hash
FROM ({_LAST_HASH})
""",
    ),
    expected=f"SELECT count(*), hash FROM ({_LAST_HASH})",
    found="SELECT count(*), hash FROM main.ledger_chain",
)

_CURSOR_COLUMNS = "id, week, position, seq, base"

# It goes on pointing into the old week, where the next event lies: events that were not told yet stay there.
OUTBOX_CURSOR = Carry(
    what="cursor of the outbox",
    copy="",
    catch_up=(
        "DELETE FROM main.outbox_cursor",
        f"INSERT INTO main.outbox_cursor ({_CURSOR_COLUMNS}) SELECT {_CURSOR_COLUMNS} FROM old.outbox_cursor",
    ),
    expected="SELECT count(*), max(week), max(position), max(seq), max(base) FROM old.outbox_cursor",
    found="SELECT count(*), max(week), max(position), max(seq), max(base) FROM main.outbox_cursor",
)

CARRIED: tuple[Carry, ...] = (USERS, OPENINGS, OPEN_BETS, CLOSED_CELLS, CHAIN, OUTBOX_CURSOR)
"""In the order in which they are copied and caught up with."""

_MARK = "SELECT coalesce(max(rowid), 0) FROM old.ledger_entries"


@dataclass(frozen=True, slots=True)
class Carried:
    """What a new week took over from the old one."""

    users: int
    open_bets: int


def copy_all(raw: sqlite3.Connection, now: int) -> int:
    """Copy every table, inside a transaction of the caller. Returns the mark to catch up from."""
    mark: int = raw.execute(_MARK).fetchone()[0]
    for carry in CARRIED:
        if carry.copy:
            raw.execute(carry.copy, _parameters(mark, now))
    return mark


def catch_up_all(raw: sqlite3.Connection, mark: int, now: int) -> tuple[int, int]:
    """Bring what was written since `mark`, inside a transaction of the caller. Returns the new mark and a row count."""
    parameters, before = _parameters(mark, now), raw.total_changes
    mark = raw.execute(_MARK).fetchone()[0]
    for carry in CARRIED:
        for statement in carry.catch_up:
            raw.execute(statement, parameters)
    return mark, raw.total_changes - before


def check_all(raw: sqlite3.Connection) -> Carried:
    """Raise RotationError where the new week does not hold what the old one does; `old` must stand still."""
    counts = {}
    for carry in CARRIED:
        before, after = (tuple(raw.execute(query).fetchone()) for query in (carry.expected, carry.found))
        if before != after:
            raise RotationError(
                f"the new week does not hold the {carry.what} of the old one: {after} instead of {before} "
                "(number and sums); the old week stays live",
                before=before,
                after=after,
            )
        counts[carry.what] = after[0]
    return Carried(users=counts[USERS.what], open_bets=counts[OPEN_BETS.what])


def _parameters(mark: int, now: int) -> Mapping[str, int]:
    return {"mark": mark, "now": now, "ms": now // 1000}
