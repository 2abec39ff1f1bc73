"""What the shipped schema refuses, and that every question in daily use finds its rows by an index."""

import re
import sqlite3
from collections import defaultdict
from contextlib import closing
from datetime import timedelta

import pytest
from weekly_files import W, direct, platform

from betcore_async.partitions import scanner
from betcore_async.sqlite import connection
from betcore_async.sqlite.migrations import load_migrations, migrate_connection, shipped_folder
from betcore_async.sqlite.raw import RawConnection

WEEK = W[0]


@pytest.fixture
def file():
    """A connection to the weekly file of WEEK in memory, with a user who has an open bet."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        migrate_connection(raw, load_migrations(shipped_folder()))
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute(META, (WEEK.name, WEEK.starts_at, WEEK.ends_at, WEEK.starts_at))
        raw.execute(f"INSERT INTO users VALUES ('u', 'w', 5, 1, {WEEK.starts_at}, {WEEK.starts_at})")
        raw.execute(BET, bet(id="b"))
        raw.execute(ENTRY, entry(id="e"))
        raw.execute(f"INSERT INTO cell_settlements VALUES ('settled', 1, 1, '', 0, 0, 0, 1, {WEEK.starts_at})")
        yield raw


META = """
INSERT INTO partition_meta (id, week, starts_at, ends_at, state, created_at) VALUES (1, ?, ?, ?, 'live', ?)
"""
BET = """
INSERT INTO bets (id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at, payout_amount)
VALUES (:id, :user_id, :cell_id, :amount, :reward_ppm, :status, :placed_at, :resolved_at, :payout_amount)
"""
ENTRY = """
INSERT INTO ledger_entries (id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at)
VALUES (:id, :user_id, :version, :amount, :balance_after, :ref_type, :ref_id, :metadata, :created_at)
"""


def bet(**changes):
    sound = {
        "id": "new",
        "user_id": "u",
        "cell_id": "c",
        "amount": 5,
        "reward_ppm": 2_000_000,
        "status": "pending",
        "placed_at": WEEK.starts_at,
        "resolved_at": None,
        "payout_amount": None,
    }
    return sound | changes


def entry(**changes):
    sound = {
        "id": "new",
        "user_id": "u",
        "version": 1,
        "amount": 5,
        "balance_after": 5,
        "ref_type": "opening",
        "ref_id": "u",
        "metadata": None,
        "created_at": WEEK.starts_at,
    }
    return sound | changes


UNSOUND_BETS = [
    {"amount": 0},
    {"amount": -5},
    {"amount": 5.5},
    {"amount": "much"},
    {"reward_ppm": 999_999},
    {"status": "maybe"},
    {"status": "won", "resolved_at": WEEK.starts_at},  # without a payout
    {"status": "lost"},  # without a time
    {"status": "pending", "resolved_at": WEEK.starts_at},
    {"status": "lost", "resolved_at": WEEK.starts_at, "payout_amount": 7},
    {"status": "lost", "resolved_at": WEEK.starts_at - 1},  # decided before it was placed
    {"placed_at": WEEK.ends_at},
    {"placed_at": WEEK.starts_at - 1},  # carried over, where there is no week before
    {"placed_at": "2026-05-11T00:00:00Z"},
    {"placed_at": None},
    {"user_id": "nobody"},
    {"id": "b"},
]
UNSOUND_ENTRIES = [
    {"balance_after": -1},
    {"ref_type": "gift"},
    {"ref_type": "stake"},  # takes money, so its amount is negative
    {"amount": -5},
    {"amount": 2.5},
    {"metadata": "not JSON"},
    {"created_at": "now"},
    {"user_id": "nobody"},
    {"version": 0},
    {"version": 2, "ref_type": "opening"},  # the second opening of one user
    {"ref_id": "other"},  # the version is taken
]


def test_what_is_sound_is_taken(file):
    file.execute(BET, bet(placed_at=WEEK.ends_at - 1))
    file.execute(BET, bet(id="won", status="won", resolved_at=WEEK.starts_at, payout_amount=10))
    file.execute(ENTRY, entry(version=2, amount=-5, ref_type="stake", ref_id="new", metadata='{"a": 1}'))


@pytest.mark.parametrize("changes", UNSOUND_BETS, ids=str)
def test_an_unsound_bet_is_refused(file, changes):
    with pytest.raises(sqlite3.IntegrityError):
        file.execute(BET, bet(**changes))


@pytest.mark.parametrize("changes", UNSOUND_ENTRIES, ids=str)
def test_an_unsound_entry_is_refused(file, changes):
    with pytest.raises(sqlite3.IntegrityError):
        file.execute(ENTRY, entry(**changes))


def test_a_bet_from_the_week_before_is_taken_where_there_is_one(file):
    file.execute("UPDATE partition_meta SET predecessor = ?", (WEEK.previous().name,))
    file.execute(BET, bet(placed_at=WEEK.starts_at - 1))
    with pytest.raises(sqlite3.IntegrityError, match="within the week"):
        file.execute(BET, bet(id="late", placed_at=WEEK.ends_at))


REFUSED = [
    "UPDATE users SET balance = -1",
    "UPDATE users SET balance = 9223372036854775807 + 1",
    "UPDATE users SET balance = NULL",
    "DELETE FROM users",
    "UPDATE bets SET amount = 6",
    "UPDATE bets SET user_id = 'u2'",
    "UPDATE bets SET status = 'insufficient_funds', resolved_at = placed_at",
    "DELETE FROM bets",
    "UPDATE ledger_entries SET amount = 6",
    "UPDATE ledger_entries SET metadata = '{}'",
    "DELETE FROM ledger_entries",
    "UPDATE bets SET confirmed_at = placed_at",
    "UPDATE cell_settlements SET won = 0",
    "DELETE FROM cell_settlements",
    "INSERT INTO cell_settlements VALUES ('settled', 0, 1, '', 0, 0, 0, 1, 0)",  # chunks count from one
    "INSERT INTO cell_settlements VALUES ('settled', 2, 0, '', 1, 5, 0, 1, 0)",  # who lost is not paid
    "UPDATE partition_meta SET ends_at = ends_at + 1",
    "UPDATE partition_meta SET starts_at = starts_at + 86400000000, ends_at = ends_at + 86400000000",  # from a Tuesday
    "UPDATE partition_meta SET state = 'sealed'",  # without a successor
    "UPDATE partition_meta SET week = 'soon'",
    "UPDATE partition_meta SET id = 2",  # there is one row
]


@pytest.mark.parametrize("sql", REFUSED)
def test_a_change_that_would_falsify_the_books_is_refused(file, sql):
    before = list(file.iterdump())
    with pytest.raises(sqlite3.IntegrityError):
        file.execute(sql)
    assert list(file.iterdump()) == before


def test_a_sealed_week_stays_as_it_is(file):
    file.execute("UPDATE partition_meta SET state = 'sealed', successor = ?, sealed_at = 0", (WEEK.next().name,))
    with pytest.raises(sqlite3.IntegrityError, match="sealed"):
        file.execute("UPDATE partition_meta SET state = 'live', successor = NULL, sealed_at = NULL")


def test_every_table_is_strict_and_every_time_an_integer(file):
    tables = file.execute(
        "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite%'"
    )
    names = {
        "partition_meta",
        "users",
        "bets",
        "ledger_entries",
        "ledger_chain",
        "cell_settlements",
        "outbox",
        "outbox_cursor",
        "schema_migrations",
    }
    assert dict(tables) == dict.fromkeys(names, 1)
    columns = file.execute(
        "SELECT tables.name, columns.name, columns.type "
        "FROM pragma_table_list AS tables, pragma_table_info(tables.name) AS columns"
    )
    times = {row for row in columns if row[1].endswith(("_at", "_ms"))}
    assert len(times) >= 10
    assert {kind for *_, kind in times} == {"INTEGER"}


# Query plans


class Plans:
    """Collects how SQLite means to run each statement, at the moment it is run, with parameters bound."""

    def __init__(self) -> None:
        self.during = ""
        self.found: dict[str, dict[str, list[str]]] = defaultdict(dict)

    def note(self, raw: sqlite3.Connection, sql: str, parameters) -> None:
        if self.during and re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", sql):
            plan = sqlite3.Connection.execute(raw, f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
            self.found[self.during][sql] = [row[3] for row in plan]


@pytest.fixture
def plans(monkeypatch):
    plans = Plans()

    class Noted(sqlite3.Connection):
        def execute(self, sql, parameters=(), /):
            plans.note(self, sql, parameters)
            return super().execute(sql, parameters)

    class NotedRaw(RawConnection):
        def execute(self, sql, parameters=(), /):
            plans.note(self, sql, parameters)
            return super().execute(sql, parameters)

    class NotedHandles(scanner.HandlesConnection):
        def execute(self, sql, parameters=(), /):
            plans.note(self, sql, parameters)
            return super().execute(sql, parameters)

    genuine = sqlite3.connect
    monkeypatch.setattr(scanner, "HandlesConnection", NotedHandles)
    monkeypatch.setattr(connection, "RawConnection", NotedRaw)

    def connect(*args, **options):
        plain = options.get("factory", sqlite3.Connection) is sqlite3.Connection
        return genuine(*args, **options | ({"factory": Noted} if plain else {}))

    monkeypatch.setattr(sqlite3, "connect", connect)
    return plans


async def daily_work(it, plans):
    """Do everything a platform does all day, in two weeks, each under its name."""
    user, other = await it.users.create("0xa", 1000), await it.users.create("0xb", 1000)
    carried = [(await it.bets.place(user.id, "carried", 1, 2.0)).id for _ in range(3)]
    await it.next_week()
    span = (W[0].start, W[1].end)

    def during(name):
        plans.during = name

    during("create")
    await it.users.create("0xc", 5)
    during("look up a user")
    await it.users.get(user.id), await it.users.by_wallet("0xb"), await it.ledger.balance(user.id)
    during("move money")
    (
        await it.users.deposit(user.id, 5),
        await it.users.withdraw(user.id, 5),
        await it.users.transfer(user.id, other.id, 5),
    )
    during("place")
    bets = [await it.bets.place(user.id, "cell", 5, 2.0) for _ in range(4)]
    during("place what cannot be paid")
    await it.bets.place(user.id, "cell", 10**6, 2.0)
    during("repeat a command")
    await it.bets.place(user.id, "cell", 5, 2.0, id=bets[0].id)
    during("decide one bet")
    await it.bets.confirm(bets[0].id), await it.bets.settle(bets[0].id, True), await it.bets.cancel(bets[1].id)
    await it.bets.settle(carried[0], False)
    during("settle a cell")
    await it.bets.settle_cell("cell", True)
    during("look up a bet")
    await it.bets.get(bets[0].id), await it.bets.get(carried[1])
    during("history")
    for options in ({}, {"limit": 2}, {"newest_first": False}, {"status": "won"}):
        page = await it.bets.history(user.id, *span, **options)
        if page.next_cursor is not None:
            await it.bets.history(user.id, *span, cursor=page.next_cursor, **options)
    during("entries")
    await it.ledger.entries(user.id)
    during("sums of a user")
    await it.manager.sum_bets(*span, user_id=user.id), await it.manager.count_bets(*span, user_id=user.id, status="won")
    during("")


async def test_daily_work_never_scans_a_table_or_sorts_a_history(tmp_path, plans):
    async with platform(tmp_path, W[0]) as it:
        it.clock.advance(timedelta(hours=1))
        await daily_work(it, plans)
    # Parts of a plan that read what is small by itself: parameters, the result of a subquery with an index, one row, or
    # the schema.
    harmless = re.compile(r"SCAN (json_each |(\w+\.)?sqlite_(master|schema)|\(subquery-|CONSTANT ROW)")
    assert len(plans.found) == 12
    for work, statements in plans.found.items():
        assert len(statements) > 1, work
        for sql, plan in statements.items():
            slow = [part for part in plan if part.startswith("SCAN ") and not harmless.match(part)]
            assert not slow or sql.endswith(" LIMIT 0"), (work, sql, plan)  # that asks for columns, and reads no row
            assert not any("TEMP B-TREE FOR ORDER BY" in part for part in plan), (work, sql, plan)


async def test_the_plans_are_those_of_the_statements_that_run(tmp_path, plans):
    """Without its index the history is scanned, and the test above would say so."""
    async with platform(tmp_path, W[0]) as it:
        user = await it.users.create("0xa", 1000)
        with direct(it.folder / f"bets-{W[0]}.db") as raw:
            raw.execute("DROP INDEX bets_by_user")
        plans.during = "history"
        await it.bets.history(user.id, W[0].start, W[0].end)
        plans.during = ""
    parts = [part for plan in plans.found["history"].values() for part in plan]
    assert any(re.match(r"SCAN (\w+\.)?bets", part) for part in parts)
    assert any("TEMP B-TREE FOR ORDER BY" in part for part in parts)
