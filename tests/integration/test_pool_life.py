"""The life of a pool: opening, growing old, closing, and being forgotten."""

import asyncio
import gc
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import timedelta

import pytest
from sqlite_files import Gate, until

from betcore_async.config import DatabaseSettings
from betcore_async.errors import DatabaseError, PoolClosedError
from betcore_async.sqlite import Outcome, SQLitePool

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
async def pool(tmp_path):
    pool = SQLitePool(tmp_path / "a.db", DatabaseSettings(max_open_conns=4, max_idle_conns=2))
    await pool.open()
    await pool.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY)")
    yield pool
    await pool.close(0)


def test_nothing_is_opened_before_open(tmp_path):
    pool = SQLitePool(tmp_path / "a.db")
    assert repr(pool) == "<SQLitePool 'a' closed>"
    assert list(tmp_path.iterdir()) == []
    assert pool.stats().readers == 0


async def test_files_are_readable_by_their_owner_alone(pool, tmp_path):
    await pool.fetch_value("SELECT 1")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}


async def test_closing_leaves_one_file_and_no_thread(tmp_path):
    threads = threading.active_count()
    async with SQLitePool(tmp_path / "a.db") as pool:
        await pool.execute("CREATE TABLE t (x)")
        await asyncio.gather(*(pool.read(lambda raw: raw.execute("SELECT * FROM t").fetchall()) for _ in range(20)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]
    await until(lambda: threading.active_count() == threads)


async def test_every_connection_is_set_up_alike(pool):
    def settings(raw):
        names = ("journal_mode", "foreign_keys", "trusted_schema", "temp_store", "cache_size", "busy_timeout")
        return [raw.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    expected = ["wal", 1, 0, 2, -8000, 0]
    assert await pool.read(settings) == expected
    assert await pool.write(settings) == expected
    assert await pool.write(lambda raw: raw.execute("PRAGMA synchronous").fetchone()[0]) == 1
    assert await pool.read(lambda raw: raw.execute("PRAGMA wal_autocheckpoint").fetchone()[0]) == 0


async def test_on_connect_sees_every_connection_and_may_fail(tmp_path):
    threads = []

    def hook(raw):
        threads.append(threading.get_ident())
        raw.create_function("twice", 1, lambda value: value * 2)

    async with SQLitePool(tmp_path / "a.db", on_connect=hook) as pool:
        assert await pool.fetch_value("SELECT twice(21)") == 42
        assert await pool.write(lambda raw: raw.execute("SELECT twice(4)").fetchone()[0]) == 8
    assert len(set(threads)) == 2
    assert threading.get_ident() not in threads

    def fail(_):
        raise sqlite3.OperationalError("no such extension")

    with pytest.raises(DatabaseError, match="no such extension"):
        await SQLitePool(tmp_path / "a.db", on_connect=fail).open()


async def test_opening_twice_is_refused_and_reopening_works(pool):
    with pytest.raises(DatabaseError, match="open already"):
        await pool.open()
    await pool.close()
    await pool.close()
    with pytest.raises(PoolClosedError, match="open it first"):
        await pool.fetch_value("SELECT 1")
    await pool.open()
    assert await pool.fetch_value("SELECT count(*) FROM entries") == 0


async def test_opening_twice_at_the_same_time_opens_once(tmp_path):
    pool = SQLitePool(tmp_path / "a.db")
    results = await asyncio.gather(pool.open(), pool.open(), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), DatabaseError]
    await pool.close()


# Closing


async def test_close_lets_everything_taken_finish(pool):
    reads = [asyncio.create_task(pool.read(lambda _: 1)) for _ in range(50)]
    writes = [asyncio.create_task(pool.write(lambda _: 1)) for _ in range(50)]

    async def interactive():
        async with pool.transaction() as transaction:
            await transaction.execute("INSERT INTO entries VALUES (1)")
            return 1

    writes.append(asyncio.create_task(interactive()))
    await asyncio.sleep(0)
    await pool.close()
    assert await asyncio.gather(*reads, *writes) == [1] * 101


async def test_close_interrupts_at_its_deadline_and_tells_everybody(pool):
    running = [asyncio.create_task(pool.fetch_value(ENDLESS)) for _ in range(5)]
    writing = [
        asyncio.create_task(pool.write(lambda raw: raw.execute(f"INSERT INTO entries {ENDLESS}"))) for _ in range(3)
    ]
    await until(lambda: pool.stats().readers == 3)
    await asyncio.wait_for(pool.close(timeout=0.05), 30)
    for task in (*running, *writing):
        with pytest.raises(PoolClosedError):
            await asyncio.wait_for(task, 30)


async def test_close_ends_loops_of_short_statements_at_its_deadline(pool):
    def endless(raw):
        while True:
            with suppress(sqlite3.Error):
                raw.execute("SELECT 1").fetchone()

    tasks = [asyncio.create_task(call(endless)) for call in (pool.read, pool.write)]
    await until(lambda: pool.stats().readers_idle == 0)
    await asyncio.wait_for(pool.close(timeout=0.05), 20)
    for task in tasks:
        with pytest.raises(PoolClosedError):
            await asyncio.wait_for(task, 30)


async def test_a_cancelled_close_hurries_and_still_closes(pool, tmp_path):
    endless = asyncio.create_task(pool.fetch_value(ENDLESS))
    await until(lambda: pool.stats().readers_idle == 0)
    closing = asyncio.create_task(pool.close(timeout=60))
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(closing, 30)
    with pytest.raises(PoolClosedError):
        await endless
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]


async def test_connections_held_at_the_deadline_are_closed_under_their_holders(pool):
    release = asyncio.Event()
    outcomes = []

    async def hold_transaction():
        try:
            async with pool.transaction() as transaction:
                outcomes.append(transaction)
                await transaction.execute("INSERT INTO entries VALUES (1)")
                await release.wait()
                await transaction.execute("INSERT INTO entries VALUES (2)")
        except PoolClosedError:
            return "told"

    async def hold_reader():
        async with pool.acquire() as connection:
            await release.wait()
            with suppress(ValueError):
                await connection.execute("SELECT 1")
                return "served"
        return "told"

    async def hold_iterator():
        try:
            async for _ in pool.iterate("SELECT 1 UNION ALL SELECT 2", chunk=1):
                await release.wait()
        except PoolClosedError:
            return "told"

    tasks = [asyncio.create_task(hold()) for hold in (hold_transaction, hold_reader, hold_iterator)]
    await until(lambda: pool.stats().readers == 2 and pool.stats().transactions == 1)
    await pool.close(timeout=0.01)
    release.set()
    assert await asyncio.gather(*tasks) == ["told"] * 3
    assert outcomes[0].outcome is Outcome.ROLLED_BACK
    async with SQLitePool(pool.path) as again:
        assert await again.fetch_value("SELECT count(*) FROM entries") == 0


async def test_calls_after_close_began_are_refused(pool):
    gate = Gate()
    running = asyncio.create_task(pool.read(lambda _: gate.pass_through()))
    await gate.reached()
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    for call in (pool.fetch_value("SELECT 1"), pool.execute("SELECT 1")):
        with pytest.raises(PoolClosedError):
            await call
    gate.open()
    await asyncio.gather(running, closing)


# Connections that break or grow old


@pytest.mark.parametrize("call", ["read", "write"])
async def test_a_connection_that_is_gone_is_replaced(pool, call):
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        await getattr(pool, call)(lambda raw: (raw.close(), raw.execute("SELECT 1")))
    assert await asyncio.wait_for(getattr(pool, call)(lambda raw: raw.execute("SELECT 7").fetchone()[0]), 30) == 7
    assert pool.stats().broken == 1


async def test_neighbours_in_the_group_of_a_broken_connection_are_run_again(pool):
    gate = Gate()
    blocker = asyncio.create_task(pool.write(lambda _: gate.pass_through()))
    await gate.reached()
    before = asyncio.create_task(pool.execute("INSERT INTO entries VALUES (1)"))
    breaker = asyncio.create_task(pool.write(lambda raw: raw.close()))
    after = asyncio.create_task(pool.execute("INSERT INTO entries VALUES (2)"))
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(before, after, blocker)
    with pytest.raises(sqlite3.ProgrammingError):
        await breaker
    assert await pool.fetch_value("SELECT count(*) FROM entries") == 2


async def test_a_writer_that_cannot_be_reopened_is_an_error_for_each_caller_until_it_can(pool, tmp_path):
    path = tmp_path / "a.db"

    def take_away(raw):
        path.rename(tmp_path / "away")
        path.mkdir()
        raw.close()

    with pytest.raises(sqlite3.ProgrammingError):
        await pool.write(take_away)
    for _ in range(2):
        with pytest.raises(DatabaseError, match="cannot"):
            await asyncio.wait_for(pool.write(lambda _: 1), 30)
    path.rmdir()
    (tmp_path / "away").rename(path)
    assert await asyncio.wait_for(pool.write(lambda _: 1), 30) == 1


async def test_readers_beyond_their_lifetime_are_replaced(tmp_path):
    settings = DatabaseSettings(max_open_conns=3, max_idle_conns=2, conn_max_lifetime=timedelta(milliseconds=30))
    async with SQLitePool(tmp_path / "a.db", settings) as pool:
        first = await pool.read(lambda _: threading.get_ident())
        await until(lambda: pool.stats().readers == 0)  # an idle one is closed when its time has come
        assert await pool.read(lambda _: 1) == 1
        assert pool.stats().closed >= 1
        assert first


async def test_idle_readers_beyond_the_limit_are_closed(pool):
    gates = [Gate() for _ in range(3)]
    tasks = [asyncio.create_task(pool.read(lambda _, gate=gate: gate.pass_through())) for gate in gates]
    for gate in gates:
        await gate.reached()
    assert pool.stats().readers == 3
    for gate in gates:
        gate.open()
    await asyncio.gather(*tasks)
    await until(lambda: pool.stats().readers == 2)


# Where it does not belong


def test_another_loop_is_a_clear_error(tmp_path):
    pool = SQLitePool(tmp_path / "a.db")
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(pool.open())
        with pytest.raises(PoolClosedError, match="another event loop"):
            second.run(pool.fetch_value("SELECT 1"))
        with pytest.raises(PoolClosedError, match="another event loop"):
            second.run(pool.close())
        first.run(pool.close())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_forked_process_is_told_and_harms_nothing(pool):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - measured in the parent only
        answer = b"no error"
        try:
            pool.fetch_value("SELECT 1").send(None)
        except PoolClosedError as error:
            answer = str(error).encode()
        finally:
            os.write(write, answer)
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)  # noqa: ASYNC222 - it ends at once
    with os.fdopen(read) as pipe:
        assert "fork" in pipe.read()
    await pool.execute("INSERT INTO entries VALUES (1)")


async def test_a_forgotten_pool_warns_and_ends_its_threads(tmp_path):
    threads = threading.active_count()
    pool = SQLitePool(tmp_path / "a.db")
    await pool.open()
    with pytest.warns(ResourceWarning, match="never closed"):  # noqa: PT031 - the name goes first
        del pool
        gc.collect()
    await until(lambda: threading.active_count() == threads)
    gc.collect()


FORGETFUL = """
import asyncio, sys
from betcore_async.sqlite import SQLitePool
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
async def main():
    global pool
    pool = SQLitePool(sys.argv[1])
    await pool.open()
    await pool.execute("CREATE TABLE t (x)")
    if sys.argv[2] == "busy":
        asyncio.get_running_loop().create_task(pool.fetch_value(ENDLESS))
        await asyncio.sleep(0.05)
asyncio.run(main())
print("end of main")
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_an_unclosed_pool_does_not_keep_its_process_alive(tmp_path, state):
    command = [sys.executable, "-W", "always", "-c", FORGETFUL, str(tmp_path / "a.db"), state]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)
    assert ended.stdout == "end of main\n", ended.stderr
    assert ended.returncode == 0
    assert "was never closed" in ended.stderr


async def test_health_tells_and_never_raises(pool):
    assert (await pool.health()).ok
    await pool.close()
    health = await pool.health()
    assert not health.ok
    assert "open it first" in health.error
