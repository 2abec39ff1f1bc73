"""Bets and money: betcore_async's ledger beside the same statements on aiosqlite.

    python benchmarks/ledger.py [--quick] [--rounds N] [--bets N] [--json FILE]

Placing a bet is a debit guarded by balance and id, a ledger entry, the bet row, the link of the hash chain that ends
the transaction, and the models; every contender does all of it on the same schema. Each runs in a process of its own
on a fresh file, and they take turns, round by round. What is printed are medians over the rounds. After each
measurement the file is audited: what is missing or doubled counts as broken, however fast it was.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import aiosqlite
import orjson
from sqlite_pool import measure, versions

from betcore_async.clock import system_clock, to_microseconds
from betcore_async.config import DatabaseSettings, Durability
from betcore_async.errors import BetcoreError
from betcore_async.ids import IdGenerator
from betcore_async.models import Bet
from betcore_async.partitions import PartitionManager, chain
from betcore_async.stores import BetStore, LedgerStore, NewBet, SQLiteLedger, UserStore, sqlite_commands
from betcore_async.stores.commands import PlaceBet
from betcore_async.stores.sqlite_commands import Books, place_bet

USERS = 1_000
OPENING = 10**12
PPM = 1_900_000
TASKS = 64
OURS, ONE_HOP, README = "betcore_async", "aiosqlite, one hop", "aiosqlite, README style"
SETTLE_CELL, SETTLE_EACH = "settle_cell", "one transaction a bet"
AUDIT = "ledger.audit"
CASES = {  # name: (synchronous, tasks, contenders)
    "place x64": ("normal", 64, (OURS, ONE_HOP, README)),
    "place x64 FULL": ("full", 64, (OURS, ONE_HOP, README)),
    "place x1024 FULL": ("full", 1024, (OURS, ONE_HOP)),
    "settle, won, FULL": ("full", TASKS, (SETTLE_CELL, SETTLE_EACH)),
    "settle, lost, FULL": ("full", TASKS, (SETTLE_CELL, SETTLE_EACH)),
    "audit, rows": ("normal", 1, (AUDIT,)),
}
TARGETS = [  # case, ours, against, at least: section "Speed" of the design
    ("place x64", OURS, ONE_HOP, 2.5),
    ("place x64", OURS, README, 11.0),
    ("place x64 FULL", OURS, ONE_HOP, 5.0),
    ("place x64 FULL", OURS, README, 11.0),
    ("settle, won, FULL", SETTLE_CELL, SETTLE_EACH, 10.0),
    ("settle, lost, FULL", SETTLE_CELL, SETTLE_EACH, 10.0),
]

Place = Callable[[str], Awaitable[Bet]]


# In the process of one contender


@contextlib.asynccontextmanager
async def opened(folder: str, synchronous: str) -> AsyncIterator[tuple[PartitionManager, SQLiteLedger, list[str]]]:
    """Open a fresh family of weekly files with users who can afford everything."""
    settings = DatabaseSettings(path=Path(folder) / "bets.db", synchronous=Durability(synchronous))
    async with PartitionManager(settings) as partitions:
        engine = SQLiteLedger(partitions)
        users = UserStore(engine)
        created = await asyncio.gather(*(users.create(f"0x{number}", OPENING) for number in range(USERS)))
        yield partitions, engine, [user.id for user in created]


@contextlib.asynccontextmanager
async def placing(name: str, folder: str, synchronous: str) -> AsyncIterator[tuple[Place, list[str]]]:
    """Yield how this contender places a bet for a user, and the users."""
    async with opened(folder, synchronous) as (_, engine, users):
        if name == OURS:
            bets = BetStore(engine)
            yield lambda user: bets.place(user, "cell", 100, 1.9), users
            return
    (path,) = Path(folder).glob("bets-*.db")
    async with aiosqlite.connect(path, isolation_level=None, cached_statements=256) as connection:
        ours = ("foreign_keys = ON", "wal_autocheckpoint = 8000", "cache_size = -8000")
        for pragma in ("journal_mode = WAL", f"synchronous = {synchronous}", *ours):
            await connection.execute(f"PRAGMA {pragma}")
        yield (one_hop if name == ONE_HOP else readme_style)(connection), users


def one_hop(connection: aiosqlite.Connection) -> Place:
    """The whole transaction as one function on the connection's thread: the best that aiosqlite allows."""
    new_id, raw = IdGenerator(), connection._conn

    def transaction(command: PlaceBet) -> Bet:
        raw.execute("BEGIN IMMEDIATE")
        try:
            bet = place_bet(Books(raw, to_microseconds(system_clock()), new_id), command)
            chain.extend(raw)
        except BaseException:
            raw.execute("ROLLBACK")
            raise
        raw.execute("COMMIT")
        return bet

    return lambda user: connection._execute(transaction, PlaceBet(new_id(), user, "cell", 100, PPM))


def readme_style(connection: aiosqlite.Connection) -> Place:
    """The same statements one by one, each awaited, behind a lock."""
    new_id, lock = IdGenerator(), asyncio.Lock()

    async def place(user: str) -> Bet:
        command, now = PlaceBet(new_id(), user, "cell", 100, PPM), to_microseconds(system_clock())
        async with lock:
            await connection.execute("BEGIN IMMEDIATE")
            stake = {"amount": -100, "now": now, "user_id": user, "id": command.id, "cell_id": "cell"}
            async with connection.execute(sqlite_commands._STAKE, stake) as cursor:
                balance, version = await cursor.fetchone()
            entry = (new_id(), user, version, -100, balance, "stake", command.id, None, now)
            await connection.execute(sqlite_commands.INSERT_ENTRY, entry)
            row = (command.id, user, "cell", 100, PPM, "pending", now, None)
            await connection.execute(sqlite_commands._INSERT_BET, row)
            await readme_chain(connection)
            await connection.commit()
        return Bet.from_rows([(*row, None)])[0]

    return place


async def readme_chain(connection: aiosqlite.Connection) -> None:
    """What `chain.extend` does, statement by statement."""
    async with connection.execute(chain._HEAD.format(schema="main")) as cursor:
        seq, upto, last = await cursor.fetchone() or (0, 0, bytes(32))
    async with connection.execute(chain._UNCHAINED, (upto,)) as cursor:
        rows = await cursor.fetchall()
    digest = hashlib.sha256(last + orjson.dumps(rows)).digest()
    await connection.execute(chain._APPEND, (seq + 1, rows[-1][0], digest))


async def run_placing(name: str, case: str, folder: str, seconds: float) -> dict[str, Any]:
    synchronous, tasks, _ = CASES[case]
    async with placing(name, folder, synchronous) as (place, users):
        await measure(lambda key: place(users[key % USERS]), 4, seconds / 5)  # warms caches up
        found = await measure(lambda key: place(users[key % USERS]), tasks, seconds)
    return found | {"broken": await broken(folder)}


async def run_settling(name: str, case: str, folder: str, count: int) -> dict[str, Any]:
    won = "won" in case
    async with opened(folder, CASES[case][0]) as (_, engine, users):
        bets = BetStore(engine)
        chance = random.Random(count)
        placed = []
        for start in range(0, count, 500):
            some = (bets.place(chance.choice(users), "cell", 100, 1.9) for _ in range(min(500, count - start)))
            placed += [bet.id for bet in await asyncio.gather(*some)]
        started = perf_counter()
        if name == SETTLE_CELL:
            assert (await bets.settle_cell("cell", won)).bets == count
        else:
            waiting = iter(placed)

            async def settle() -> None:
                for bet in waiting:
                    await bets.settle(bet, won)

            await asyncio.gather(*(settle() for _ in range(TASKS)))
        took = perf_counter() - started
    return {"ops": count / took, "p50_us": None, "p99_us": None, "broken": await broken(folder)}


async def run_auditing(case: str, folder: str, count: int) -> dict[str, Any]:
    """Rows a second over a week of `count` bets, half of them won: users, bets and entries, each looked at once."""
    async with opened(folder, CASES[case][0]) as (_, engine, users):
        bets, chance = BetStore(engine), random.Random(count)
        for start in range(0, count, 5_000):
            wanted = [NewBet(chance.choice(users), f"cell {place % 2}", 100, 1.9) for place in range(5_000)]
            await bets.place_many(wanted[: count - start])
        await bets.settle_cell("cell 0", True)
        started = perf_counter()
        report = await LedgerStore(engine).audit()
        took = perf_counter() - started
    rows = sum(report.counts[name] for name in ("users", "bets", "entries"))
    return {"ops": rows / took, "p50_us": None, "p99_us": None, "broken": len(report.violations)}


async def broken(folder: str) -> int:
    """Count what the audit finds in the files that a contender left."""
    async with PartitionManager(DatabaseSettings(path=Path(folder) / "bets.db")) as partitions:
        return len((await LedgerStore(SQLiteLedger(partitions)).audit()).violations)


def be_contender(name: str, case: str, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="betcore-bench-") as folder:
        if name in {SETTLE_CELL, SETTLE_EACH}:
            found = asyncio.run(run_settling(name, case, folder, options.bets))
        elif name == AUDIT:
            found = asyncio.run(run_auditing(case, folder, options.bets))
        else:
            found = asyncio.run(run_placing(name, case, folder, options.seconds))
    print(json.dumps(found))


# In the process that compares


def one_round(name: str, case: str, options: argparse.Namespace) -> dict[str, Any]:
    numbers = ["--seconds", str(options.seconds), "--bets", str(options.bets)]
    command = [sys.executable, __file__, "--be", name, "--case", case, *numbers]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if ended.returncode != 0:
        raise BetcoreError(f"{name}, {case}: {ended.stderr.strip()}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def median_of(samples: list[dict[str, Any]]) -> dict[str, Any]:
    rates = [sample["ops"] for sample in samples]
    found: dict[str, Any] = {"ops": statistics.median(rates), "spread": (max(rates) - min(rates)) / 2}
    for key in ("p50_us", "p99_us"):
        values = [sample[key] for sample in samples if sample[key] is not None]
        found[key] = statistics.median(values) if values else None
    return found | {"broken": sum(sample["broken"] for sample in samples)}


def show(results: dict[str, dict[str, dict[str, Any]]]) -> None:
    print(f"{'':20}{'':26}{'bets/s':>10}{'±':>6}{'p50 ms':>9}{'p99 ms':>9}{'ours':>8}  broken")
    for case, contenders in results.items():
        ours = next(iter(contenders.values()))["ops"]
        for name, found in contenders.items():
            times = [f"{found[key] / 1000:>9.2f}" if found[key] else f"{'':9}" for key in ("p50_us", "p99_us")]
            spread = found["spread"] / found["ops"]
            print(
                f"{case:20}{name:26}{found['ops']:>10,.0f}{spread:>6.0%}{''.join(times)}"
                f"{ours / found['ops']:>7.1f}x{found['broken']:>8}"
            )
    print("\ntargets:")
    for case, name, against, least in TARGETS:
        ratio = results[case][name]["ops"] / results[case][against]["ops"]
        print(f"  {'reached' if ratio >= least else 'MISSED ':8} {case:20} {ratio:6.1f}x of {least:g}x {against}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short rounds, under a minute")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement of placing")
    parser.add_argument("--bets", type=int, default=40_000, help="open bets of the cell that is settled")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--be", help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be:
        be_contender(options.be, options.case, options)
        return
    if options.quick:
        options.rounds, options.seconds, options.bets = 1, 0.3, 10_000
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(options.rounds):
        for case, (_, _, names) in CASES.items():
            for name in names[number % len(names) :] + names[: number % len(names)]:  # nobody is always first
                samples.setdefault((case, name), []).append(one_round(name, case, options))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    results = {case: {name: median_of(samples[case, name]) for name in names} for case, (_, _, names) in CASES.items()}
    show(results)
    if options.json:
        numbers = {"versions": versions(), "rounds": options.rounds, "bets": options.bets, "results": results}
        options.json.write_text(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    main()
