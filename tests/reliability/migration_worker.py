"""A process that migrates, for tests that race it or kill it.

migration_worker.py up FOLDER DATABASE             migrate one file
migration_worker.py race FOLDER                    migrate each file named on stdin, answer with the versions applied
migration_worker.py sweep FOLDER DATABASE STRIDE   see `sweep`
migration_worker.py announce FOLDER DATABASE SQL   migrate one file, say "running" when a statement begins
"""

import asyncio
import itertools
import json
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from betcore_async.sqlite import connection as sqlite_connection
from betcore_async.sqlite import migrations
from betcore_async.sqlite.migrations import Migrator


def up(folder: str, database: str) -> list[int]:
    return [step.version for step in asyncio.run(Migrator(folder).up(database))]


def race(folder: str) -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(up(folder, line.strip())) + "\n")
        sys.stdout.flush()


def sweep(folder: str, database: str, stride: str) -> None:
    """Kill a child at every STRIDE-th step of SQLite's virtual machine until one comes through; look after each.

    Prints how many were killed and at which versions and statements the killed ones had arrived.
    """
    arrived: dict[str, int] = {}
    for killed in itertools.count():
        for file in Path(database).parent.glob(Path(database).name + "*"):
            file.unlink()
        child = os.fork()
        if child == 0:
            _up_until(folder, database, (killed + 1) * int(stride))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            sys.stdout.write(json.dumps({"killed": killed, "arrived": arrived}))
            return
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"the child failed by itself: {status}")
        place = look(folder, database)
        arrived[place] = arrived.get(place, 0) + 1


def look(folder: str, database: str) -> str:
    """Return where a killed migration had arrived, after checking that it is a place to go on from."""
    migrator = Migrator(folder)
    status = asyncio.run(migrator.verify(database))
    place = f"{status.current}+{status.unfinished.statements_done}" if status.unfinished else str(status.current)
    taken = [step.version for step in asyncio.run(migrator.up(database))]
    expected = list(range(status.current + 1, status.head + 1))
    if taken != expected or not asyncio.run(migrator.verify(database)).up_to_date:
        sys.exit(f"stood at {place}, then applied {taken} instead of {expected}")
    with closing(sqlite3.connect(database)) as raw:
        if raw.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            sys.exit(f"damaged at {place}")
        entries = [entry for (entry,) in raw.execute("SELECT entry FROM log ORDER BY rowid")]
    if entries != sorted(set(entries)):
        sys.exit(f"killed at {place}, statements ran twice or out of order: {entries}")
    return place


def announce(folder: str, database: str, sql: str) -> None:
    """Migrate, and print "running" as soon as SQLite begins with the statement."""

    def tell(statement: str) -> None:
        if sql in statement:
            sys.stdout.write("running\n")
            sys.stdout.flush()

    # Whoever started the tests in the background had the shell ignore Ctrl-C, for us as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    genuine = sqlite3.connect

    def connect(*arguments: object, **options: object) -> sqlite3.Connection:
        raw = genuine(*arguments, **options)  # type: ignore[call-overload]
        raw.set_trace_callback(tell)
        return raw

    async def migrate() -> None:
        # asyncio.run sees a signal that comes just before the loop goes to sleep only when it wakes up again.
        clock = asyncio.create_task(_tick())
        try:
            await Migrator(folder).up(database)
        finally:
            clock.cancel()

    sqlite3.connect = connect  # type: ignore[assignment]
    asyncio.run(migrate())


async def _tick() -> None:
    for _ in itertools.count():
        await asyncio.sleep(0.05)


def _up_until(folder: str, database: str, steps: int) -> None:
    """Migrate, and die by SIGKILL after so many steps of the virtual machine."""
    left = itertools.count(steps, -1)

    def count_down() -> bool:
        if next(left) <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    async def connect(*arguments: object) -> sqlite_connection.Link:
        link = await sqlite_connection.connect(*arguments)  # type: ignore[arg-type]
        await link.run(lambda raw: raw.set_progress_handler(count_down, 1))
        return link

    migrations.connect = connect  # type: ignore[assignment]
    up(folder, database)


if __name__ == "__main__":
    {"up": up, "race": race, "sweep": sweep, "announce": announce}[sys.argv[1]](*sys.argv[2:])
