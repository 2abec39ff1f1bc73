"""Migrations raced by several processes, killed at any moment, cancelled half-way."""

import asyncio
import contextlib
import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from betcore_async.sqlite import connection as sqlite_connection
from betcore_async.sqlite import migrations
from betcore_async.sqlite.migration_history import insist, read_history
from betcore_async.sqlite.migrations import Migrator, load_migrations, migrate_connection
from betcore_async.sqlite.rewrite import rewrite

WORKER = [sys.executable, str(Path(__file__).with_name("migration_worker.py"))]
PROCESSES = 8
ROUNDS = 5
KILLS = 5
ENDLESS = (
    "INSERT INTO log WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0"
)

# Each script appends to `log`, so that a statement that ran twice, or not at all, shows.
SCRIPTS = {
    "0001_log": """
        CREATE TABLE log (entry INTEGER);
        INSERT INTO log VALUES (1);
        CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
        INSERT INTO users VALUES (1, 'a'), (2, 'b');
        INSERT INTO log VALUES (2);""",
    "0002_rebuild": """-- betcore: foreign-keys-off
        INSERT INTO log VALUES (3);
        CREATE TABLE new_users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
        INSERT INTO new_users SELECT id, name FROM users;
        DROP TABLE users;
        ALTER TABLE new_users RENAME TO users;""",
    "0003_pieces": """-- betcore: no-transaction
        INSERT INTO log VALUES (4);
        VACUUM;
        INSERT INTO log VALUES (5);""",
    "0004_index": """
        CREATE INDEX users_by_name ON users (name);
        INSERT INTO log VALUES (6);""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    for name, text in SCRIPTS.items():
        (folder / f"{name}.up.sql").write_text(text)
    return folder


def log_of(database: Path) -> list[int]:
    with closing(sqlite3.connect(database)) as raw:
        return [entry for (entry,) in raw.execute("SELECT entry FROM log ORDER BY rowid")]


async def test_eight_processes_at_once_all_succeed_and_run_each_step_once(folder, tmp_path):
    databases = [tmp_path / f"{number}.db" for number in range(ROUNDS)]
    for taken in await asyncio.to_thread(_race, folder, databases):
        assert sorted(version for versions in taken for version in versions) == [1, 2, 3, 4]
    for database in databases:
        assert log_of(database) == [1, 2, 3, 4, 5, 6]
        assert (await Migrator(folder).verify(database)).up_to_date


def _race(folder: Path, databases: list[Path]) -> list[list[list[int]]]:
    """Let processes migrate each database at once; return the versions that each process applied to each."""
    with contextlib.ExitStack() as stack:
        command = [*WORKER, "race", folder]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        workers = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(PROCESSES)]
        taken = []
        for database in databases:
            for worker in workers:
                worker.stdin.write(f"{database}\n")
            for worker in workers:
                worker.stdin.flush()
            taken.append([json.loads(worker.stdout.readline()) for worker in workers])
    assert [worker.returncode for worker in workers] == [0] * PROCESSES
    return taken


def test_killed_at_any_step_of_the_virtual_machine_it_leaves_a_version_to_go_on_from(folder, tmp_path):
    stride = random.randint(25, 35)  # about 150 kills, elsewhere in each run
    done = subprocess.run(
        [*WORKER, "sweep", folder, tmp_path / "a.db", str(stride)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["killed"] > 50
    # The kills fell before, between and inside the steps, the one that runs in pieces included.
    assert {"0", "1", "2", "3"} < result["arrived"].keys()
    assert any(place.startswith("2+") for place in result["arrived"])


async def test_killed_at_a_write_system_call_it_leaves_a_version_to_go_on_from(folder, tmp_path):
    calls = await asyncio.to_thread(_write_calls, folder, tmp_path / "traced.db")
    # The first kill is before anything was written; where nobody may trace, the moments are random ones.
    moments = [calls[0], *random.sample(calls, KILLS)] if calls else [None] * 3 * KILLS
    survived = 0
    for number, moment in enumerate(moments):
        database = tmp_path / f"killed{number}.db"
        kill = _traced(folder, database, moment) if moment else [*WORKER, "up", folder, database]
        survived += await asyncio.to_thread(_killed, kill, database, at_random=moment is None)
        migrator = Migrator(folder)
        status = await migrator.verify(database) if database.exists() else await migrator.status(database)
        expected = list(range(status.current + 1, 5))
        assert [step.version for step in await migrator.up(database)] == expected
        assert log_of(database) == [1, 2, 3, 4, 5, 6]
        assert (await migrator.verify(database)).up_to_date
    assert survived == 0 or not calls


WRITES = "pwrite64,write,fdatasync,fsync,ftruncate,unlink"


def _traced(folder: Path, database: Path, moment: tuple[str, int] | None, record: str = "/dev/null") -> list:
    """Return the command of a traced migration; SIGKILL strikes at the moment: so many calls of that name."""
    files = [part for side in ("", "-wal", "-journal", "-shm") for part in ("-P", f"{database}{side}")]
    strike = ["-e", f"inject={moment[0]}:signal=SIGKILL:when={moment[1]}"] if moment else []
    return [
        "strace",
        "-f",
        "-qq",
        "-o",
        record,
        *files,
        "-e",
        f"trace={WRITES}",
        *strike,
        *WORKER,
        "up",
        folder,
        database,
    ]


def _write_calls(folder: Path, database: Path) -> list[tuple[str, int]]:
    """Return every system call that changes a file of the database, by name and number; none if nobody may trace."""
    record = database.with_name("strace.txt")
    if shutil.which("strace") is None:
        return []
    if subprocess.run(_traced(folder, database, None, str(record)), capture_output=True, check=False).returncode != 0:
        return []
    seen: Counter[str] = Counter()
    calls = []
    for name in re.findall(r"^\d+ +(\w+)\(", record.read_text(), re.MULTILINE):
        seen[name] += 1
        calls.append((name, seen[name]))
    assert len(calls) > KILLS
    return calls


def _killed(command: list, database: Path, *, at_random: bool) -> bool:
    """Run `command` and return whether it came through."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        if at_random:
            while not database.exists() and process.poll() is None:
                pass
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=random.uniform(0, 0.02))
            process.kill()
    return process.returncode == 0


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A folder with a second migration that never ends by itself."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_quick.up.sql").write_text("CREATE TABLE log (entry INTEGER);")
    (folder / "0002_endless.up.sql").write_text(f"INSERT INTO log VALUES (1);\n{ENDLESS};")
    return folder


SEALED_MOMENTS = ["pwrite64:1", "pwrite64:20", "fsync:1", "rename:1", "fsync:2"]


@pytest.mark.parametrize("moment", SEALED_MOMENTS)
@pytest.mark.skipif(shutil.which("strace") is None, reason="only strace can kill at a system call")
async def test_killed_while_it_replaces_a_sealed_file_it_leaves_the_old_or_the_new_one_whole(folder, tmp_path, moment):
    database = tmp_path / "sealed" / "a.db"
    database.parent.mkdir()
    await Migrator(folder).up(database, 1)
    with closing(sqlite3.connect(database, isolation_level=None)) as raw:
        raw.execute("PRAGMA journal_mode = DELETE")
    database.chmod(0o400)
    name, when = moment.split(":")
    strike = ["-e", f"trace={name}", "-e", f"inject={name}:signal=SIGKILL:when={when}"]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", *strike, sys.executable, "-B", *WORKER[1:], "up"]
    killed = await asyncio.to_thread(
        subprocess.run, [*command, folder, database], capture_output=True, text=True, check=False
    )
    if "ptrace" in killed.stderr.lower():
        pytest.skip("nobody may trace here")
    assert killed.returncode != 0
    status = await Migrator(folder).verify(database)
    # Killed at the last fsync, that of the folder, the new file has its name already.
    assert status.current == (4 if moment == "fsync:2" else 1)
    assert database.stat().st_mode & 0o777 == 0o400
    assert [step.version for step in await Migrator(folder).up(database)] == list(range(status.current + 1, 5))
    assert log_of(database) == [1, 2, 3, 4, 5, 6]


async def test_cancelled_migration_is_undone_at_once_and_holds_no_lock(endless, tmp_path, monkeypatch):
    database = tmp_path / "a.db"
    running, raws = asyncio.Event(), []

    async def connect(*arguments):
        link = await sqlite_connection.connect(*arguments)
        loop = asyncio.get_running_loop()
        raws.append(link.raw)
        link.raw.set_trace_callback(lambda sql: ENDLESS in sql and loop.call_soon_threadsafe(running.set))
        return link

    monkeypatch.setattr(migrations, "connect", connect)
    work = asyncio.ensure_future(Migrator(endless).up(database))
    await asyncio.wait([asyncio.ensure_future(running.wait())], timeout=30)
    work.cancel()
    await _ended_by_itself(work, raws[0])
    assert running.is_set()
    status = await Migrator(endless).verify(database)
    assert status.current == 1
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("ROLLBACK")
    assert log_of(database) == []


async def _ended_by_itself(work: asyncio.Task, raw: sqlite3.Connection) -> None:
    """Wait for cancelled work; where nothing stopped it, stop it here, so that the test fails instead of hanging."""
    stopped, _ = await asyncio.wait([work], timeout=30)
    while not work.done():
        raw.interrupt()
        await asyncio.wait([work], timeout=0.01)
    assert stopped, "the statement went on after the cancellation"
    assert work.cancelled()


@pytest.mark.parametrize("sealed", [False, True], ids=["in place", "as a copy"])
async def test_ctrl_c_ends_a_process_in_the_middle_of_an_endless_statement(endless, tmp_path, sealed):
    database = tmp_path / "a.db"
    await Migrator(endless).up(database, 1)
    if sealed:
        with closing(sqlite3.connect(database, isolation_level=None)) as raw:
            raw.execute("PRAGMA journal_mode = DELETE")
        database.chmod(0o400)
    ended, err = await asyncio.to_thread(_interrupted, [*WORKER, "announce", endless, database, ENDLESS])
    assert ended == -signal.SIGINT, err
    assert "KeyboardInterrupt" in err
    assert (await Migrator(endless).verify(database)).current == 1
    assert log_of(database) == []
    assert not list(tmp_path.glob("*.staging"))


def _interrupted(command: list) -> tuple[int, str]:
    """Run `command`, press Ctrl-C once it says that it is at work, and return its exit status and stderr."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        last_resort = threading.Timer(20, process.kill)  # a process that does not end fails the test, and ends with it
        last_resort.start()
        if process.stdout.readline() == "running\n":
            process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        last_resort.cancel()
        last_resort.join()
    return process.returncode, err


async def test_cancelled_at_any_moment_it_leaves_a_version_to_go_on_from(folder, tmp_path):
    for number in range(60):
        database = tmp_path / f"{number}.db"
        work = asyncio.ensure_future(Migrator(folder).up(database))
        done, _ = await asyncio.wait([work], timeout=number / 2000)
        if not done:
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
        await Migrator(folder).up(database)
        assert log_of(database) == [1, 2, 3, 4, 5, 6]
        assert (await Migrator(folder).verify(database)).up_to_date


async def test_cancelled_rewrite_of_a_sealed_file_leaves_the_old_file_alone(tmp_path):
    database = tmp_path / "a.db"
    with closing(sqlite3.connect(database)) as raw:
        raw.execute("CREATE TABLE log (entry INTEGER)")
    database.chmod(0o400)
    before = database.read_bytes()
    running, raws = threading.Event(), []

    def change(raw: sqlite3.Connection) -> list[int]:
        raws.append(raw)
        running.set()
        raw.execute(ENDLESS)
        return [1]

    work = asyncio.ensure_future(rewrite(database, change))
    assert await asyncio.to_thread(running.wait, 10)
    work.cancel()
    await _ended_by_itself(work, raws[0])
    assert database.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


async def test_cancelled_rewrite_that_waits_for_its_turn_does_not_wait_on(tmp_path):
    database = tmp_path / "a.db"
    with closing(sqlite3.connect(database)) as raw:
        raw.execute("CREATE TABLE log (entry INTEGER)")
    running, go_on = threading.Event(), threading.Event()

    def change(raw: sqlite3.Connection) -> list[int]:
        running.set()
        assert go_on.wait(20)
        return []

    first = asyncio.ensure_future(rewrite(database, change))
    assert await asyncio.to_thread(running.wait, 10)
    second = asyncio.ensure_future(rewrite(database, lambda _: [1]))
    assert not (await asyncio.wait([second], timeout=0.05))[0]
    second.cancel()
    stopped, _ = await asyncio.wait([second], timeout=30)
    go_on.set()
    await asyncio.wait([first, second])
    assert stopped
    assert second.cancelled()
    assert first.result() == []


def test_history_is_read_from_one_state_of_the_file_though_a_rival_commits_meanwhile(folder, tmp_path):
    migrations = load_migrations(folder)
    with (
        closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as rival,
        closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as raw,
    ):
        rival.execute("PRAGMA journal_mode = WAL")
        migrate_connection(rival, migrations, 1)

        def between(statement: str) -> None:
            if statement == "PRAGMA user_version":
                migrate_connection(rival, migrations, 2)

        raw.set_trace_callback(between)
        assert read_history(raw).version == 1
        assert read_history(raw).version == 2


def test_rollback_that_an_interrupt_hits_is_repeated():
    # The interrupt of a cancellation is repeated until the work ends, so it may well hit the ROLLBACK.
    hits = [True, True, False]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        raw.set_progress_handler(lambda: bool(hits) and hits.pop(0), 1)
        insist(raw, "ROLLBACK")
        assert not raw.in_transaction
    assert not hits
