"""Reading through the pool: what a caller sees, whom a cancellation hits, what a reader is like afterwards."""

import asyncio
import contextlib
import gc
import sqlite3
import warnings
from datetime import timedelta

import pytest
from sqlite_files import Gate, seen_from_outside, until

from betcore_async.config import DatabaseSettings
from betcore_async.errors import DatabaseError, PoolClosedError, PoolTimeoutError, TooManyWaitersError
from betcore_async.sqlite import SQLitePool, reader, readers
from betcore_async.sqlite.reader import Reader

COUNT = "SELECT count(*) FROM entries"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
async def pool(tmp_path):
    settings = DatabaseSettings(max_open_conns=4, max_idle_conns=3, busy_timeout=timedelta(seconds=5))
    async with SQLitePool(tmp_path / "a.db", settings) as pool:
        await pool.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, amount INTEGER)")
        await pool.execute_many("INSERT INTO entries VALUES (?, ?)", ((i, i * 10) for i in range(1, 101)))
        yield pool


async def single_reader_pool(tmp_path):
    pool = SQLitePool(tmp_path / "a.db", DatabaseSettings(max_open_conns=2, max_idle_conns=1))
    await pool.open()
    await pool.execute("CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, amount INTEGER)")
    await pool.execute("INSERT INTO entries (amount) VALUES (1), (2), (3)")
    return pool


@pytest.fixture
async def narrow(tmp_path):
    """A pool with one reader, so that whatever a caller leaves behind meets the next one."""
    pool = await single_reader_pool(tmp_path)
    yield pool
    await pool.close()


async def test_rows_answer_by_position_name_and_attribute(pool):
    row = await pool.fetch_one("SELECT id, amount FROM entries WHERE id = ?", (7,))
    assert row is not None
    assert (row[0], row["amount"], row.amount) == (7, 70, 70)
    assert repr(row) == "Row(id=7, amount=70)"
    with pytest.raises(AttributeError, match="it has id, amount"):
        _ = row.balance


async def test_each_fetch_returns_what_its_name_says(pool):
    assert len(await pool.fetch_all("SELECT * FROM entries")) == 100
    assert await pool.fetch_one("SELECT * FROM entries WHERE id = :id", {"id": 0}) is None
    assert await pool.fetch_value("SELECT amount FROM entries WHERE id = 0") is None
    assert await pool.fetch_value("SELECT max(amount) FROM entries") == 1000


async def test_an_error_in_the_callers_sql_is_sqlite3s_own(pool):
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await pool.fetch_all("SELECT * FROM nowhere")


async def test_readers_cannot_write(pool):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await pool.fetch_all("INSERT INTO entries VALUES (0, 0)")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await pool.read(lambda raw: raw.execute("PRAGMA query_only = OFF").execute("DELETE FROM entries"))


async def test_every_query_of_a_read_function_sees_the_same_snapshot(pool, tmp_path):
    gate = Gate()

    def twice(raw):
        first = raw.execute(COUNT).fetchone()[0]
        gate.pass_through()
        return first, raw.execute(COUNT).fetchone()[0]

    reading = asyncio.create_task(pool.read(twice))
    await gate.reached()
    await pool.execute("INSERT INTO entries VALUES (1000, 1)")
    gate.open()
    assert await reading == (100, 100)
    assert await pool.fetch_value(COUNT) == 101


async def test_a_read_sees_every_write_acknowledged_before_it(narrow, monkeypatch):
    """Also when it is taken along by a hop whose snapshot is older than that write."""
    monkeypatch.setattr(reader, "HOP_TIME", 60.0)
    gate = Gate()

    def count_and_wait(raw):
        found = raw.execute(COUNT).fetchone()[0]
        gate.pass_through()
        return found

    old = asyncio.create_task(narrow.read(count_and_wait))
    await gate.reached()
    await narrow.execute("INSERT INTO entries (amount) VALUES (4)")
    new = asyncio.create_task(narrow.fetch_value(COUNT))
    await asyncio.sleep(0)
    gate.open()
    assert (await old, await new) == (3, 4)


async def test_cancelled_long_select_frees_its_reader(narrow):
    reading = asyncio.create_task(narrow.fetch_value(ENDLESS))
    await until(lambda: narrow.stats().readers_idle == 0)
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await asyncio.wait_for(narrow.fetch_value(COUNT), 30) == 3
    assert narrow.stats().interrupts == 1


async def test_cancelled_read_does_not_interrupt_its_neighbour(narrow):
    """The next read starts on the very connection, in the very hop, in which the cancelled one was interrupted."""
    for _ in range(50):
        gate = Gate()
        blocker = asyncio.create_task(narrow.read(lambda _, gate=gate: gate.pass_through()))
        await gate.reached()
        victim = asyncio.create_task(narrow.fetch_value(ENDLESS))
        neighbours = [asyncio.create_task(narrow.fetch_value(COUNT)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.open()
        await blocker
        victim.cancel()
        assert await asyncio.gather(*neighbours) == [3, 3, 3]
        with pytest.raises(asyncio.CancelledError):
            await victim


async def test_a_cancelled_loop_of_short_statements_ends_too(narrow):
    """An interrupt does not reach them: each is over before it looks."""
    gate = Gate()

    def endless(raw):
        gate.pass_through()
        while True:
            with contextlib.suppress(sqlite3.Error):
                raw.execute("SELECT 1").fetchone()

    async def transact():
        async with narrow.transaction() as transaction:
            await transaction.run(endless)

    for call in (lambda: narrow.read(endless), transact):
        gate = Gate()
        task = asyncio.create_task(call())
        await gate.reached()
        gate.open()
        task.cancel()
        await asyncio.wait([task], timeout=30)
        assert task.cancelled()
        assert await asyncio.wait_for(narrow.fetch_value(COUNT), 30) == 3
        assert await asyncio.wait_for(narrow.write(lambda raw: raw.execute(COUNT).fetchone()[0]), 30) == 3
    assert narrow.stats().broken == 0


async def test_a_quick_read_does_not_wait_for_a_long_one_taken_along_in_its_hop(narrow, monkeypatch):
    monkeypatch.setattr(reader, "HOP_TIME", 60.0)
    gate = Gate()
    blocker = asyncio.create_task(narrow.read(lambda _: gate.pass_through()))
    await gate.reached()
    quick = asyncio.create_task(narrow.fetch_value(COUNT))
    endless = asyncio.create_task(narrow.fetch_value(ENDLESS))
    await asyncio.sleep(0)
    gate.open()
    await asyncio.wait_for(blocker, 30)
    assert await asyncio.wait_for(quick, 30) == 3
    endless.cancel()
    await asyncio.wait([endless])


async def test_reads_taken_along_behind_a_long_one_go_to_another_reader_in_their_order(pool):
    endless = asyncio.create_task(pool.fetch_value(ENDLESS))
    order = []
    behind = [asyncio.create_task(pool.read(lambda _, n=n: order.append(n))) for n in range(5)]
    given_up = asyncio.create_task(pool.read(lambda _: order.append("given up")))
    await asyncio.sleep(0)  # one hop takes them all
    given_up.cancel()
    await asyncio.wait_for(asyncio.gather(*behind), 30)
    assert order == [0, 1, 2, 3, 4]
    assert not endless.done()
    endless.cancel()
    await asyncio.wait([endless, given_up])


async def test_close_refuses_reads_taken_along_behind_a_long_one(pool):
    tasks = [asyncio.create_task(pool.fetch_value(sql)) for sql in (ENDLESS, COUNT, COUNT)]
    await until(lambda: pool.stats().readers_idle == 0)
    await pool.close(timeout=0)
    for task in tasks:
        with pytest.raises(PoolClosedError):
            await task


async def test_close_refuses_reads_that_a_hop_takes_along_in_that_very_moment(pool, monkeypatch):
    """The thread has them from the line and not yet among what the loop can take back."""
    take_back, early = Reader.take_back, []

    def too_early(self):
        if early or pool.stats().readers:
            return take_back(self)
        early.append(self)
        return []

    monkeypatch.setattr(Reader, "take_back", too_early)
    monkeypatch.setattr(reader, "HOP_TIME", 0.0)  # the hop leaves the rest to whoever comes next
    monkeypatch.setattr(readers, "GROW_AFTER", 60.0)
    tasks = [asyncio.create_task(pool.fetch_value(sql)) for sql in (ENDLESS, COUNT, COUNT)]
    await until(lambda: pool.stats().reads_waiting == 2)
    await pool.close(timeout=0)
    assert early
    for task in tasks:
        with pytest.raises(PoolClosedError):
            await asyncio.wait_for(task, 30)


async def test_read_cancelled_before_its_turn_never_runs(narrow):
    gate, ran = Gate(), []
    blocker = asyncio.create_task(narrow.read(lambda _: gate.pass_through()))
    await gate.reached()
    waiting = asyncio.create_task(narrow.read(lambda _: ran.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.open()
    await blocker
    await narrow.fetch_value("SELECT 1")
    assert ran == []


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, asyncio.CancelledError, GeneratorExit])
async def test_a_read_function_that_raises_what_a_coroutine_cannot_gets_an_error_all_the_same(narrow, kind):
    def raise_it(_):
        raise kind("odd")

    with pytest.raises(DatabaseError, match=kind.__name__):
        await asyncio.wait_for(narrow.read(raise_it), 30)
    assert await asyncio.wait_for(narrow.fetch_value(COUNT), 30) == 3


async def test_a_coroutine_function_is_refused(narrow):
    async def read(_):
        return 1

    with pytest.raises(DatabaseError, match="coroutine"):
        await narrow.read(read)
    with pytest.raises(DatabaseError, match="coroutine"):
        await narrow.write(read)


async def test_a_cursor_that_escapes_is_closed_and_pins_nothing(narrow):
    """An open statement would keep every later read of that connection at its old snapshot."""
    escaped = await narrow.read(lambda raw: (row for row in raw.execute("SELECT * FROM entries")))
    kept = []

    def keep(raw):
        kept.append(raw.execute("SELECT * FROM entries"))
        kept[0].fetchone()
        raise ValueError("with an open cursor in its traceback")

    with pytest.raises(ValueError, match="open cursor"):
        await narrow.read(keep)
    await narrow.execute("INSERT INTO entries (amount) VALUES (4)")
    assert await narrow.fetch_value(COUNT) == 4
    with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
        next(escaped)


async def test_settings_of_the_connection_do_not_leak_to_the_next_reader(narrow):
    def tamper(raw):
        raw.row_factory = None
        raw.text_factory = bytes

    await narrow.read(tamper)
    row = await narrow.fetch_one("SELECT 'text' AS word")
    assert row is not None
    assert row.word == "text"


async def test_a_long_scan_does_not_slow_short_reads_down(pool, monkeypatch):
    scan = asyncio.create_task(pool.fetch_value(ENDLESS))
    await until(lambda: pool.stats().readers_idle == 0)
    await pool.fetch_value(COUNT)  # has had a second reader opened
    monkeypatch.setattr(readers, "GROW_AFTER", 60)  # each would wait that long for a reader that is busy for good
    async with asyncio.timeout(30):
        for _ in range(100):
            await pool.fetch_value(COUNT)
    scan.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scan


async def test_readers_grow_to_their_limit_and_no_further(pool):
    gates = [Gate() for _ in range(5)]
    tasks = [asyncio.create_task(pool.read(lambda _, gate=gate: gate.pass_through())) for gate in gates]
    for gate in gates[:3]:
        await gate.reached()
    assert pool.stats().readers == 3
    assert pool.stats().reads_waiting == 2
    assert pool.stats().readers_idle == 0
    for gate in gates:
        gate.open()
    await asyncio.gather(*tasks)
    assert pool.stats().readers == 3


# iterate()


async def test_iterate_streams_every_row_in_order(pool):
    assert [row.id async for row in pool.iterate("SELECT id FROM entries ORDER BY id", chunk=7)] == [*range(1, 101)]
    assert [row async for row in pool.iterate("SELECT id FROM entries WHERE 0")] == []


async def test_iterate_sees_one_snapshot_and_fetches_no_more_than_asked(pool):
    seen = []
    async for row in pool.iterate("SELECT id FROM entries", chunk=10):
        if not seen:
            await pool.execute("DELETE FROM entries")
        seen.append(row.id)
    assert len(seen) == 100


@pytest.mark.parametrize("chunk", [0, -1])
async def test_iterate_refuses_a_chunk_that_is_no_size(pool, chunk):
    with pytest.raises(DatabaseError, match="chunk"):
        [row async for row in pool.iterate("SELECT 1", chunk=chunk)]


async def leave_by_aclosing(rows):
    async with contextlib.aclosing(rows):
        async for _ in rows:
            break


async def leave_by_an_exception(rows):
    with contextlib.suppress(KeyError):
        async with contextlib.aclosing(rows):
            async for _ in rows:
                raise KeyError


async def leave_by_another_task(rows):
    await anext(rows)

    async def close():
        await rows.aclose()

    await asyncio.create_task(close())


async def leave_by_exhausting_it(rows):
    assert len([row async for row in rows]) == 3


async def leave_before_the_first_row(rows):
    await rows.aclose()


async def leave_by_break(rows):
    async for _ in rows:
        break


async def leave_by_an_exception_in_the_loop(rows):
    with contextlib.suppress(KeyError):
        async for _ in rows:
            raise KeyError


async def leave_by_a_cancel_in_the_loop(rows):
    holding = asyncio.Event()

    async def consume(rows):
        async for _ in rows:
            holding.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(consume(rows))
    del rows
    await holding.wait()
    task.cancel()
    await asyncio.wait([task])


async def leave_in_a_reference_cycle(rows):
    await anext(rows)
    cycle = [rows]
    cycle.append(cycle)


CLEAN = [
    leave_by_aclosing,
    leave_by_an_exception,
    leave_by_another_task,
    leave_by_exhausting_it,
    leave_before_the_first_row,
]
FORGETFUL = [
    leave_by_break,
    leave_by_an_exception_in_the_loop,
    leave_by_a_cancel_in_the_loop,
    leave_in_a_reference_cycle,
]


@pytest.mark.parametrize("leave", [*CLEAN, *FORGETFUL], ids=lambda leave: leave.__name__)
async def test_however_iterate_is_left_its_reader_comes_back_and_forgetting_it_warns(narrow, leave, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await leave(narrow.iterate("SELECT id FROM entries", chunk=1))
        gc.collect()
        assert await asyncio.wait_for(narrow.fetch_value(COUNT), 30) == 3
        await until(lambda: narrow.stats().readers_idle == 1)
    warned = [warning.category for warning in caught if "iterate" in str(warning.message)]
    assert warned == ([ResourceWarning] if leave in FORGETFUL else [])
    await narrow.execute("INSERT INTO entries (amount) VALUES (4)")
    assert await narrow.fetch_value(COUNT) == 4
    assert seen_from_outside(tmp_path / "a.db", "PRAGMA wal_checkpoint(TRUNCATE)") == 0  # nobody pins the WAL
    assert narrow.stats().broken == 0


def test_an_iterator_left_over_at_the_end_of_the_loop_gives_its_reader_back(tmp_path):
    pool, kept = SQLitePool(tmp_path / "a.db"), []

    async def use():
        await pool.open()
        kept.append(pool.iterate("SELECT 1 UNION ALL SELECT 2", chunk=1))
        await anext(kept[0])

    async def look_and_close():
        assert pool.stats().readers_idle == pool.stats().readers == 1
        await pool.close()

    runner = asyncio.Runner()
    runner.run(use())
    loop = runner.get_loop()
    with pytest.warns(ResourceWarning, match="left early and forgotten"):
        loop.run_until_complete(loop.shutdown_asyncgens())
    runner.run(look_and_close())
    runner.close()


async def test_cancelled_iterate_gives_its_reader_back_without_an_open_statement(narrow, tmp_path):
    async def consume():
        async for _ in narrow.iterate(f"SELECT id FROM entries UNION ALL SELECT * FROM ({ENDLESS})", chunk=1):
            pass

    task = asyncio.create_task(consume())
    await until(lambda: narrow.stats().readers_idle == 0)
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as kept:  # the exception, and what its traceback holds, stays alive
        await task
    await narrow.execute("INSERT INTO entries (amount) VALUES (4)")
    assert await narrow.fetch_value(COUNT) == 4
    assert kept.value is not None
    await narrow.write(lambda _: None)
    assert seen_from_outside(tmp_path / "a.db", "PRAGMA wal_checkpoint(TRUNCATE)") == 0  # nobody pins the WAL


# acquire()


async def test_acquire_lends_a_working_aiosqlite_connection(pool):
    async with pool.acquire() as connection, connection.execute(COUNT) as cursor:
        assert tuple(await cursor.fetchone()) == (100,)


async def test_what_a_borrower_leaves_behind_is_cleaned_up(narrow):
    async with narrow.acquire() as connection:
        await connection.execute("BEGIN")
        cursor = await connection.execute("SELECT * FROM entries")
        await cursor.fetchone()
        connection.row_factory = None
        connection.isolation_level = "DEFERRED"
        await connection.set_trace_callback(lambda _: pytest.fail("the next user is being traced"))
        await connection.execute("PRAGMA foreign_keys = OFF")
        await connection.execute("PRAGMA case_sensitive_like = ON")
    await narrow.execute("INSERT INTO entries (amount) VALUES (4)")
    assert (await narrow.fetch_one(f"SELECT ({COUNT}) AS n")).n == 4
    assert await narrow.fetch_value("SELECT 'A' LIKE 'a'") == 1


async def test_a_connection_with_a_file_attached_is_not_used_again(narrow, tmp_path):
    async with narrow.acquire() as connection:
        await connection.execute("ATTACH DATABASE ? AS other", (str(tmp_path / "other.db"),))
    assert [row.name for row in await narrow.fetch_all("PRAGMA database_list")] == ["main"]


async def test_a_connection_closed_by_its_borrower_is_replaced(narrow):
    async with narrow.acquire() as connection:
        await connection.close()
    assert await narrow.fetch_value(COUNT) == 3
    assert narrow.stats().broken == 1


async def test_a_connection_closed_after_it_was_given_back_is_replaced(narrow):
    async with narrow.acquire() as connection:
        pass
    await connection.close()
    assert await asyncio.wait_for(narrow.fetch_value(COUNT), 30) == 3


async def test_acquire_times_out_with_what_it_waited(narrow):
    async with narrow.acquire():
        with pytest.raises(PoolTimeoutError) as caught:
            async with narrow.acquire(timeout=0.02):
                pass
    assert caught.value.waited == pytest.approx(0.02)
    assert narrow.stats().timeouts == 1
    assert narrow.stats().readers_idle == 1


async def test_acquire_may_wait_longer_than_the_pools_own_limit(tmp_path):
    settings = DatabaseSettings(max_open_conns=2, max_idle_conns=1, acquire_timeout=timedelta(milliseconds=200))
    async with SQLitePool(tmp_path / "a.db", settings) as pool:
        async with pool.acquire():
            patient = asyncio.create_task(pool.acquire(timeout=10).__aenter__())
            with pytest.raises(PoolTimeoutError):
                await pool.fetch_value("SELECT 1")
            assert not patient.done()
        await patient


async def test_borrowers_are_served_in_order(narrow):
    order = []

    async def borrow(number):
        async with narrow.acquire():
            order.append(number)

    async with narrow.acquire():
        tasks = [asyncio.create_task(borrow(n)) for n in range(5)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


async def test_a_full_waiting_line_refuses_the_next_caller_and_forgets_who_left(tmp_path):
    settings = DatabaseSettings(max_open_conns=2, max_idle_conns=1, max_waiters=3)
    async with SQLitePool(tmp_path / "a.db", settings) as pool:
        async with pool.acquire():
            waiting = [asyncio.create_task(pool.fetch_value("SELECT 1")) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(TooManyWaitersError) as caught:
                await pool.fetch_value("SELECT 1")
            assert caught.value.limit == 3
            assert pool.stats().refused == 1
            waiting[1].cancel()  # in the middle: its place must come free at once
            await asyncio.wait([waiting[1]])
            assert pool.stats().reads_waiting == 2
            late = asyncio.create_task(pool.fetch_value("SELECT 2"))
            await asyncio.sleep(0)
            assert not late.done()
        assert await asyncio.gather(waiting[0], waiting[2], late) == [1, 1, 2]
