"""A process that places bets or rotates, for tests that let it meet rivals or kill it.

rotation_worker.py place FOLDER USER          place bets until stdin ends; prints the id of each that was acknowledged
rotation_worker.py rotate FOLDER LAST_WEEK    rotate twice, but not beyond LAST_WEEK, in competition with others
rotation_worker.py once FOLDER                rotate once, for tracers
rotation_worker.py sweep FOLDER SCRATCH WHAT FIRST EVERY
                                              see `sweep`; WHAT is `rotate` or `start`
"""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from weekly_files import ALWAYS, Platform, W, live_weeks, manager_for, names_in  # noqa: E402 - the path comes first

from betcore_async.clock import ManualClock  # noqa: E402
from betcore_async.errors import RotationError  # noqa: E402
from betcore_async.partitions import PartitionManager, Week  # noqa: E402

TASKS = 8
PAUSE = 0.005
"""Seconds between two bets of a task: enough of them to be in the way, and rivals get something of the machine."""


class LiveClock:
    """Says what time it is in the live week, as far as this process has noticed."""

    def __init__(self) -> None:
        self.manager: PartitionManager | None = None

    def __call__(self) -> datetime:
        week = self.manager.current_week if self.manager and self.manager._live else W[0]
        return week.start + timedelta(hours=1)


@contextlib.asynccontextmanager
async def opened(folder: str) -> Any:
    clock = LiveClock()
    async with manager_for(Path(folder), clock, busy_timeout=timedelta(seconds=50)) as manager:
        clock.manager = manager
        yield Platform(manager, clock, Path(folder))


async def place(folder: str, user_id: str) -> None:
    async with opened(folder) as it:
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))

        async def work() -> None:
            while not ended.done():
                bet = await it.bets.place(user_id, "cell", 1, 2.0)
                print(bet.id, flush=True)  # noqa: T201 - it is what the parent reads
                await asyncio.sleep(PAUSE)

        await asyncio.gather(*(work() for _ in range(TASKS)))


async def rotate(folder: str, last: str) -> None:
    async with opened(folder) as it:
        print("ready", flush=True)  # noqa: T201
        for _ in range(2):
            if (week := it.manager.current_week) >= Week(last):
                return
            with contextlib.suppress(RotationError):  # a rival is ahead already
                await it.manager.rotate_to_new_week(week.next())
            await it.manager.read(lambda _: None)


async def once(folder: str) -> None:
    async with opened(folder) as it:
        await it.manager.rotate_to_new_week(it.manager.current_week.next())


# Killing


class Killer:
    """Counts the steps that change files, and kills this process at one of them."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.armed = False

    def step(self, *_: object) -> None:
        if self.armed:
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Strike before a call of the operating system, before a statement of SQLite, or in the middle of one."""
        for name in ("open", "fsync", "replace", "unlink", "chmod", "mkdir"):
            setattr(os, name, self._watched(getattr(os, name)))
        connect = sqlite3.connect

        def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
            raw = connect(*arguments, **options)
            raw.set_trace_callback(self.step)
            raw.set_progress_handler(self.step, 500)
            return raw

        sqlite3.connect = watched

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            self.step()
            return call(*arguments, **options)

        return watched


def sweep(template: str, scratch: str, what: str, first: str, every: str) -> None:
    """Kill a child at step `first` of a rotation or a start, another `every` steps later, and so on to the end.

    Looks at what each of them left. Prints how many were killed, at how many steps they could be, and how often each
    week was the live one afterwards.
    """
    seen: dict[str, int] = {}
    expected = asyncio.run(look(Path(template)))
    for killed, step in enumerate(itertools.count(int(first), int(every))):
        folder = Path(scratch) / str(step)
        shutil.copytree(template, folder)
        child = os.fork()
        if child == 0:
            asyncio.run(struck(folder, step, what))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0 and (not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL):
            sys.exit(f"the child failed by itself: {status}")
        (live,) = live_weeks(folder)
        seen[live] = seen.get(live, 0) + 1
        found = asyncio.run(look(folder, go_on=True))
        assert found == expected, (step, found, expected)
        if status == 0:
            print(json.dumps({"killed": killed, "live": seen}))  # noqa: T201
            return
        shutil.rmtree(folder)


async def struck(folder: Path, number: int, what: str) -> None:
    killer = Killer(number)
    killer.install()
    killer.armed = what == "start"
    clock = ManualClock(W[2].start)
    async with manager_for(folder, clock) as manager:
        killer.armed = True
        if what == "rotate":
            clock.now = W[3].start
            await manager.rotate_to_new_week()


async def look(folder: Path, *, go_on: bool = False) -> Any:
    """Return all bets and balances, after checking that the books are right; with `go_on` after a further rotation."""
    clock = ManualClock(W[2].start)
    async with manager_for(folder, clock) as manager:
        it = Platform(manager, clock, folder)
        if go_on:
            clock.now = W[3].start
            await manager.rotate_to_new_week()
            assert live_weeks(folder) == [str(W[3])]
            assert names_in(folder) == {f"bets-{week}.db" for week in W[:4]}, names_in(folder)
        report = await it.ledger.audit()
        assert report.ok, report.violations
        span = {"start": ALWAYS[0], "end": ALWAYS[1]}
        bets = await manager.query("SELECT * FROM bets ORDER BY id", **span)
        users = await manager.query("SELECT id, balance, version FROM users ORDER BY id", **span)
        return [tuple(row) for row in (*bets, *users)]


if __name__ == "__main__":
    work = {"place": place, "rotate": rotate, "once": once, "sweep": sweep}[sys.argv[1]]
    result = work(*sys.argv[2:])
    if result is not None:
        asyncio.run(result)
