"""Random work, random cancellations, beside a model that says which balances are possible."""

import asyncio
import sqlite3
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_files import seen_from_outside, until

from betcore_async.config import DatabaseSettings, Durability
from betcore_async.errors import DatabaseError
from betcore_async.sqlite import Outcome, SQLitePool

ACCOUNTS = 4


class NoFundsError(Exception):
    pass


@dataclass(frozen=True)
class Move:
    how: str
    source: int
    target: int
    amount: int
    fails: str
    cancel_after: int | None
    durability: Durability


MOVES = st.builds(
    Move,
    how=st.sampled_from(["write", "transaction", "nested"]),
    source=st.integers(0, ACCOUNTS - 1),
    target=st.integers(0, ACCOUNTS - 1),
    amount=st.integers(1, 700),
    fails=st.sampled_from(["no", "no", "no", "raises", "or rollback", "commits"]),
    cancel_after=st.none() | st.integers(0, 12),
    durability=st.sampled_from(list(Durability)),
)


def move_money(raw, number, move):
    balance = raw.execute("SELECT balance FROM accounts WHERE id = ?", (move.source,)).fetchone()[0]
    if balance < move.amount:
        raise NoFundsError
    raw.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (move.amount, move.source))
    raw.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (move.amount, move.target))
    raw.execute("INSERT INTO moves VALUES (?)", (number,))
    if move.fails == "raises":
        raise LookupError
    if move.fails == "or rollback":
        with suppress(sqlite3.IntegrityError):
            raw.execute("INSERT OR ROLLBACK INTO moves VALUES (?)", (number,))
        raw.execute("UPDATE accounts SET balance = balance + 1")  # would make money if it could run
    if move.fails == "commits":
        raw.execute("COMMIT")


async def carry_out(pool, number, move):
    """Return whether the move was made, as far as its caller was told; None when it was not."""
    transaction = None
    try:
        if move.how == "write":
            await pool.write(lambda raw: move_money(raw, number, move), durability=move.durability)
        else:
            async with pool.transaction(durability=move.durability) as transaction:
                if move.how == "nested":
                    async with pool.transaction():
                        await transaction.run(lambda raw: move_money(raw, number, move))
                else:
                    await transaction.run(lambda raw: move_money(raw, number, move))
    except (NoFundsError, LookupError, DatabaseError):
        return False
    except asyncio.CancelledError:
        return transaction.outcome is Outcome.COMMITTED if transaction else None
    return True


async def run_moves(path, moves):
    async with SQLitePool(path, DatabaseSettings(max_open_conns=3, max_idle_conns=1)) as pool:
        await pool.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER CHECK (balance >= 0))")
        await pool.execute("CREATE TABLE moves (number INTEGER PRIMARY KEY)")
        await pool.execute_many("INSERT INTO accounts VALUES (?, 1000)", [(n,) for n in range(ACCOUNTS)])
        tasks = [asyncio.create_task(carry_out(pool, number, move)) for number, move in enumerate(moves)]
        for turn in range(14):
            for move, task in zip(moves, tasks, strict=True):
                if move.cancel_after == turn:
                    task.cancel()
            totals = await pool.fetch_value("SELECT sum(balance) FROM accounts")
            assert totals == ACCOUNTS * 1000
        told = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        await until(lambda: pool.stats().readers_idle == pool.stats().readers)
        kept = {row.number for row in await pool.fetch_all("SELECT number FROM moves")}
        assert pool.stats().broken == 0
    for number, (move, answer) in enumerate(zip(moves, told, strict=True)):
        assert not isinstance(answer, Exception), answer
        if isinstance(answer, bool):
            assert (number in kept) is answer, (move, answer)
        assert move.fails == "no" or number not in kept
    return [
        1000
        - sum(moves[n].amount for n in kept if moves[n].source == account)
        + sum(moves[n].amount for n in kept if moves[n].target == account)
        for account in range(ACCOUNTS)
    ]


@given(moves=st.lists(MOVES, min_size=1, max_size=25))
@settings(max_examples=40)
def test_balances_are_what_the_kept_moves_make_them(moves):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.db"
        expected = asyncio.run(run_moves(path, moves))
        found = [seen_from_outside(path, f"SELECT balance FROM accounts WHERE id = {n}") for n in range(ACCOUNTS)]
        assert found == expected
