"""Settling many bets of a cell at once: a few statements for a chunk, however many bets it has.

`cell_settlements` has a row for each chunk. The first one closes the cell; a repeated one is answered from its row.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from betcore_async.errors import ModelError
from betcore_async.models import MAX_MONEY
from betcore_async.stores.commands import ChunkSettlement, SettleChunk
from betcore_async.stores.sqlite_commands import INSERT_ENTRY, PAYOUT, Books, insist_settled_as

_CHUNKS = """
SELECT chunk, upto, bets, payout, unpaid, is_last
FROM cell_settlements
WHERE cell_id = ? AND chunk <= ?
ORDER BY chunk DESC
LIMIT 2
"""

_INSERT_CHUNK = """
INSERT INTO cell_settlements (cell_id, chunk, won, upto, bets, payout, unpaid, is_last, settled_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_OPEN = "cell_id = :cell_id AND id > :after AND status IN ('pending', 'confirmed')"

_NEXT = f"""
SELECT id, user_id, {PAYOUT}
FROM bets
WHERE {_OPEN}
ORDER BY id
LIMIT :size
"""

_NEXT_END = f"""
SELECT count(*), max(id)
FROM (
    SELECT id
    FROM bets
    WHERE {_OPEN}
    ORDER BY id
    LIMIT :size
)
"""

_ANY_BEHIND = f"SELECT EXISTS (SELECT 1 FROM bets WHERE {_OPEN})"

_STILL_OPEN = f"SELECT id FROM bets WHERE {_OPEN} AND id <= :upto ORDER BY id"

_LOSE = f"""
UPDATE bets
SET status = 'lost', resolved_at = max(placed_at, :now)
WHERE {_OPEN} AND id <= :upto
"""

_WIN = f"""
UPDATE bets
SET status = 'won', resolved_at = max(placed_at, :now), payout_amount = {PAYOUT}
WHERE {_OPEN} AND id <= :upto AND id NOT IN (SELECT value FROM json_each(:unpaid))
"""

_ACCOUNTS = """
SELECT id, balance, version
FROM users
WHERE id IN (SELECT value FROM json_each(?))
"""

_PAY = """
UPDATE users
SET balance = ?, version = ?, updated_at = max(updated_at, ?)
WHERE id = ?
"""


@dataclass(slots=True)
class _Wins:
    """What a chunk of winners comes to, before anything is written."""

    accounts: dict[str, tuple[int, int]]
    """Balance and version of each user, after all payouts."""
    entries: list[tuple[Any, ...]] = field(default_factory=list)
    unpaid: list[str] = field(default_factory=list)
    paid: int = 0


def settle_chunk(books: Books, command: SettleChunk) -> ChunkSettlement:
    insist_settled_as(books.raw, command.cell_id, won=command.won)
    rows = books.raw.execute(_CHUNKS, (command.cell_id, command.number)).fetchall()
    before = {row["chunk"]: row for row in rows}
    previous = before.get(command.number - 1)
    after = previous["upto"] if previous else ""
    if command.number in before:
        return _as_settled(books.raw, command, after, before[command.number])
    if previous is None and command.number > 1:
        raise ModelError(f"chunk {command.number} comes before the one that it follows", field="number")
    if previous is not None and previous["is_last"]:
        return ChunkSettlement(0, 0, (), is_last=True, replayed=True)
    return _win(books, command, after) if command.won else _lose(books, command, after)


def _as_settled(raw: sqlite3.Connection, command: SettleChunk, after: str, row: Any) -> ChunkSettlement:
    unpaid: tuple[str, ...] = ()
    if row["unpaid"]:
        chunk = {"cell_id": command.cell_id, "after": after, "upto": row["upto"]}
        unpaid = tuple(bet_id for (bet_id,) in raw.execute(_STILL_OPEN, chunk))
    return ChunkSettlement(row["bets"], row["payout"], unpaid, is_last=bool(row["is_last"]), replayed=True)


def _lose(books: Books, command: SettleChunk, after: str) -> ChunkSettlement:
    chunk = {"cell_id": command.cell_id, "after": after, "size": command.size, "now": books.now}
    count, last = books.raw.execute(_NEXT_END, chunk).fetchone()
    upto = last or after
    settled = _note(books, command, upto, (count, 0, ()))
    books.raw.execute(_LOSE, chunk | {"upto": upto})
    return settled


def _win(books: Books, command: SettleChunk, after: str) -> ChunkSettlement:
    chunk = {"cell_id": command.cell_id, "after": after, "size": command.size, "now": books.now}
    winners = _payable(books.raw.execute(_NEXT, chunk).fetchall())
    upto = winners[-1][0] if winners else after
    wins = _work_out(books, winners)
    settled = _note(books, command, upto, (len(wins.entries), wins.paid, tuple(wins.unpaid)))
    paid = {entry[1] for entry in wins.entries}
    books.raw.executemany(_PAY, [(*wins.accounts[user_id], books.now, user_id) for user_id in paid])
    books.raw.executemany(INSERT_ENTRY, wins.entries)
    books.raw.execute(_WIN, chunk | {"upto": upto, "unpaid": json.dumps(wins.unpaid)})
    return settled


def _note(books: Books, command: SettleChunk, upto: str, decided: tuple[int, int, tuple[str, ...]]) -> ChunkSettlement:
    """Write the row of a chunk: first of all, so that nothing is decided of which it does not tell."""
    bets, payout, unpaid = decided
    (more,) = books.raw.execute(_ANY_BEHIND, {"cell_id": command.cell_id, "after": upto}).fetchone()
    row = (command.cell_id, command.number, command.won, upto, bets, payout, len(unpaid), not more, books.now)
    books.raw.execute(_INSERT_CHUNK, row)
    return ChunkSettlement(bets, payout, unpaid, is_last=not more)


def _payable(winners: list[Any]) -> list[Any]:
    """Cut a chunk off where the sum of its payouts would not fit the column that keeps it."""
    total = 0
    for place, (_, _, amount) in enumerate(winners):
        total += amount
        if total > MAX_MONEY:
            return winners[:place]
    return winners


def _work_out(books: Books, winners: Sequence[Any]) -> _Wins:
    """Work out what paying each of `winners` (id, user_id, payout) in turn comes to."""
    wins = _Wins(_accounts(books.raw, {row[1] for row in winners}))
    ids = books.new_id.many(len(winners), books.now)
    for entry_id, (bet_id, user_id, amount) in zip(ids, winners, strict=True):
        balance, version = wins.accounts[user_id]
        balance, version = balance + amount, version + 1
        if balance > MAX_MONEY:
            wins.unpaid.append(bet_id)
            continue
        wins.accounts[user_id] = (balance, version)
        wins.entries.append((entry_id, user_id, version, amount, balance, "payout", bet_id, None, books.now))
        wins.paid += amount
    return wins


def _accounts(raw: sqlite3.Connection, user_ids: set[str]) -> dict[str, tuple[int, int]]:
    rows = raw.execute(_ACCOUNTS, (json.dumps(sorted(user_ids)),))
    return {user_id: (balance, version) for user_id, balance, version in rows}
