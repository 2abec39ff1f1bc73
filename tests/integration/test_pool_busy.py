"""Several processes, one file: a lock held elsewhere is waited out, and never for longer than asked."""

import asyncio
import sqlite3
from datetime import timedelta
from time import monotonic

import pytest
from sqlite_files import held_elsewhere, seen_from_outside, until

from betcore_async.config import DatabaseSettings
from betcore_async.errors import BusyTimeoutError, DatabaseError, WalUnavailableError
from betcore_async.sqlite import SQLitePool
from betcore_async.sqlite.connection import connect

COUNT = "SELECT count(*) FROM entries"
INSERT = "INSERT INTO entries DEFAULT VALUES"
PATIENT = DatabaseSettings(busy_timeout=timedelta(seconds=60))
HASTY = DatabaseSettings(busy_timeout=timedelta(milliseconds=500))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY)")
    connection.close()
    return path


async def insert_in_transaction(pool):
    async with pool.transaction() as transaction:
        await transaction.execute(INSERT)


async def test_a_lock_of_another_process_is_waited_out(path):
    async with SQLitePool(path, PATIENT) as pool:
        with held_elsewhere(path, "BEGIN IMMEDIATE", INSERT):
            tasks = [asyncio.create_task(pool.execute(INSERT)) for _ in range(3)]
            tasks += [asyncio.create_task(insert_in_transaction(pool)) for _ in range(2)]
            await until(lambda: pool.stats().busy_retries >= 3)
            assert await pool.fetch_value(COUNT) == 0  # readers are not held up
            assert not any(task.done() for task in tasks)
        await asyncio.gather(*tasks)
    assert seen_from_outside(path, COUNT) == 6


@pytest.mark.parametrize("work", [lambda pool: pool.execute(INSERT), insert_in_transaction])
async def test_after_the_budget_the_caller_is_told_how_long_and_how_often(path, work):
    async with SQLitePool(path, HASTY) as pool:
        with held_elsewhere(path):
            started = monotonic()
            with pytest.raises(BusyTimeoutError) as caught:
                await work(pool)
            took = monotonic() - started
        assert 0.5 <= caught.value.waited <= took
        assert caught.value.attempts > 3
        await work(pool)
    assert seen_from_outside(path, COUNT) == 1


async def test_each_caller_has_the_whole_budget(path):
    settings = DatabaseSettings(busy_timeout=timedelta(seconds=1))
    async with SQLitePool(path, settings) as pool:
        with held_elsewhere(path):
            first = asyncio.create_task(pool.execute(INSERT))
            await asyncio.sleep(0.8)
            second = asyncio.create_task(pool.execute(INSERT))
            with pytest.raises(BusyTimeoutError):
                await first
            assert not second.done()
        await second


@pytest.mark.parametrize("work", [lambda pool: pool.execute(INSERT), insert_in_transaction])
async def test_waiting_for_a_lock_can_be_cancelled(path, work):
    async with SQLitePool(path, PATIENT) as pool:
        with held_elsewhere(path):
            task = asyncio.create_task(work(pool))
            await until(lambda: pool.stats().busy_retries or pool.stats().writes_waiting == 0)
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.wait([task], timeout=30)
            assert task.cancelled()
        await pool.execute(INSERT)
    assert seen_from_outside(path, COUNT) == 1


async def test_opening_waits_for_a_lock_too_and_no_longer_than_asked(tmp_path):
    path = tmp_path / "fresh.db"
    sqlite3.connect(path).close()
    with held_elsewhere(path, "CREATE TABLE t (x)", "BEGIN EXCLUSIVE"):
        with pytest.raises(BusyTimeoutError):
            await SQLitePool(path, HASTY).open()
        pool = SQLitePool(path, PATIENT)
        opening = asyncio.create_task(pool.open())
        await asyncio.sleep(0.05)
        assert not opening.done()
    await opening
    await pool.close()


async def test_closing_while_a_lock_is_waited_for_keeps_to_its_deadline(path):
    pool = SQLitePool(path, PATIENT)
    await pool.open()
    with held_elsewhere(path):
        write = asyncio.create_task(pool.execute(INSERT))
        turn = asyncio.create_task(insert_in_transaction(pool))
        await until(lambda: pool.stats().busy_retries)
        await asyncio.wait_for(pool.close(timeout=0.05), 30)
        for task in (write, turn):
            with pytest.raises(DatabaseError, match="closed"):
                await task


# What cannot be opened


async def test_a_file_that_refuses_wal_is_a_clear_error(tmp_path):
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    before = path.read_bytes()
    (tmp_path / "a.db-wal").mkdir()  # nothing can make a WAL file here
    with pytest.raises(WalUnavailableError) as caught:
        await SQLitePool(path).open()
    assert caught.value.path == path
    assert path.read_bytes()[:18] == before[:18]


async def test_a_journal_that_is_not_the_wal_is_found_out_by_readers_too(tmp_path):
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(WalUnavailableError, match="'delete'") as caught:
        await connect(path, DatabaseSettings(), readonly=True)
    assert caught.value.journal_mode == "delete"


async def test_a_file_that_is_no_database_is_a_clear_error(tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(DatabaseError, match="not a database"):
        await SQLitePool(path).open()


@pytest.mark.parametrize("name", ["missing/a.db", "."])
async def test_a_place_where_no_file_can_be_is_a_clear_error(tmp_path, name):
    with pytest.raises(DatabaseError, match="cannot"):
        await SQLitePool(tmp_path / name).open()
