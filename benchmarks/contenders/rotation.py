"""A rotation while bets are being placed: how long it takes, and how long those who place them have to wait.

Ours copies while writers go on and catches up under the lock; beside it, the same steps with all of the copy under the
lock. Each round runs on a fresh copy of the same week, in a process of its own.
"""

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from betcore_async.clock import ManualClock, to_microseconds
from betcore_async.config import DatabaseSettings, Durability
from betcore_async.ids import SQL_UUID7
from betcore_async.partitions import PartitionManager, Week
from betcore_async.partitions.carry import Carried
from betcore_async.partitions.rotation import _hand_over
from betcore_async.partitions.staging import Staging, Step
from betcore_async.sqlite.connection import link_to
from betcore_async.stores import BetStore, LedgerStore, SQLiteLedger

OURS, UNDER_LOCK = "betcore_async", "the copy under the lock"
IDLE, BUSY = "nobody writes", "writers busy"
CONTENDERS = (OURS, UNDER_LOCK)
CASES = (IDLE, BUSY)
TARGET = 0.2
"""Most of a rotation's time that writers may be kept waiting: section "Speed" of the design."""

WEEK = Week("2026-W47")
BETS_PER_USER = 2
WRITERS = 8
NOISE_BEFORE = 0.5
"""Seconds of placing before the rotation, as a yardstick for the latencies during it."""

_NUMBERS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < :count)"

# Each user places two bets of 100; one bet in `every` is open still.
_FILL = (
    f"""{_NUMBERS}
INSERT INTO users SELECT {SQL_UUID7}, '0x' || i, 999800, 3, :now, :now FROM n
""",
    f"""
INSERT INTO ledger_entries (id, user_id, version, amount, balance_after, ref_type, ref_id, created_at)
SELECT {SQL_UUID7}, id, 1, 1000000, 1000000, 'opening', id, :now FROM users
""",
    f"""
INSERT INTO bets (id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at)
SELECT {SQL_UUID7}, users.id, 'cell-' || abs(random() % 500), 100, 1900000,
    iif(n.i % :every, 'lost', 'pending'), :now, iif(n.i % :every, :now, NULL)
FROM (SELECT users.rowid * {BETS_PER_USER} - column1 AS i, id FROM users, (VALUES (0), (1))) AS n
JOIN users ON users.id = n.id
""",
    f"""
INSERT INTO ledger_entries (id, user_id, version, amount, balance_after, ref_type, ref_id, created_at)
SELECT {SQL_UUID7}, user_id, 1 + number, -100, 1000000 - number * 100, 'stake', id, :now
FROM (SELECT id, user_id, row_number() OVER (PARTITION BY user_id ORDER BY id) AS number FROM bets)
""",
    "INSERT INTO ledger_chain (seq, upto, hash) SELECT 0, max(position), zeroblob(32) FROM ledger_entries",
)


# What is measured


async def fill(folder: Path, users: int, open_bets: int) -> None:
    """Make the live week: every user has two bets, some of which are open."""
    async with opened(folder):
        pass
    now = to_microseconds(WEEK.start)
    every = users * BETS_PER_USER // open_bets
    with closing(sqlite3.connect(folder / f"bets-{WEEK}.db", isolation_level=None)) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("BEGIN")
        for statement in _FILL:
            raw.execute(statement, {"count": users, "every": every, "now": now, "ms": now // 1000})
        raw.execute("COMMIT")


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[PartitionManager]:
    clock = ManualClock(WEEK.start + timedelta(hours=1))
    async with PartitionManager(DatabaseSettings(path=folder / "bets.db"), clock=clock) as partitions:
        yield partitions


async def run(name: str, case: str, template: Path, folder: Path) -> dict[str, Any]:
    """Rotate a copy of the week in `template`, and return times in seconds and what the audit found broken."""
    shutil.copytree(template, folder)
    async with opened(folder) as partitions:
        engine = SQLiteLedger(partitions)
        rotate = {OURS: _ours, UNDER_LOCK: _under_lock}[name]
        found = await (_among_writers(partitions, engine, rotate) if case == BUSY else rotate(partitions))
        report = await LedgerStore(engine).audit()
        return found | {"broken": len(report.violations)}


Rotate = Callable[[PartitionManager], Awaitable[dict[str, Any]]]


async def _ours(partitions: PartitionManager) -> dict[str, Any]:
    report = await partitions.rotate_to_new_week(WEEK.next())
    return {"seconds": report.seconds, "blocked": report.blocked_seconds, "open_bets": report.open_bets}


async def _under_lock(partitions: PartitionManager) -> dict[str, Any]:
    """Do the same steps, the copy too with the write lock held."""
    live, started = partitions._writing().current, perf_counter()
    step = Step(partitions._family, WEEK, WEEK.next(), partitions._migrator.migrations, to_microseconds(WEEK.end))
    staging = Staging(step)
    link = await link_to(staging.open)

    def hand_over(raw: sqlite3.Connection) -> Carried:
        staging.copy(link.raw)
        return _hand_over(raw, staging, link.raw)

    async with live.pool.transaction(durability=Durability.FULL) as transaction:
        blocked_since = perf_counter()
        carried = await transaction.run(hand_over)
    await link.close()
    await partitions._follow(live)
    blocked = perf_counter() - blocked_since
    return {"seconds": perf_counter() - started, "blocked": blocked, "open_bets": carried.open_bets}


async def _among_writers(partitions: PartitionManager, engine: SQLiteLedger, rotate: Rotate) -> dict[str, Any]:
    """Rotate while tasks place and settle bets as fast as they can."""
    bets, over = BetStore(engine), asyncio.Event()
    users = [
        row[0] for row in await partitions.read(lambda raw: raw.execute("SELECT id FROM users LIMIT 997").fetchall())
    ]
    latencies: list[tuple[float, float]] = []

    async def work(number: int) -> None:
        while not over.is_set():
            started = perf_counter()
            bet = await bets.place(users[number % len(users)], f"busy-{number % 50}", 1, 1.9)
            latencies.append((started, perf_counter() - started))
            if number % 2:
                await bets.settle(bet.id, won=number % 4 == 1)
            number += WRITERS

    writers = [asyncio.create_task(work(number)) for number in range(WRITERS)]
    await asyncio.sleep(NOISE_BEFORE)
    begun = perf_counter()
    found = await rotate(partitions)
    ended = perf_counter()
    over.set()
    await asyncio.gather(*writers)
    before = sorted(took for started, took in latencies if started < begun)
    during = sorted(took for started, took in latencies if begun <= started < ended)
    percentiles = {"p99_before": before[len(before) * 99 // 100], "p99": during[len(during) * 99 // 100]}
    return found | percentiles | {"slowest": during[-1], "bets": len(during)}


# What is printed


def show(results: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print medians: `results[case][name]`."""
    columns = {
        "seconds": "total ms",
        "blocked": "blocked",
        "p99": "p99 ms",
        "p99_before": "before",
        "slowest": "slowest",
    }
    print(f"{'rotation':16}{'':26}" + "".join(f"{title:>10}" for title in columns.values()) + "      part  broken")
    for case, contenders in results.items():
        for name, found in contenders.items():
            times = "".join(f"{found[key] * 1000:>10.1f}" if key in found else f"{'':10}" for key in columns)
            print(f"{case:16}{name:26}{times}{_part(found):>10.0%}{found['broken']:>8}")
    for case, contenders in results.items():
        part = _part(contenders[OURS])
        reached = "reached" if part <= TARGET else "MISSED "
        print(f"  {reached} {case}: writers wait for {part:.0%} of the time, at most {TARGET:.0%}")


def _part(found: dict[str, Any]) -> float:
    part: float = found["blocked"] / found["seconds"]
    return part
