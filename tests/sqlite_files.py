"""What tests of SQLite share: a gate that holds a thread, a look from outside, another process with the lock."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE = 20.0  # seconds; only a test that fails ever waits so long

_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("held", flush=True)
sys.stdin.readline()
if connection.in_transaction:
    connection.execute("COMMIT")
connection.close()
"""


class Gate:
    """A place in a function on a connection's thread: it says when it is reached, and waits until it is opened."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self._opened = threading.Event()

    def pass_through(self) -> None:
        self._loop.call_soon_threadsafe(self._reached.set)
        assert self._opened.wait(PATIENCE), "nobody opened the gate"

    async def reached(self) -> None:
        await asyncio.wait_for(self._reached.wait(), PATIENCE)

    def open(self) -> None:
        self._opened.set()


def seen_from_outside(path: Path, sql: str) -> Any:
    """Return the first value of a query, asked on a connection that has nothing to do with any pool."""
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
        return connection.execute(sql).fetchone()[0]


class Holder:
    """Another process that executed some statements on a file and keeps its connection until it is told to let go."""

    def __init__(self, path: Path, *statements: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(path), *statements], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"held\n"

    def let_go(self) -> None:
        if self._process.returncode is None:
            self._process.communicate(b"\n", timeout=PATIENCE)


@contextlib.contextmanager
def held_elsewhere(path: Path, *statements: str) -> Iterator[Holder]:
    """Run `statements` (default: BEGIN IMMEDIATE) in another process, which keeps the lock until the block ends."""
    holder = Holder(path, *(statements or ("BEGIN IMMEDIATE",)))
    try:
        yield holder
    finally:
        holder.let_go()


async def until(condition: Any) -> None:
    """Wait for `condition()` to hold, turning the loop meanwhile."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nobody announces a change of stats()
            await asyncio.sleep(0.001)
