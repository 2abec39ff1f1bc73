"""Group commit: many callers share one COMMIT, and none of them notices the others."""

import asyncio
import contextlib
import sqlite3
from datetime import timedelta

import pytest
from sqlite_files import Gate, seen_from_outside

from betcore_async.config import DatabaseSettings, Durability
from betcore_async.errors import DatabaseError, StorageFullError
from betcore_async.sqlite import ExecuteResult, SQLitePool

SUM = "SELECT coalesce(sum(amount), 0) FROM entries"
INSERT = "INSERT INTO entries VALUES (?, ?)"


@pytest.fixture
async def pool(tmp_path):
    settings = DatabaseSettings(max_open_conns=3, max_idle_conns=1, group_max_time=timedelta(minutes=1))
    async with SQLitePool(tmp_path / "a.db", settings) as pool:
        await pool.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, amount INTEGER CHECK (amount > 0))")
        await pool.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        await pool.execute(
            "CREATE TABLE children (id INTEGER PRIMARY KEY,"
            " parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)"
        )
        yield pool


@contextlib.asynccontextmanager
async def one_group(pool):
    """Everything submitted inside the block runs in one group."""
    gate = Gate()
    blocker = asyncio.create_task(pool.write(lambda _: gate.pass_through()))
    await gate.reached()
    groups = pool.stats().groups
    try:
        yield
        await asyncio.sleep(0)
    finally:
        gate.open()
    await blocker
    assert pool.stats().groups == groups + 1


def insert(number, amount=1):
    return lambda raw: raw.execute(INSERT, (number, amount)).rowcount


async def in_one_group(pool, *functions):
    async with one_group(pool):
        tasks = [asyncio.create_task(pool.write(function)) for function in functions]
        await asyncio.sleep(0)
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)


async def test_concurrent_writes_share_one_commit(pool):
    assert await in_one_group(pool, *(insert(n) for n in range(20))) == [1] * 20
    assert pool.stats().largest_group == 21  # the blocker of `one_group` is in it, too
    assert await pool.fetch_value(SUM) == 20


async def test_a_long_write_alone_in_its_commit_keeps_nobody_waiting_who_came_before(pool):
    first, long = Gate(), Gate()
    blocker = asyncio.create_task(pool.write(lambda _: first.pass_through()))
    await first.reached()
    before = asyncio.create_task(pool.write(insert(1)))
    alone = asyncio.create_task(pool.write(lambda _: long.pass_through(), alone=True))
    after = asyncio.create_task(pool.write(insert(2)))
    await asyncio.sleep(0)
    first.open()
    await long.reached()
    assert await before == 1
    assert not after.done()
    long.open()
    await asyncio.gather(blocker, alone, after)


async def test_a_write_returns_only_after_its_commit(pool, tmp_path):
    for number in range(20):
        assert await pool.execute(INSERT, (number, 1)) == ExecuteResult(rowcount=1, lastrowid=number)
        assert seen_from_outside(tmp_path / "a.db", SUM) == number + 1


def constraint(raw):
    raw.execute(INSERT, (100, 5))
    raw.execute(INSERT, (101, -1))


def own_exception(raw):
    raw.execute(INSERT, (100, 5))
    raise LookupError("mine")


def or_rollback(raw):
    raw.execute(INSERT, (100, 5))
    raw.execute("INSERT OR ROLLBACK INTO entries VALUES (100, 5)")


def or_rollback_and_on(raw):
    raw.execute(INSERT, (100, 5))
    with contextlib.suppress(sqlite3.IntegrityError):
        raw.execute("INSERT OR ROLLBACK INTO entries VALUES (100, 5)")
    raw.execute(INSERT, (101, 5))


def or_rollback_and_on_by_cursor(raw):
    cursor = raw.cursor()
    cursor.execute(INSERT, (100, 5))
    with contextlib.suppress(sqlite3.IntegrityError):
        cursor.execute("INSERT OR ROLLBACK INTO entries VALUES (100, 5)")
    cursor.execute(INSERT, (101, 5))
    cursor.executemany(INSERT, [(102, 5)])


def commits(raw):
    raw.execute(INSERT, (100, 5))
    raw.execute("COMMIT")


def commits_by_method(raw):
    with raw:
        raw.execute(INSERT, (100, 5))


def rolls_back(raw):
    raw.execute("ROLLBACK")


def rolls_back_by_method(raw):
    raw.execute(INSERT, (100, 5))
    raw.rollback()


def begins(raw):
    raw.execute(INSERT, (100, 5))
    raw.execute("BEGIN")


def runs_a_script(raw):
    raw.executescript("INSERT INTO entries VALUES (100, 5); INSERT INTO entries VALUES (101, 5);")


def attaches(raw):
    raw.execute(INSERT, (100, 5))
    raw.execute("ATTACH DATABASE ':memory:' AS other")


def releases_our_savepoint(raw):
    raw.execute(INSERT, (100, 5))
    raw.execute("RELEASE betcore_member")


def undoes_our_savepoint(raw):
    raw.execute("ROLLBACK TO betcore_member")


def query_only(raw):
    raw.execute("PRAGMA query_only = ON")


def deferred_foreign_key(raw):
    raw.execute(INSERT, (100, 5))
    raw.execute("INSERT INTO children VALUES (1, 999)")


def stop_iteration(raw):
    raw.execute(INSERT, (100, 5))
    next(iter(()))


def cancelled_error(raw):
    raw.execute(INSERT, (100, 5))
    raise asyncio.CancelledError


def base_exception(raw):
    raw.execute(INSERT, (100, 5))
    raise BaseExceptionGroup("odd", [GeneratorExit()])


def open_returning(raw):
    raw.execute(INSERT, (100, 5))
    raise LookupError(raw.execute("UPDATE entries SET amount = 9 RETURNING id"))  # kept alive by the exception


BAD = {
    constraint: sqlite3.IntegrityError,
    own_exception: LookupError,
    or_rollback: sqlite3.IntegrityError,
    or_rollback_and_on: DatabaseError,
    or_rollback_and_on_by_cursor: DatabaseError,
    commits: DatabaseError,
    commits_by_method: DatabaseError,
    rolls_back: DatabaseError,
    rolls_back_by_method: DatabaseError,
    begins: DatabaseError,
    runs_a_script: DatabaseError,
    attaches: DatabaseError,
    releases_our_savepoint: DatabaseError,
    undoes_our_savepoint: DatabaseError,
    query_only: DatabaseError,
    deferred_foreign_key: sqlite3.IntegrityError,
    stop_iteration: DatabaseError,
    cancelled_error: DatabaseError,
    base_exception: BaseExceptionGroup,
    open_returning: LookupError,
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
@pytest.mark.parametrize("place", [0, 2, 4])
async def test_a_failing_member_is_undone_alone(pool, bad, place):
    members = [insert(n) for n in range(4)]
    members.insert(place, bad)
    results = await in_one_group_of_any_kind(pool, *members)
    failure = results.pop(place)
    assert type(failure) is BAD[bad]
    assert results == [1, 1, 1, 1]
    assert await pool.fetch_value(SUM) == 4
    assert await pool.execute(INSERT, (100, 1)) == ExecuteResult(1, 100)


@contextlib.asynccontextmanager
async def one_group_of_any_kind(pool):
    """As `one_group`, for members that may split it."""
    gate = Gate()
    blocker = asyncio.create_task(pool.write(lambda _: gate.pass_through()))
    await gate.reached()
    yield
    gate.open()
    await blocker


async def test_a_cursor_left_open_by_a_member_harms_nobody(pool):
    kept = []

    def leave_open(raw):
        raw.execute(INSERT, (1, 5))
        raw.execute(INSERT, (2, 5))
        kept.append(raw.execute("UPDATE entries SET amount = 6 RETURNING id"))
        return 1

    assert await in_one_group(pool, leave_open, insert(3)) == [1, 1]
    assert await pool.fetch_value(SUM) == 13


async def test_statements_of_the_pool_survive_the_connections_settings_being_changed(pool):
    def tamper(raw):
        raw.row_factory = None
        raw.text_factory = bytes
        return raw.execute(INSERT, (1, 1)).rowcount

    assert await in_one_group(pool, tamper, insert(2)) == [1, 1]
    row = await pool.write(lambda raw: raw.execute("SELECT 'text' AS word").fetchone())
    assert row.word == "text"


async def test_pragmas_that_only_ask_or_belong_to_the_file_are_allowed(pool):
    def ask(raw):
        raw.execute("PRAGMA user_version = 7")
        raw.execute("PRAGMA defer_foreign_keys = ON")
        return [row.name for row in raw.execute("PRAGMA table_info(entries)")]

    assert await pool.write(ask) == ["id", "amount"]
    assert await pool.fetch_value("PRAGMA user_version") == 7


async def test_a_write_cancelled_before_it_started_never_runs(pool):
    ran = []
    async with one_group(pool):
        doomed = asyncio.create_task(pool.write(lambda _: ran.append(1)))
        lucky = asyncio.create_task(pool.write(insert(1)))
        await asyncio.sleep(0)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
    assert await lucky == 1
    assert ran == []


async def test_a_write_cancelled_while_it_runs_is_undone_alone_and_told_last(pool, tmp_path):
    gate = Gate()

    def slow(raw):
        raw.execute(INSERT, (100, 50))
        gate.pass_through()

    before = asyncio.create_task(pool.write(insert(1)))
    doomed = asyncio.create_task(pool.write(slow))
    after = asyncio.create_task(pool.write(insert(2)))
    await gate.reached()
    doomed.cancel()
    await asyncio.sleep(0)
    doomed.cancel()  # twice: must not let go before the outcome is settled either
    await asyncio.sleep(0)
    assert not doomed.done()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await doomed
    assert await asyncio.gather(before, after) == [1, 1]
    assert seen_from_outside(tmp_path / "a.db", SUM) == 2


async def test_execute_many_is_all_or_nothing_and_may_be_given_an_iterator(pool):
    result = await pool.execute_many(INSERT, ((n, 1) for n in range(10)))
    assert result.rowcount == 10
    with pytest.raises(sqlite3.IntegrityError):
        await pool.execute_many(INSERT, [(20, 1), (21, 1), (0, 1)])
    assert await pool.fetch_value(SUM) == 10


async def test_execute_runs_a_returning_clause_to_its_end(pool):
    await pool.execute_many(INSERT, [(n, 1) for n in range(5)])
    assert (await pool.execute("UPDATE entries SET amount = 2 RETURNING id")).rowcount == 5
    assert await pool.fetch_value(SUM) == 10


async def test_durability_is_switched_between_groups_and_never_mixed(pool):
    def synchronous(raw):
        return raw.execute("PRAGMA synchronous").fetchone()[0]

    async with one_group_of_any_kind(pool):
        wanted = [Durability.NORMAL, Durability.FULL, Durability.FULL, Durability.NORMAL]
        tasks = [asyncio.create_task(pool.write(synchronous, durability=level)) for level in wanted]
        await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == [1, 2, 2, 1]
    assert await pool.write(synchronous) == 1
    async with pool.transaction(durability=Durability.FULL) as transaction:
        assert await transaction.fetch_value("PRAGMA synchronous") == 2
    assert await pool.write(synchronous) == 1


async def test_groups_are_bounded_in_number_and_in_time(tmp_path):
    settings = DatabaseSettings(group_max_writes=3, group_max_time=timedelta(seconds=60))
    async with SQLitePool(tmp_path / "n.db", settings) as pool:
        async with one_group_of_any_kind(pool):
            tasks = [asyncio.create_task(pool.write(lambda _: None)) for _ in range(10)]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert pool.stats().largest_group == 3
    settings = DatabaseSettings(group_max_time=timedelta(microseconds=1))
    async with SQLitePool(tmp_path / "t.db", settings) as pool:
        async with one_group_of_any_kind(pool):
            tasks = [asyncio.create_task(pool.write(lambda _: None)) for _ in range(10)]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert pool.stats().largest_group == 1


async def test_a_full_file_is_a_storage_full_error_and_writes_go_on_when_there_is_room(tmp_path):
    def small(raw):
        raw.execute("PRAGMA max_page_count = 50")  # 200 kB

    def blob(size):
        return lambda raw: raw.execute("INSERT INTO blobs VALUES (zeroblob(?))", (size,)).rowcount

    async with SQLitePool(tmp_path / "a.db", on_connect=small) as pool:
        await pool.execute("CREATE TABLE blobs (data BLOB)")
        first, full, second = await in_one_group_of_any_kind(pool, blob(100), blob(1_000_000), blob(100))
        assert (first, type(full), second) == (1, StorageFullError, 1)
        with pytest.raises(StorageFullError):
            async with pool.transaction() as transaction:
                await transaction.run(blob(1_000_000))
        assert await pool.write(blob(150_000)) == 1
        with pytest.raises(StorageFullError) as caught:
            await pool.write(blob(150_000))
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        await pool.execute("DELETE FROM blobs")
        assert await pool.write(blob(150_000)) == 1


async def in_one_group_of_any_kind(pool, *functions):
    async with one_group_of_any_kind(pool):
        tasks = [asyncio.create_task(pool.write(function)) for function in functions]
        await asyncio.sleep(0)
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
