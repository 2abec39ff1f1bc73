"""The pool on uvloop: the same promises on a loop that is not asyncio's own."""

import asyncio
import contextlib
import gc
import sqlite3
import warnings
from datetime import timedelta

import pytest
import uvloop
from sqlite_files import Gate, held_elsewhere, until

from betcore_async.config import DatabaseSettings
from betcore_async.errors import PoolClosedError, WriteTimeoutError
from betcore_async.sqlite import Outcome, SQLitePool

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
COUNT = "SELECT count(*) FROM entries"
INSERT = "INSERT INTO entries (amount) VALUES (?)"
SETTINGS = DatabaseSettings(max_open_conns=3, max_idle_conns=2, write_timeout=timedelta(milliseconds=300))

uvloop.new_event_loop().close()  # libuv opens a pipe for signals once in a process, and keeps it


@pytest.fixture
def on_uvloop(tmp_path):
    """Run `scenario(pool)` with an open pool on a loop of uvloop."""

    async def use(scenario):
        async with SQLitePool(tmp_path / "a.db", SETTINGS) as pool:
            await pool.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, amount INTEGER CHECK (amount > 0))")
            await asyncio.wait_for(scenario(pool), 30)

    def run(scenario):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(use(scenario))

    return run


def test_groups_isolate_failures_and_readers_see_what_was_committed(on_uvloop):
    async def scenario(pool):
        calls = [pool.execute(INSERT, (-1 if n % 10 == 7 else 1,)) for n in range(100)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        assert [type(error) for error in failed] == [sqlite3.IntegrityError] * 10
        assert await asyncio.gather(*(pool.fetch_value(COUNT) for _ in range(50))) == [90] * 50
        async with pool.transaction() as transaction:
            await transaction.execute(INSERT, (1,))
        assert transaction.outcome is Outcome.COMMITTED
        assert len([row async for row in pool.iterate("SELECT * FROM entries", chunk=7)]) == 91

    on_uvloop(scenario)


def test_cancelled_and_overdue_work_is_stopped(on_uvloop):
    async def scenario(pool):
        reading = asyncio.create_task(pool.fetch_value(ENDLESS))
        await until(lambda: pool.stats().readers_idle == 0)
        reading.cancel()
        await asyncio.wait([reading])
        gate = Gate()
        writing = asyncio.create_task(pool.write(lambda raw: (gate.pass_through(), raw.execute(ENDLESS).fetchone())))
        neighbour = asyncio.create_task(pool.execute(INSERT, (1,)))
        await gate.reached()
        gate.open()
        with pytest.raises(WriteTimeoutError):
            await writing
        await neighbour
        assert await pool.fetch_value(COUNT) == 1

    on_uvloop(scenario)


def test_a_lock_of_another_process_is_waited_out(on_uvloop):
    async def scenario(pool):
        with held_elsewhere(pool.path):
            writing = asyncio.create_task(pool.execute(INSERT, (1,)))
            await until(lambda: pool.stats().busy_retries > 1)
        await writing

    on_uvloop(scenario)


def test_a_forgotten_iterator_gives_its_reader_back_with_a_warning(on_uvloop):
    async def scenario(pool):
        await pool.execute_many(INSERT, [(1,)] * 3)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            async for _ in pool.iterate("SELECT * FROM entries", chunk=1):
                break
            gc.collect()
            await until(lambda: pool.stats().readers_idle == pool.stats().readers)
            await until(lambda: any("iterate" in str(warning.message) for warning in caught))  # once it was given back
        assert [w.category for w in caught if "iterate" in str(w.message)] == [ResourceWarning]

    on_uvloop(scenario)


def test_close_interrupts_at_its_deadline(on_uvloop):
    async def scenario(pool):
        reading = asyncio.create_task(pool.fetch_value(ENDLESS))
        await until(lambda: pool.stats().readers_idle == 0)
        await pool.close(timeout=0.01)
        with contextlib.suppress(PoolClosedError):
            await reading

    on_uvloop(scenario)
