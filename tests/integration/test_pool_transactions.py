# ruff: noqa: PT012 - the block that raises is the transaction itself
"""pool.transaction(): what it keeps, what it undoes, and what its outcome says."""

import asyncio
import contextlib
import sqlite3
from datetime import timedelta

import pytest
from sqlite_files import Gate, seen_from_outside

from betcore_async.config import DatabaseSettings
from betcore_async.errors import DatabaseError, PoolTimeoutError
from betcore_async.sqlite import Outcome, SQLitePool

COUNT = "SELECT count(*) FROM entries"
INSERT = "INSERT INTO entries (id) VALUES (?)"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
async def pool(tmp_path):
    async with SQLitePool(tmp_path / "a.db", DatabaseSettings(max_open_conns=3, max_idle_conns=1)) as pool:
        await pool.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY)")
        await pool.execute(
            "CREATE TABLE children (parent INTEGER REFERENCES entries (id) DEFERRABLE INITIALLY DEFERRED)"
        )
        yield pool


async def test_a_transaction_is_committed_as_a_whole(pool, tmp_path):
    async with pool.transaction() as transaction:
        result = await transaction.execute(INSERT, (1,))
        await transaction.execute_many(INSERT, [(2,), (3,)])
        assert result.lastrowid == 1
        assert await transaction.fetch_value(COUNT) == 3
        assert [row.id for row in await transaction.fetch_all("SELECT id FROM entries")] == [1, 2, 3]
        assert await transaction.fetch_one("SELECT id FROM entries WHERE id = 9") is None
        assert seen_from_outside(tmp_path / "a.db", COUNT) == 0
        assert transaction.outcome is Outcome.OPEN
    assert transaction.outcome is Outcome.COMMITTED
    assert seen_from_outside(tmp_path / "a.db", COUNT) == 3


async def test_reads_of_the_pool_inside_a_transaction_see_what_is_committed(pool):
    async with pool.transaction() as transaction:
        await transaction.execute(INSERT, (1,))
        assert await pool.fetch_value(COUNT) == 0


async def test_an_exception_undoes_everything_and_comes_out_as_it_is(pool):
    with pytest.raises(LookupError, match="mine"):
        async with pool.transaction() as transaction:
            await transaction.execute(INSERT, (1,))
            raise LookupError("mine")
    assert transaction.outcome is Outcome.ROLLED_BACK
    assert await pool.fetch_value(COUNT) == 0
    with pytest.raises(DatabaseError, match="rolled back"):
        await transaction.execute(INSERT, (2,))


async def test_writing_past_the_own_transaction_is_refused_instead_of_waiting_for_ever(pool, tmp_path):
    async with SQLitePool(tmp_path / "b.db") as other, pool.transaction(), other.transaction():
        for held in (pool, other):
            with pytest.raises(DatabaseError, match="write through that transaction"):
                await held.execute(INSERT, (1,))
    await pool.execute(INSERT, (1,))


async def test_nested_in_the_same_task_is_a_savepoint(pool):
    async with pool.transaction() as outer:
        await outer.execute(INSERT, (1,))
        with pytest.raises(LookupError):
            async with pool.transaction() as inner:
                await inner.execute(INSERT, (2,))
                raise LookupError
        async with pool.transaction() as inner:
            await inner.execute(INSERT, (3,))
        async with outer.savepoint():
            await outer.execute(INSERT, (4,))
    assert [row.id for row in await pool.fetch_all("SELECT id FROM entries")] == [1, 3, 4]


async def test_in_another_task_it_is_a_transaction_of_its_own(pool):
    async def other():
        async with pool.transaction() as transaction:
            await transaction.execute(INSERT, (2,))

    with pytest.raises(LookupError):
        async with pool.transaction() as transaction:
            task = asyncio.create_task(other())
            await transaction.execute(INSERT, (1,))
            raise LookupError
    await task
    assert [row.id for row in await pool.fetch_all("SELECT id FROM entries")] == [2]


@pytest.mark.parametrize(
    "sql", ["COMMIT", "ROLLBACK", "BEGIN", "ATTACH DATABASE ':memory:' AS x", "PRAGMA query_only = ON"]
)
async def test_the_transaction_cannot_be_ended_behind_the_pools_back(pool, sql):
    async with pool.transaction() as transaction:
        await transaction.execute(INSERT, (1,))
        with pytest.raises(DatabaseError, match="belong to the pool"):
            await transaction.execute(sql)
    assert await pool.fetch_value(COUNT) == 1


async def test_nothing_is_written_after_sqlite_rolled_the_transaction_back(pool):
    with pytest.raises(DatabaseError, match="rolled"):
        async with pool.transaction() as transaction:
            await transaction.execute(INSERT, (1,))
            with contextlib.suppress(sqlite3.IntegrityError):
                await transaction.execute("INSERT OR ROLLBACK INTO entries VALUES (1)")
            await transaction.execute(INSERT, (2,))
    assert transaction.outcome is Outcome.ROLLED_BACK
    assert await pool.fetch_value(COUNT) == 0


async def test_a_transaction_that_sqlite_rolled_back_unnoticed_is_not_reported_as_done(pool):
    with pytest.raises(DatabaseError, match="nothing was kept"):
        async with pool.transaction() as transaction:
            await transaction.execute(INSERT, (1,))
            with contextlib.suppress(sqlite3.IntegrityError):
                await transaction.execute("INSERT OR ROLLBACK INTO entries VALUES (1)")
    assert transaction.outcome is Outcome.ROLLED_BACK
    await pool.execute(INSERT, (5,))


async def test_a_deferred_foreign_key_that_fails_at_commit_undoes_everything(pool):
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        async with pool.transaction() as transaction:
            await transaction.execute(INSERT, (1,))
            await transaction.execute("INSERT INTO children VALUES (99)")
    assert transaction.outcome is Outcome.ROLLED_BACK
    assert await pool.fetch_value(COUNT) == 0


async def test_an_open_cursor_does_not_stand_in_the_way_of_the_commit(pool):
    await pool.execute_many(INSERT, [(1,), (2,)])
    async with pool.transaction() as transaction:
        kept = await transaction.run(lambda raw: raw.execute("UPDATE entries SET id = id + 10 RETURNING id"))
    assert transaction.outcome is Outcome.COMMITTED
    with pytest.raises(sqlite3.ProgrammingError):
        kept.fetchone()


@pytest.mark.parametrize("kind", [StopIteration, asyncio.CancelledError])
async def test_what_cannot_leave_a_coroutine_comes_out_as_an_error(pool, kind):
    def raise_it(_):
        raise kind

    async with pool.transaction() as transaction:
        with pytest.raises(DatabaseError, match=kind.__name__):
            await asyncio.wait_for(transaction.run(raise_it), 30)
        await transaction.execute(INSERT, (1,))
    assert await pool.fetch_value(COUNT) == 1


async def test_a_timeout_around_a_statement_stops_it_and_the_rest_can_go_on_or_is_told(pool):
    async with pool.transaction() as transaction:
        await transaction.execute(INSERT, (1,))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await transaction.fetch_value(ENDLESS)
        await transaction.execute(INSERT, (2,))  # an interrupted SELECT has not ended the transaction
    assert await pool.fetch_value(COUNT) == 2
    with pytest.raises(DatabaseError, match="rolled"):
        async with pool.transaction() as transaction:
            await transaction.execute(INSERT, (3,))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await transaction.execute(f"INSERT INTO entries {ENDLESS}")
            await transaction.execute(INSERT, (4,))  # an interrupted INSERT has
    assert await pool.fetch_value(COUNT) == 2


async def test_a_statement_cancelled_in_its_queue_does_not_interrupt_the_one_that_runs(pool):
    gate = Gate()
    async with pool.transaction() as transaction:

        def slow(raw):
            raw.execute(INSERT, (1,))
            gate.pass_through()
            return raw.execute(
                f"SELECT count(*) FROM ({ENDLESS.replace('FROM n)', 'FROM n LIMIT 200000)')})"
            ).fetchone()

        running = asyncio.create_task(transaction.run(slow))
        await gate.reached()
        queued = asyncio.create_task(transaction.execute(INSERT, (2,)))
        await asyncio.sleep(0)
        queued.cancel()
        gate.open()
        await running
        await asyncio.wait([queued])
        assert queued.cancelled()
    assert await pool.fetch_value(COUNT) == 1


async def test_transactions_and_writes_take_turns_in_order_of_arrival(pool):
    order = []
    gate = Gate()
    blocker = asyncio.create_task(pool.write(lambda _: gate.pass_through()))
    await gate.reached()

    async def interactive(name):
        async with pool.transaction():
            order.append(name)

    async def write(name):
        await pool.write(lambda _: order.append(name))

    names = ["w1", "t1", "w2", "w3", "t2", "w4"]
    tasks = [asyncio.create_task((write if name[0] == "w" else interactive)(name)) for name in names]
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(blocker, *tasks)
    assert order == names


async def test_neither_kind_starves_the_other(pool):
    """While writers never stop, transactions get their turns, and the reverse."""
    done = {"w": 0, "t": 0}
    stop = False

    async def keep_writing():
        while not stop:
            await pool.write(lambda _: None)
            done["w"] += 1

    async def keep_transacting():
        while not stop:
            async with pool.transaction():
                pass
            done["t"] += 1

    tasks = [asyncio.create_task(work()) for work in (keep_writing, keep_transacting) for _ in range(4)]
    async with asyncio.timeout(20):
        while min(done.values()) < 50:  # noqa: ASYNC110 - the work itself is what is waited for
            await asyncio.sleep(0.001)
    stop = True
    await asyncio.gather(*tasks)


async def test_waiting_for_the_writer_has_a_limit(tmp_path):
    settings = DatabaseSettings(acquire_timeout=timedelta(milliseconds=300))
    async with SQLitePool(tmp_path / "a.db", settings) as pool:
        async with pool.transaction():
            write = asyncio.create_task(pool.write(lambda _: None))
            turn = asyncio.create_task(pool.transaction().__aenter__())
            await asyncio.wait([write, turn])
        assert isinstance(write.exception(), PoolTimeoutError)
        assert isinstance(turn.exception(), PoolTimeoutError)
        assert write.exception().waited >= 0.3
        assert pool.stats().timeouts == 2
        await pool.write(lambda _: None)
