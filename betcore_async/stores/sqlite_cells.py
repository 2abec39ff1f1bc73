"""Settling many bets of a cell at once: a few statements for a chunk, however many bets it has."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from betcore_async.errors import LedgerError
from betcore_async.models import MAX_MONEY
from betcore_async.stores.commands import CellSettlement, SettleChunk
from betcore_async.stores.sqlite_commands import INSERT_ENTRY, PAYOUT, Books

_CHUNK = "cell_id = :cell_id AND id > :after AND id <= :upto AND status IN ('pending', 'confirmed')"

_LOSE = f"""
UPDATE bets
SET status = 'lost', resolved_at = max(placed_at, :now)
WHERE {_CHUNK}
"""

_WIN = f"""
UPDATE bets
SET status = 'won', resolved_at = max(placed_at, :now), payout_amount = {PAYOUT}
WHERE {_CHUNK}
RETURNING id, user_id, payout_amount
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


def settle_chunk(books: Books, command: SettleChunk) -> CellSettlement:
    chunk = {"cell_id": command.cell_id, "after": command.after, "upto": command.upto, "now": books.now}
    if not command.won:
        return CellSettlement(books.raw.execute(_LOSE, chunk).rowcount, 0)
    won = books.raw.execute(_WIN, chunk).fetchall()
    return CellSettlement(len(won), _pay_out(books, sorted(won, key=lambda row: row[0])))


def _pay_out(books: Books, won: Sequence[Any]) -> int:
    """Pay every bet of `won` (id, user_id, payout_amount), with an entry each; returns the sum."""
    accounts = _accounts(books.raw, {row[1] for row in won})
    entries = []
    paid = 0
    for bet_id, user_id, amount in won:
        balance, version = accounts[user_id]
        balance, version = balance + amount, version + 1
        accounts[user_id] = (balance, version)
        entries.append((books.new_id(), user_id, version, amount, balance, "payout", bet_id, None, books.now))
        paid += amount
    for user_id, (balance, _) in accounts.items():
        if balance > MAX_MONEY:
            raise LedgerError(f"the balance of user {user_id} cannot grow to {balance}: too much", user_id=user_id)
    books.raw.executemany(
        _PAY, [(balance, version, books.now, user_id) for user_id, (balance, version) in accounts.items()]
    )
    books.raw.executemany(INSERT_ENTRY, entries)
    return paid


def _accounts(raw: sqlite3.Connection, user_ids: set[str]) -> dict[str, tuple[int, int]]:
    rows = raw.execute(_ACCOUNTS, (json.dumps(sorted(user_ids)),))
    return {user_id: (balance, version) for user_id, balance, version in rows}
