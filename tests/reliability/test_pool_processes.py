"""Several processes on one file, processes that are killed, disks that fail: no error unseen, no money lost."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from reliability.pool_worker import LEAST

HERE = Path(__file__).parent
WORKER = HERE / "pool_worker.py"
PROCESSES = 4
SECONDS = float(os.environ.get("BETCORE_HAMMER_SECONDS", "3"))  # 10 and more before a release


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER CHECK (balance >= 0))")
        connection.execute("CREATE TABLE moves (id INTEGER PRIMARY KEY, worker INTEGER, amount INTEGER)")
        connection.executemany("INSERT INTO accounts VALUES (?, 1000)", [(n,) for n in range(10)])
        connection.commit()
    return path


def worker(path, seed, seconds=SECONDS):
    command = [sys.executable, str(WORKER), str(path), str(seconds), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=path.parent)


def rows(path, sql):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.timeout(SECONDS + 60)
def test_processes_hammering_one_file_make_no_error_and_lose_nothing(path):
    workers = [worker(path, seed) for seed in range(PROCESSES)]
    reports = []
    for process in workers:
        out, err = process.communicate(timeout=SECONDS + 50)
        assert process.returncode == 0, err
        reports.append(json.loads(out))
    assert [report["errors"] for report in reports] == [[]] * PROCESSES
    assert rows(path, "SELECT sum(balance) FROM accounts") == [(10_000,)]
    assert dict(rows(path, "SELECT worker, count(*) FROM moves GROUP BY 1")) == {
        seed: report["moves"] for seed, report in enumerate(reports)
    }
    assert all(report["moves"] > LEAST for report in reports)  # nobody starved
    assert sum(report["busy_retries"] for report in reports) > 0  # they did meet
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_killed_process_leaves_no_lock_and_no_half_of_anything(path):
    doomed = [worker(path, seed, seconds=60) for seed in range(2)]
    survivor = worker(path, 9, seconds=2.5)
    time.sleep(1.5)  # in the midst of it
    for process in doomed:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=100)
    out, err = survivor.communicate(timeout=100)
    assert survivor.returncode == 0, err
    assert json.loads(out)["errors"] == []
    assert rows(path, "SELECT sum(balance) FROM accounts") == [(10_000,)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


FULL_DISK = """
import asyncio, json, resource, sqlite3, sys
from betcore_async.errors import CommitOutcomeUnknownError
from betcore_async.sqlite import Outcome, SQLitePool

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    found = {}
    async with SQLitePool(sys.argv[1]) as pool:
        await pool.execute("CREATE TABLE blobs (id INTEGER PRIMARY KEY, data BLOB)")
        await pool.execute("INSERT INTO blobs VALUES (1, zeroblob(100))")
        limit(100_000)  # no file may grow beyond: writing the WAL at COMMIT fails with an I/O error
        insert = "INSERT INTO blobs VALUES (?, zeroblob(50000))"
        grow = lambda number: lambda raw: raw.execute(insert, (number,)).rowcount
        results = await asyncio.gather(*(pool.write(grow(n)) for n in range(10, 15)), return_exceptions=True)
        found["group"] = [type(result).__name__ for result in results]
        try:
            async with pool.transaction() as transaction:
                await transaction.run(grow(20))
                await transaction.run(grow(21))
                await transaction.run(grow(22))
        except BaseException as error:
            found["transaction"] = type(error).__name__
            found["outcome"] = transaction.outcome.name
        limit(resource.RLIM_INFINITY)
        found["after"] = await asyncio.wait_for(pool.write(grow(30)), 30)
        found["broken"] = pool.stats().broken
        found["rows"] = [row.id for row in await pool.fetch_all("SELECT id FROM blobs ORDER BY id")]
    print(json.dumps(found))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX thing")
def test_a_commit_that_fails_in_the_disk_is_told_as_unknown_and_the_connection_is_replaced(tmp_path):
    """A file size limit makes the WAL write inside COMMIT fail with SQLITE_IOERR, as a dying disk does."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.db")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert set(found["group"]) == {"CommitOutcomeUnknownError"}
    assert (found["transaction"], found["outcome"]) == ("CommitOutcomeUnknownError", "UNKNOWN")
    assert found["broken"] >= 2
    assert found["after"] == 1
    assert {1, 30} <= set(found["rows"])
