"""Write functions that run away: stopped at their deadline, alone, and the connection is as good as before."""

import asyncio
import itertools
import sqlite3
from datetime import timedelta
from time import monotonic

import pytest
from sqlite_files import Gate, seen_from_outside

from betcore_async.config import DatabaseSettings
from betcore_async.errors import WriteTimeoutError
from betcore_async.sqlite import SQLitePool
from betcore_async.sqlite.group import CAREFUL_FOR

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
SUM = "SELECT coalesce(sum(amount), 0) FROM entries"
INSERT = "INSERT INTO entries (amount) VALUES (?)"
LIMIT = 0.3


def settings(limit=LIMIT, **others):
    times = {"write_timeout": timedelta(seconds=limit), "group_max_time": timedelta(minutes=1)}
    return DatabaseSettings(max_open_conns=3, max_idle_conns=1, **times | others)


@pytest.fixture
async def pool(tmp_path):
    async with SQLitePool(tmp_path / "a.db", settings()) as pool:
        await pool.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, amount INTEGER CHECK (amount > 0))")
        yield pool


def endless_query(raw):
    raw.execute(NUMBERS + "SELECT count(*) FROM n").fetchone()


def endless_insert(raw):
    raw.execute(INSERT, (1000,))
    raw.execute(f"INSERT INTO entries (amount) {NUMBERS} SELECT 1000 FROM n")


def endless_rows(raw):
    for _ in raw.execute(NUMBERS + "SELECT i FROM n"):
        pass


def endless_loop(raw):
    while True:
        raw.execute(INSERT, (1000,))


def endless_loop_of_a_cursor(raw):
    cursor = raw.cursor()
    while True:
        cursor.execute("SELECT max(id) FROM entries").fetchone()


def endless_retry(raw):
    while True:
        try:
            raw.execute(INSERT, (1000,))
            raw.execute(INSERT, (-1,))
        except sqlite3.Error:
            pass


def endless_executemany(raw):
    raw.executemany(INSERT, ((1000,) for _ in itertools.count()))


def endless_executemany_of_a_cursor(raw):
    raw.cursor().executemany(INSERT, ((1000,) for _ in itertools.count()))


def caught_and_returned(raw):
    """Its last statement was stopped, and it goes on as if nothing had happened."""
    raw.execute(INSERT, (1000,))
    try:
        raw.execute(NUMBERS + "SELECT count(*) FROM n").fetchone()
    except sqlite3.OperationalError:
        return "done"


RUNAWAYS = [
    endless_query,
    endless_insert,
    endless_rows,
    endless_loop,
    endless_loop_of_a_cursor,
    endless_retry,
    endless_executemany,
    endless_executemany_of_a_cursor,
    caught_and_returned,
]
every_runaway = pytest.mark.parametrize("runaway", RUNAWAYS, ids=lambda function: function.__name__)


def insert(raw):
    return raw.execute(INSERT, (1,)).rowcount


async def in_one_group(pool, *functions):
    gate = Gate()
    blocker = asyncio.create_task(pool.write(lambda _: gate.pass_through()))
    await gate.reached()
    tasks = [asyncio.create_task(pool.write(function)) for function in functions]
    await asyncio.sleep(0)
    gate.open()
    await blocker
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)


@every_runaway
@pytest.mark.parametrize("mode", ["first", "middle", "last", "careful"])
async def test_a_runaway_fails_alone_at_its_deadline(pool, runaway, mode):
    if mode == "careful":  # groups run with savepoints for a while after a failure
        await asyncio.gather(pool.execute(INSERT, (-1,)), return_exceptions=True)
    members, place = [insert] * 4, {"first": 0, "middle": 2, "last": 4, "careful": 2}[mode]
    members.insert(place, runaway)
    results = await in_one_group(pool, *members)
    failure = results.pop(place)
    assert type(failure) is WriteTimeoutError
    assert failure.limit == LIMIT <= failure.ran
    assert results == [1, 1, 1, 1]
    assert seen_from_outside(pool.path, SUM) == 4
    stats = pool.stats()
    assert (stats.overruns, stats.interrupts, stats.broken) == (1, 1, 0)
    for _ in range(CAREFUL_FOR + 2):  # the connection is as good as before, in both ways of running a group
        await pool.write(insert)
    async with pool.transaction() as transaction:
        assert await transaction.fetch_value(SUM) == 4 + CAREFUL_FOR + 2


async def test_several_runaways_of_one_group_are_stopped_one_after_the_other(pool):
    results = await in_one_group(pool, insert, endless_query, insert, endless_insert, insert)
    assert [type(result) for result in results] == [int, WriteTimeoutError, int, WriteTimeoutError, int]
    assert seen_from_outside(pool.path, SUM) == 3


async def test_stopping_never_hits_the_neighbour_that_runs_next(tmp_path):
    """Functions that end just when they are to be stopped, each followed by one that writes."""
    async with SQLitePool(tmp_path / "a.db", settings(0.004, group_max_time=timedelta(milliseconds=50))) as pool:
        await pool.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, amount INTEGER)")

        def about_as_long_as_allowed(raw):
            ends = monotonic() + 0.0045
            while monotonic() < ends:
                raw.execute("SELECT max(id) FROM entries").fetchone()

        calls = [about_as_long_as_allowed, insert, insert] * 100
        results = await asyncio.gather(*map(pool.write, calls), return_exceptions=True)
        stopped = [result for result in results if isinstance(result, BaseException)]
        # Whoever is hit by mistake would fail with sqlite3's "interrupted", or before its time. (On a busy machine an
        # INSERT may well take longer than these few milliseconds.)
        assert {type(error) for error in stopped} <= {WriteTimeoutError}
        assert all(error.ran >= error.limit for error in stopped)
        assert pool.stats().overruns == len(stopped)
        assert await pool.fetch_value(SUM) == results.count(1) > 0


@every_runaway
async def test_a_cancelled_runaway_is_stopped_at_once(tmp_path, runaway):
    async with SQLitePool(tmp_path / "a.db", settings(3600)) as pool:
        await pool.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, amount INTEGER CHECK (amount > 0))")
        gate = Gate()

        def reached(raw):
            gate.pass_through()
            return runaway(raw)

        doomed = asyncio.create_task(pool.write(reached))
        neighbour = asyncio.create_task(pool.write(insert))
        await gate.reached()
        gate.open()
        doomed.cancel()
        await asyncio.wait([doomed], timeout=20)
        assert doomed.cancelled()
        assert await asyncio.wait_for(neighbour, 20) == 1
        assert await pool.fetch_value(SUM) == 1
        assert pool.stats().overruns == 0


async def test_statements_of_the_pool_have_the_deadline_too(pool):
    with pytest.raises(WriteTimeoutError):
        await pool.execute(f"INSERT INTO entries (amount) {NUMBERS} SELECT 1 FROM n")
    assert await pool.fetch_value(SUM) == 0


async def test_an_interactive_transaction_is_its_callers_to_bound(pool):
    """It may decide, wait and write for longer than a write function may run."""
    rows = f"{NUMBERS} SELECT count(*) FROM (SELECT i FROM n LIMIT ?)"
    limit, took = 100_000, 0.0
    async with pool.transaction() as transaction:
        while took < 2 * LIMIT:
            limit, started = 2 * limit, monotonic()
            assert await transaction.fetch_value(rows, (limit,)) == limit
            took = monotonic() - started
        await transaction.execute(INSERT, (1,))
    assert pool.stats().overruns == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(LIMIT), pool.transaction() as transaction:
            await transaction.run(endless_query)
    assert await pool.write(insert) == 1
    assert await pool.fetch_value(SUM) == 2
