"""What `stats()` tells is what happened."""

import asyncio
import sqlite3
from dataclasses import fields
from datetime import timedelta

import pytest
from sqlite_files import Gate, until

from betcore_async.config import DatabaseSettings
from betcore_async.errors import DatabaseError, PoolTimeoutError, TooManyWaitersError
from betcore_async.sqlite import PoolStats, SQLitePool

INSERT = "INSERT INTO entries DEFAULT VALUES"
COUNT = "SELECT count(*) FROM entries"


@pytest.fixture
async def pool(tmp_path):
    a_minute = timedelta(minutes=1)  # no group ends by the clock
    settings = DatabaseSettings(max_open_conns=3, max_idle_conns=1, max_waiters=20, group_max_time=a_minute)
    async with SQLitePool(tmp_path / "a.db", settings) as pool:
        await pool.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY)")
        yield pool


def since(before: PoolStats, after: PoolStats, *names: str) -> dict[str, int]:
    return {name: getattr(after, name) - getattr(before, name) for name in names}


async def test_each_kind_of_call_is_counted_as_what_it_is(pool):
    before = pool.stats()
    await pool.fetch_all(COUNT)
    await pool.fetch_one(COUNT)
    await pool.read(lambda raw: [raw.execute(COUNT).fetchone() for _ in range(3)])
    async with pool.acquire() as connection:
        await connection.execute_fetchall(COUNT)
    assert [row[0] async for row in pool.iterate(COUNT)] == [0]
    await pool.execute(INSERT)
    await pool.write(lambda raw: [raw.execute(INSERT) for _ in range(1000)] and None)
    async with pool.transaction() as transaction:
        await transaction.execute(INSERT)
        await transaction.fetch_value(COUNT)
    await until(lambda: pool.stats().readers_idle == pool.stats().readers)
    assert since(before, pool.stats(), "requests", "reads", "writes", "transactions", "commits", "groups") == {
        "requests": 8,
        "reads": 3,
        "writes": 2,
        "transactions": 1,
        "commits": 3,
        "groups": 2,
    }
    expected = 1 + 1 + 3 + 1 + 1 + 1 + 1000 + 2
    await pool.close()  # what a connection did is known once it is done with it
    assert since(before, pool.stats(), "statements") == {"statements": expected}


async def test_waiting_and_use_are_told_in_milliseconds(pool):
    before, gates = pool.stats(), [Gate() for _ in range(3)]
    calls = [
        pool.read(lambda _: gates[0].pass_through()),
        pool.read(lambda _: gates[1].pass_through()),
        pool.write(lambda _: gates[2].pass_through()),
    ]
    tasks = [asyncio.create_task(call) for call in calls]
    for gate in gates:
        await gate.reached()
    late = [asyncio.create_task(call) for call in (pool.fetch_value(COUNT), pool.execute(INSERT), pool.execute(INSERT))]

    async def interactive():
        async with pool.transaction():
            await asyncio.sleep(0.05)

    late.append(asyncio.create_task(interactive()))
    await asyncio.sleep(0.1)
    now = pool.stats()
    assert (now.reads_waiting, now.writes_waiting, now.requests_waiting) == (1, 3, 4)
    assert (now.readers, now.readers_idle, now.readers_max) == (2, 0, 2)
    for gate in gates:
        gate.open()
    await asyncio.gather(*tasks, *late)
    told = since(before, pool.stats(), "requests", "requests_queued", "requests_wait_ms", "usage_ms")
    assert told["requests"] == 7
    assert told["requests_queued"] >= 4
    assert 4 * 100 - 5 <= told["requests_wait_ms"] < 60_000
    assert 3 * 100 + 50 - 5 <= told["usage_ms"] < 60_000


async def test_groups_are_counted_by_size(pool):
    before = pool.stats()
    for size in (1, 3, 6):
        gate = Gate()
        blocker = asyncio.create_task(pool.write(lambda _, gate=gate: gate.pass_through()))
        await gate.reached()
        writes = [asyncio.create_task(pool.execute(INSERT)) for _ in range(size - 1)]
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(blocker, *writes)
    after = pool.stats()
    sizes = [now - then for now, then in zip(after.group_sizes, before.group_sizes, strict=True)]
    assert sizes[:4] == [1, 1, 1, 0]
    assert sum(after.group_sizes) == after.groups == after.commits
    assert after.largest_group == 6


async def test_refusals_and_timeouts_are_errors_of_requests(tmp_path):
    settings = DatabaseSettings(
        max_open_conns=2, max_idle_conns=1, max_waiters=1, acquire_timeout=timedelta(milliseconds=200)
    )
    async with SQLitePool(tmp_path / "a.db", settings) as pool:
        async with pool.acquire():
            waiting = asyncio.create_task(pool.fetch_value("SELECT 1"))
            await asyncio.sleep(0)
            with pytest.raises(TooManyWaitersError):
                await pool.fetch_value("SELECT 1")
            with pytest.raises(PoolTimeoutError):
                await waiting
        stats = pool.stats()
    assert (stats.refused, stats.timeouts, stats.requests_errors) == (1, 1, 2)


async def test_connections_are_counted_with_the_time_they_took_also_those_that_failed(tmp_path):
    seen = []

    def hook(raw):
        seen.append(raw)
        if len(seen) == 3:
            raise sqlite3.OperationalError("not this time")

    async with SQLitePool(
        tmp_path / "a.db", DatabaseSettings(max_open_conns=4, max_idle_conns=3), on_connect=hook
    ) as pool:
        async with pool.acquire(), pool.acquire():  # the second one is served by another try
            pass
        stats = pool.stats()
        assert (stats.opened, stats.closed, stats.connections_errors) == (3, 0, 1)
        assert stats.connections_ms > 0
    closed = pool.stats()
    assert (closed.opened, closed.closed, closed.broken, closed.readers) == (3, 3, 0, 0)
    seen[:] = [None, None]
    with pytest.raises(DatabaseError, match="not this time"):
        await pool.open()
    assert pool.stats().connections_errors == 1  # counted anew from each opening


async def test_numbers_only_grow_when_connections_come_and_go(tmp_path):
    settings = DatabaseSettings(max_open_conns=4, max_idle_conns=1, conn_max_lifetime=timedelta(milliseconds=5))
    growing = ("requests", "statements", "reads", "writes", "usage_ms", "requests_wait_ms", "opened", "closed")
    async with SQLitePool(tmp_path / "a.db", settings) as pool:
        await pool.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY)")
        before = pool.stats()
        for _ in range(20):
            await asyncio.gather(*(pool.read(lambda raw: raw.execute(COUNT).fetchall()) for _ in range(8)))
            await pool.execute(INSERT)
            await asyncio.sleep(0.002)
            after = pool.stats()
            assert min(since(before, after, *growing).values()) >= 0
            before = after
    await pool.close()
    assert pool.stats().statements == 1 + 20 * 9
    assert pool.stats().closed == pool.stats().opened > 2


def test_every_number_says_what_it_is(tmp_path):
    stats = SQLitePool(tmp_path / "a.db").stats()
    assert all(isinstance(getattr(stats, field.name), int | tuple) for field in fields(stats))
    with pytest.raises(AttributeError):
        stats.reads = 1
