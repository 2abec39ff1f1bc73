"""A process that places bets or rotates, for tests that let it meet rivals or kill it.

rotation_worker.py place FOLDER USER          place bets until stdin ends; prints the id of each that was acknowledged
rotation_worker.py rotate FOLDER LAST_WEEK    rotate twice, but not beyond LAST_WEEK, in competition with others
rotation_worker.py once FOLDER                rotate once, for tracers
rotation_worker.py auto FOLDER KILL_AT        see `rotate_by_itself`; killed at that step of what it then does
rotation_worker.py sweep FOLDER SCRATCH WHAT FIRST EVERY
                                              see `sweep`; WHAT is `rotate`, `beside` (the same, while another
                                              process is at work on the files) or `start`
"""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

from killing import Killer  # noqa: E402 - the path comes first
from weekly_files import ALWAYS, Platform, W, live_weeks, manager_for, names_in  # noqa: E402

from betcore_async.clock import ManualClock  # noqa: E402
from betcore_async.errors import RotationError  # noqa: E402
from betcore_async.partitions import AutoRotation, PartitionManager, Week  # noqa: E402
from betcore_async.relay import OutboxRelay  # noqa: E402
from betcore_async.stores import outbox  # noqa: E402
from betcore_async.stores.events import Event  # noqa: E402

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


async def rotate_by_itself(folder: str, kill_at: str) -> None:
    """Let an AutoRotation work, which wakes up whenever stdin says what time it is: the start of a week."""
    clock, over, killer = ManualClock(W[0].start), asyncio.Event(), Killer(int(kill_at))

    async def sleep(_: float) -> None:
        print(manager.current_week, flush=True)  # noqa: T201 - it is what the parent reads
        said = await asyncio.to_thread(sys.stdin.readline)
        if not said:
            over.set()
            await asyncio.Event().wait()
        clock.now = Week(said.strip()).start
        killer.armed = True

    async with manager_for(Path(folder), clock) as manager, AutoRotation(manager, clock, sleep=sleep):
        killer.install()
        await over.wait()


# Killing


def sweep(template: str, scratch: str, what: str, first: str, every: str) -> None:
    """Kill a child at step `first` of a rotation or a start, another `every` steps later, and so on to the end.

    Looks at what each of them left. Prints how many were killed, and how often each week was the live one afterwards.
    """
    seen: dict[str, int] = {}
    look = looked_at_by_a_neighbour if what == "beside" else looked_at_later
    with look(shutil.copytree(template, Path(scratch) / "undisturbed")) as found:
        pass
    expected = dict(found)
    for killed, step in enumerate(itertools.count(int(first), int(every))):
        folder = shutil.copytree(template, Path(scratch) / str(step))
        with look(folder) as found:
            status = struck_child(folder, step, what)
            (live,) = live_weeks(folder)
            seen[live] = seen.get(live, 0) + 1
        for name, rows in expected.items():
            assert found[name] == rows, (step, name, set(found[name]) ^ set(rows))
        if status == 0:
            print(json.dumps({"killed": killed, "live": seen}))  # noqa: T201 - it is what the parent reads
            return
        shutil.rmtree(folder)


@contextlib.contextmanager
def looked_at_later(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what is filled, after the block, with what a fresh process finds."""
    found: dict[str, Any] = {}
    yield found
    found |= asyncio.run(go_on(folder))


@contextlib.contextmanager
def looked_at_by_a_neighbour(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the same, as found by a process that had the files open all the time, and wrote to them before."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()

    def wait() -> None:
        theirs.send("ready")
        theirs.recv()

    with ours, theirs:
        process = fork.Process(target=lambda: theirs.send(asyncio.run(go_on(folder, wait))), daemon=True)
        process.start()
        ours.recv()
        found: dict[str, Any] = {}
        yield found
        ours.send("go on")
        found |= ours.recv()
        process.join()


def struck_child(folder: Path, number: int, what: str) -> int:
    """Return the status of a child that was killed at that step, 0 where it came to its end before."""
    child = os.fork()
    if child == 0:
        asyncio.run(struck(folder, number, what))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status != 0 and (not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL):
        sys.exit(f"the child failed by itself: {status}")
    return status


async def struck(folder: Path, number: int, what: str) -> None:
    killer = Killer(number)
    killer.install()
    killer.armed = what == "start"
    clock = ManualClock(W[2].start)
    async with manager_for(folder, clock) as manager:
        killer.armed = True
        if what != "start":
            clock.now = W[3].start
            await manager.rotate_to_new_week()


async def go_on(folder: Path, wait: Callable[[], None] | None = None) -> dict[str, list[Any]]:
    """Rotate, settle what was half settled, audit, and return all there is then, and the events in their order.

    `wait()`, after some work, is where others rotate or are killed.
    """
    clock = ManualClock(W[2].start)
    async with manager_for(folder, clock) as manager:
        it, span = Platform(manager, clock, folder), {"start": ALWAYS[0], "end": ALWAYS[1]}
        if wait is not None:
            user = await it.users.by_wallet("0x0")
            await it.users.deposit(user.id, 1)
            wait()
            await it.users.deposit(user.id, 1)  # follows, where the rotation came to its end
        before = await manager.query("SELECT * FROM bets ORDER BY id", **span)
        clock.now = W[3].start
        await manager.rotate_to_new_week()
        assert live_weeks(folder) == [str(W[3])]
        assert names_in(folder) == {f"bets-{week}.db" for week in W[:4]}, names_in(folder)
        settled = await it.bets.settle_cell("half", won=True)
        report = await it.ledger.audit()
        assert report.ok, report.violations
        found = {
            "before": before,
            "settled": [(settled.bets, settled.payout)],
            "bets": await manager.query("SELECT * FROM bets ORDER BY id", **span),
            "users": await manager.query("SELECT id, balance, version FROM users ORDER BY id", **span),
            "events": await events_of(manager),
            "counts": sorted(report.counts.items()),
        }
    return {name: [tuple(row) for row in rows] for name, rows in found.items()}


class Listener:
    """Hears what a relay publishes."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str, str]] = []

    async def publish(self, channel: str, message: bytes, *, durable: bool) -> None:
        assert durable, channel
        event = Event.parse(message)
        self.heard.append((event.sequence, event.kind, event.bet.id if event.bet else event.user_id))


async def events_of(manager: PartitionManager) -> list[Any]:
    """Let a relay tell all that was not told yet."""
    listener = Listener()
    relay = OutboxRelay(manager, listener)  # type: ignore[arg-type] - a hub, to a relay
    while await manager.read(is_something_untold):
        await relay._work()
    numbers = {number for number, *_ in listener.heard}
    assert len(numbers) == len(listener.heard)
    return [event for _, *event in sorted(listener.heard)]


def is_something_untold(raw: sqlite3.Connection) -> bool:
    cursor = outbox.cursor_of(raw)
    assert cursor is not None, "events are told no longer"
    return cursor.week != outbox.week_of(raw) or bool(outbox.events_behind(raw, "main", cursor, 1))


if __name__ == "__main__":
    work = {"place": place, "rotate": rotate, "once": once, "auto": rotate_by_itself, "sweep": sweep}[sys.argv[1]]
    result = work(*sys.argv[2:])
    if result is not None:
        asyncio.run(result)
