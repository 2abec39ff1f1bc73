"""Cancelled at any await of any call, the pool loses nothing, leaves nothing, and still works."""

import asyncio
import contextlib
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from reliability.cancellation import cancelled_everywhere
from sqlite_files import Gate, held_elsewhere, seen_from_outside, until

from betcore_async.config import DatabaseSettings
from betcore_async.sqlite import Outcome, SQLitePool

COUNT = "SELECT count(*) FROM entries"
INSERT = "INSERT INTO entries DEFAULT VALUES"
SETTINGS = DatabaseSettings(max_open_conns=3, max_idle_conns=2, busy_timeout=timedelta(seconds=20))


@pytest.fixture
async def pool(tmp_path):
    async with SQLitePool(tmp_path / "a.db", SETTINGS) as pool:
        await pool.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY)")
        await pool.execute_many("INSERT INTO entries VALUES (?)", [(n,) for n in range(10)])
        yield pool


async def iterate(pool):
    async with contextlib.aclosing(pool.iterate("SELECT * FROM entries LIMIT 10", chunk=4)) as rows:
        return [row async for row in rows]


async def borrow(pool):
    async with pool.acquire(timeout=10) as connection, connection.execute(COUNT) as cursor:
        await cursor.fetchone()


async def transact(pool):
    async with pool.transaction() as transaction:
        await transaction.execute(INSERT)
        async with pool.transaction():
            await transaction.execute_many("INSERT INTO entries VALUES (?)", [(None,), (None,)])
        await transaction.fetch_all("SELECT * FROM entries LIMIT 10")


CALLS = {
    "fetch_all": lambda pool: pool.fetch_all("SELECT * FROM entries LIMIT 10"),
    "fetch_one": lambda pool: pool.fetch_one("SELECT * FROM entries"),
    "fetch_value": lambda pool: pool.fetch_value(COUNT),
    "read": lambda pool: pool.read(lambda raw: raw.execute(COUNT).fetchall()),
    "iterate": iterate,
    "acquire": borrow,
    "execute": lambda pool: pool.execute(INSERT),
    "execute_many": lambda pool: pool.execute_many("INSERT INTO entries VALUES (?)", [(None,), (None,)]),
    "write": lambda pool: pool.write(lambda raw: raw.execute(INSERT).rowcount),
    "transaction": transact,
    "health": lambda pool: pool.health(),
}
ADDS = {"execute": 1, "execute_many": 2, "write": 1, "transaction": 3}

every_call = pytest.mark.parametrize("name", CALLS)
every_way = pytest.mark.parametrize("way", [{}, {"twice": True}, {"late": True}], ids=["once", "twice", "late"])


async def check(pool, before, name):
    """Look the whole pool over after a call was cut off; return the number of rows now."""
    await until(lambda: pool.stats().readers_idle == pool.stats().readers > 0)
    stats = pool.stats()
    assert (stats.reads_waiting, stats.writes_waiting) == (0, 0)
    readers = await asyncio.gather(*(pool.read(lambda raw: raw.in_transaction) for _ in range(4)))
    assert readers == [True] * 4  # the snapshot of `read` itself; a second BEGIN would have failed
    async with pool.acquire(timeout=5) as connection:
        assert not connection.in_transaction
    async with asyncio.timeout(30):
        after = await pool.write(lambda raw: raw.execute(COUNT).fetchone()[0])
        async with pool.transaction() as transaction:
            assert await transaction.fetch_value(COUNT) == after
    assert after - before in {0, ADDS.get(name, 0)}
    assert seen_from_outside(pool.path, COUNT) == after
    return after


@every_call
@every_way
async def test_a_call_cancelled_anywhere_leaves_the_pool_as_it_should_be(pool, name, way):
    rows, cut_off = 10, 0
    async for cancelled in cancelled_everywhere(lambda: CALLS[name](pool), **way):
        cut_off += cancelled
        rows = await check(pool, rows, name)
    assert cut_off
    assert pool.stats().broken == 0


@every_call
async def test_a_call_cancelled_anywhere_while_others_are_at_work_does_not_disturb_them(pool, name):
    """Three neighbours of each kind, queued together with the call that is cut off."""

    async def neighbours():
        work = [asyncio.create_task(CALLS[other](pool)) for other in CALLS for _ in range(2)]
        return await asyncio.gather(*work, return_exceptions=True)

    async def together():
        around = asyncio.create_task(neighbours())
        await asyncio.sleep(0)
        try:
            await CALLS[name](pool)
        finally:
            others.append(around)

    others: list[asyncio.Task] = []
    async for _ in cancelled_everywhere(together):
        for around in others:
            assert [error for error in await around if isinstance(error, BaseException)] == []
        others.clear()
    await until(lambda: pool.stats().readers_idle == pool.stats().readers)


@pytest.mark.parametrize("name", ADDS)
async def test_a_write_cancelled_while_a_lock_is_waited_for_is_not_done_later(pool, name):
    with held_elsewhere(pool.path) as holder:
        for _ in range(3):
            task = asyncio.create_task(CALLS[name](pool))
            retries = pool.stats().busy_retries
            await until(lambda retries=retries: pool.stats().busy_retries > retries or pool.stats().writes_waiting == 0)
            task.cancel()
            await asyncio.wait([task], timeout=30)
            assert task.cancelled()
        assert holder
    await check(pool, 10, name)
    assert seen_from_outside(pool.path, COUNT) == 10


async def test_the_outcome_of_a_cancelled_transaction_is_the_truth(pool):
    seen = []

    async def work():
        async with pool.transaction() as transaction:
            seen.append(transaction)
            await transaction.execute(INSERT)

    rows, outcomes = 10, set()
    for way in ({}, {"twice": True}, {"late": True}):
        async for _ in cancelled_everywhere(work, **way):
            now = seen_from_outside(pool.path, COUNT)
            if seen:
                kept = seen.pop().outcome
                outcomes.add(kept)
                assert now - rows == {Outcome.COMMITTED: 1, Outcome.ROLLED_BACK: 0}[kept]
            else:
                assert now == rows
            rows = now
    assert outcomes == {Outcome.COMMITTED, Outcome.ROLLED_BACK}


@pytest.mark.parametrize("kind", ["write", "read", "hop"])
async def test_a_cancel_in_the_turn_in_which_the_answer_arrives_does_not_wait_for_another(pool, kind):
    """The loop is held until the thread has answered, so that answer and cancel meet in one turn."""
    gate, answered = Gate(), threading.Event()

    def work(_):
        gate.pass_through()

    async def hop():
        async with pool.transaction() as transaction:
            await transaction.run(work)

    calls = {"write": lambda: pool.write(work), "read": lambda: pool.read(work), "hop": hop}
    task = asyncio.create_task(calls[kind]())
    await gate.reached()
    writer, readers = pool._parts
    link = next(iter(readers._open)).link if kind == "read" else writer._link
    link.post(answered.set)  # runs behind the work, when its answer is on the way
    gate.open()
    assert answered.wait(10)
    task.cancel()
    await asyncio.wait([task], timeout=30)
    assert task.cancelled()
    await check(pool, 10, "none")


@every_way
async def test_opening_cancelled_anywhere_leaves_nothing_open(tmp_path, way):
    files, threads = open_files(), threading.active_count()
    async for cancelled in cancelled_everywhere(lambda: opened_and_closed(tmp_path / "a.db"), **way):
        assert cancelled in {True, False}
        await until(lambda: threading.active_count() == threads)
        assert open_files() == files
    async with SQLitePool(tmp_path / "a.db", SETTINGS) as pool:
        assert await pool.fetch_value("SELECT 1") == 1


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


async def opened_and_closed(path: Path):
    pool = SQLitePool(path, SETTINGS)
    await pool.open()
    await pool.close()


@every_way
async def test_closing_cancelled_anywhere_closes_all_the_same(tmp_path, way):
    threads = threading.active_count()
    pools = []

    async def close():
        await pools[-1].close()

    async def prepared():
        pool = SQLitePool(tmp_path / f"{len(pools)}.db", SETTINGS)
        await pool.open()
        await pool.execute("CREATE TABLE entries (id)")
        pools.append(pool)

    await prepared()
    async for _ in cancelled_everywhere(close, **way):
        assert repr(pools[-1]).endswith("closed>")
        await until(lambda: threading.active_count() == threads)
        assert not Path(f"{pools[-1].path}-wal").exists()
        await prepared()
    await pools[-1].close()


async def test_a_pool_outlives_thousands_of_calls_cancelled_at_random(pool):
    """Cut off at random moments, not at chosen ones."""
    before = pool.stats()
    for _ in range(150):
        tasks = [asyncio.create_task(call(pool)) for call in CALLS.values() for _ in range(5)]
        for number, task in enumerate(tasks):
            asyncio.get_running_loop().call_later(0.0001 * (number * 7919 % 50), task.cancel)
        await asyncio.wait(tasks)
        failures = [task.exception() for task in tasks if not task.cancelled()]
        assert [failure for failure in failures if failure is not None] == []
    await until(lambda: pool.stats().readers_idle == pool.stats().readers)
    assert pool.stats().broken == before.broken == 0
    assert await pool.fetch_value(COUNT) == seen_from_outside(pool.path, COUNT)
