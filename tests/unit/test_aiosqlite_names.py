"""The private names of aiosqlite the pool leans on, in the version that is installed."""

import asyncio
import re
import sqlite3
import threading
from pathlib import Path

import aiosqlite
import pytest

import betcore_async

PACKAGE = Path(betcore_async.__file__).parent


@pytest.fixture
async def connection():
    async with aiosqlite.connect(":memory:") as connection:
        yield connection


async def test_what_is_put_into_the_queue_runs_on_the_connections_thread(connection):
    loop, ran = asyncio.get_running_loop(), asyncio.Event()
    threads = []

    def work():
        threads.append(threading.current_thread())
        loop.call_soon_threadsafe(ran.set)

    connection._tx.put_nowait((None, work))
    await asyncio.wait_for(ran.wait(), 30)
    assert threads == [connection._thread]


async def test_the_thread_can_be_made_a_daemon_before_it_starts():
    connection = aiosqlite.connect(":memory:")
    assert isinstance(connection._thread, threading.Thread)
    assert not connection._thread.is_alive()
    connection._thread.daemon = True
    await connection
    assert connection._thread.daemon
    await connection.close()
    connection._thread.join(5)
    assert not connection._thread.is_alive()


async def test_whether_it_is_open_can_be_asked():
    connection = aiosqlite.connect(":memory:")
    assert connection._connection is None
    await connection
    assert isinstance(connection._connection, sqlite3.Connection)
    assert connection._running is True
    await connection.close()
    assert connection._running is False


def test_one_module_alone_knows_them():
    users = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if re.search(r"^(import|from) aiosqlite", file.read_text(), re.MULTILINE)
        and re.search(r"connection\._(tx|thread|running|connection|execute)\b", file.read_text())
    }
    assert users == {"sqlite/connection.py"}
