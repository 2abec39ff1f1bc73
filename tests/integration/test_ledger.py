"""The ledger: every change of every balance, written once, never changed."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from ledger_files import CELL, NOON, WEEK, open_books, path_of

from betcore_async.errors import ModelError, PartitionMissingError, UserNotFoundError


@pytest.fixture
async def books(tmp_path):
    async with open_books(tmp_path) as books:
        yield books


@pytest.fixture
async def file(books, tmp_path):
    """Path of a live week in which each kind of row is to be found."""
    one, two = await books.users.create("0xone", 1_000), await books.users.create("0xtwo", 1_000)
    await books.users.transfer(one.id, two.id, 5)
    won, lost, cancelled, confirmed, _pending = [await books.bets.place(one.id, CELL, 10, 1.5) for _ in range(5)]
    await books.bets.settle(won.id, True)
    await books.bets.settle(lost.id, False)
    await books.bets.cancel(cancelled.id)
    await books.bets.confirm(confirmed.id)
    await books.bets.place(two.id, CELL, 10_000, 1.5)
    return path_of(tmp_path, "2026-W47")


# Entries


async def test_entries_tell_a_users_story_over_weeks_without_the_openings(books):
    user = await books.users.create("0xabc", 100)
    for amount in (1, 2, 3):
        await books.users.deposit(user.id, amount)
        await books.next_week()
    entries = await books.ledger.entries(user.id)
    assert [entry.amount for entry in entries] == [3, 2, 1, 100]
    assert [entry.balance_after for entry in entries] == [106, 103, 101, 100]
    oldest_first = await books.ledger.entries(user.id, newest_first=False)
    assert oldest_first == entries[::-1]


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, float("nan"), "5", 2**63])
async def test_a_limit_of_entries_is_a_whole_number_from_one(books, limit):
    with pytest.raises(ModelError) as caught:
        await books.ledger.entries("somebody", limit=limit)
    assert caught.value.field == "limit"


@pytest.mark.parametrize("week", [None, 47, b"2026-W47", "2026-W54"])
async def test_a_week_to_be_audited_is_one(books, week):
    with pytest.raises(ModelError) as caught:
        await books.ledger.audit(weeks=[week])
    assert caught.value.field == "week"


async def test_entries_stop_at_their_limit_and_keep_to_their_range(books):
    user = await books.users.create("0xabc", 100)
    for week in range(3):
        for amount in (1, 2):
            await books.users.deposit(user.id, 10 * (week + 1) + amount)
        await books.next_week()

    async def amounts(*arguments, **options):
        return [entry.amount for entry in await books.ledger.entries(user.id, *arguments, **options)]

    assert await amounts(limit=3) == [32, 31, 22]
    assert await amounts(limit=3, newest_first=False) == [100, 11, 12]
    assert await amounts(limit=None) == [32, 31, 22, 21, 12, 11, 100]
    assert await amounts(NOON + WEEK, NOON + 2 * WEEK) == [22, 21]
    assert await amounts(NOON + timedelta(seconds=1), NOON + WEEK) == []
    with pytest.raises(ModelError):
        await amounts(NOON + WEEK, NOON)


async def test_entries_of_a_range_with_a_missing_week_are_refused(books):
    user = await books.users.create("0xabc", 100)
    week = books.partitions.current_week
    await books.next_week()
    await books.users.deposit(user.id, 7)
    await books.partitions.detach_partition(week)
    with pytest.raises(PartitionMissingError) as caught:
        await books.ledger.entries(user.id)
    assert caught.value.weeks == (week,)
    assert [entry.amount for entry in await books.ledger.entries(user.id, NOON + WEEK)] == [7]


async def test_a_balance_is_that_of_the_live_week(books):
    user = await books.users.create("0xabc", 100)
    await books.next_week()
    await books.users.withdraw(user.id, 30)
    assert await books.ledger.balance(user.id) == 70
    with pytest.raises(UserNotFoundError):
        await books.ledger.balance("nobody")


async def test_versions_are_dense_also_under_concurrency_and_over_weeks(books, tmp_path):
    user = await books.users.create("0xabc", 10_000)
    for _ in range(2):
        await asyncio.gather(*(books.users.deposit(user.id, 1) for _ in range(40)))
        await books.next_week()
    assert (await books.users.get(user.id)).version == 81
    for week, first in (("2026-W47", 1), ("2026-W48", 41)):
        with closing(sqlite3.connect(path_of(tmp_path, week))) as raw:
            versions = [row[0] for row in raw.execute("SELECT version FROM ledger_entries ORDER BY version")]
        assert versions == list(range(first, first + len(versions)))


# The file defends itself


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("UPDATE ledger_entries SET amount = amount + 1", "never changed"),
        ("UPDATE ledger_entries SET metadata = NULL WHERE ref_type = 'transfer_out'", "never changed"),
        ("UPDATE ledger_entries SET created_at = 0", "never changed"),
        ("DELETE FROM ledger_entries", "never deleted"),
        ("DELETE FROM ledger_entries WHERE ref_type = 'payout'", "never deleted"),
        ("INSERT OR REPLACE INTO ledger_entries SELECT * FROM ledger_entries", "UNIQUE|never deleted"),
        ("UPDATE bets SET amount = 1", "terms of a bet are fixed"),
        ("UPDATE bets SET reward_ppm = 9000000", "terms of a bet are fixed"),
        ("UPDATE bets SET user_id = (SELECT max(id) FROM users)", "terms of a bet are fixed"),
        ("UPDATE bets SET cell_id = 'other'", "terms of a bet are fixed"),
        ("UPDATE bets SET placed_at = 0", "terms of a bet are fixed"),
        ("UPDATE bets SET id = 'x' || id", "terms of a bet are fixed"),
        ("DELETE FROM bets", "never deleted"),
        ("INSERT OR REPLACE INTO bets SELECT * FROM bets WHERE status = 'lost'", "UNIQUE|never deleted"),
        (
            "UPDATE bets SET status = 'pending', payout_amount = NULL, resolved_at = NULL WHERE status = 'won'",
            "stays so",
        ),
        ("UPDATE bets SET status = 'lost', payout_amount = NULL WHERE status = 'won'", "stays so"),
        ("UPDATE bets SET status = 'won', payout_amount = 15 WHERE status = 'lost'", "stays so"),
        ("UPDATE bets SET status = 'pending', resolved_at = NULL WHERE status = 'cancelled'", "stays so"),
        ("UPDATE bets SET status = 'pending' WHERE status = 'confirmed'", "stays so"),
        ("UPDATE bets SET status = 'insufficient_funds', resolved_at = placed_at WHERE status = 'pending'", "stays so"),
        ("UPDATE bets SET status = 'won', payout_amount = 5 WHERE status = 'insufficient_funds'", "stays so"),
        ("UPDATE bets SET payout_amount = payout_amount + 1 WHERE status = 'won'", "stays so"),
        ("UPDATE bets SET resolved_at = resolved_at + 1 WHERE status = 'lost'", "stays so"),
        ("UPDATE bets SET status = 'won', resolved_at = placed_at WHERE status = 'pending'", "CHECK"),
        ("UPDATE bets SET status = 'lost' WHERE status = 'pending'", "CHECK"),
        ("UPDATE bets SET status = 'lost', resolved_at = placed_at - 1 WHERE status = 'pending'", "CHECK"),
        ("UPDATE users SET balance = -1", "CHECK"),
        ("UPDATE users SET balance = 1e30", "cannot store REAL|CHECK"),
        ("UPDATE users SET id = 'other' WHERE wallet_address = '0xone'", "identity"),
        ("UPDATE users SET wallet_address = 'other' WHERE wallet_address = '0xone'", "identity"),
        ("DELETE FROM users", "never deleted"),
        (
            "INSERT INTO ledger_entries SELECT NULL, 'x', id, 99, 5, 5, 'withdrawal', 'x', NULL, created_at FROM users",
            "CHECK",
        ),
        (
            "INSERT INTO ledger_entries SELECT NULL, 'x', id, 99, 5, 5, 'opening', id, NULL, created_at FROM users",
            "UNIQUE",
        ),
    ],
)
async def test_raw_sql_cannot_rewrite_what_happened(books, file, sql, reason):
    with closing(sqlite3.connect(file)) as raw:
        raw.execute("PRAGMA recursive_triggers = ON")  # else REPLACE deletes without a trigger
        with pytest.raises(sqlite3.DatabaseError, match=reason):
            raw.execute(sql)
    await books.assert_audit_is_clean()


async def test_a_sealed_week_says_that_it_is(books, file):
    await books.next_week()
    file.chmod(0o600)
    with closing(sqlite3.connect(file, timeout=20)) as raw, pytest.raises(sqlite3.IntegrityError, match="sealed"):
        raw.execute("UPDATE partition_meta SET state = 'live', successor = NULL, sealed_at = NULL")
