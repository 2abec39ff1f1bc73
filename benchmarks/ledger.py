"""Bets and money: betcore_async's ledger beside the same statements on other libraries.

    python benchmarks/ledger.py [--quick] [--rounds N] [--bets N] [--json FILE]

Placing a bet is a debit guarded by balance and id, a ledger entry, the bet row, the link of the hash chain that ends
the transaction, and the models; every contender does all of it on the same schema. Each runs in a process of its own
on a fresh file, and they take turns, round by round. What is printed are medians over the rounds. After each
measurement the file is audited and its bets are counted: what failed, is missing or doubled counts as broken, however
fast it was.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from contenders.ledger import AMOUNT, CELL, CONTENDERS, PPM
from sqlite_pool import measure, versions

from betcore_async.config import DatabaseSettings, Durability
from betcore_async.errors import BetcoreError
from betcore_async.partitions import PartitionManager
from betcore_async.stores import BetStore, LedgerStore, NewBet, SQLiteLedger, UserStore
from betcore_async.stores.commands import CHUNK, Command, SettleChunk

USERS = 1_000
OPENING = 10**12
TASKS = 64
OURS = "betcore_async"
SETTLE_CELL, SETTLE_EACH = "settle_cell", "one transaction a bet"
AUDIT = "ledger.audit"
BESIDE = "settle beside a writer"
PLACING = tuple(CONTENDERS)
CASES = {  # name: (synchronous, tasks, contenders)
    "place x64": ("normal", 64, PLACING),
    "place x64 FULL": ("full", 64, PLACING),
    "place x1024": ("normal", 1024, PLACING),
    "place x1024 FULL": ("full", 1024, PLACING),
    "settle, won, FULL": ("full", TASKS, (SETTLE_CELL, SETTLE_EACH)),
    "settle, lost, FULL": ("full", TASKS, (SETTLE_CELL, SETTLE_EACH)),
    BESIDE: ("full", 1, (SETTLE_CELL,)),
    "audit, rows": ("normal", 1, (AUDIT,)),
}
TARGETS = [  # case, ours, against, at least: section "Speed" of the design
    ("place x64", OURS, "aiosqlite, one hop", 2.5),
    ("place x64", OURS, "aiosqlite, README style", 11.0),
    ("place x64 FULL", OURS, "aiosqlite, one hop", 5.0),
    ("place x64 FULL", OURS, "aiosqlite, README style", 11.0),
    ("settle, won, FULL", SETTLE_CELL, SETTLE_EACH, 10.0),
    ("settle, lost, FULL", SETTLE_CELL, SETTLE_EACH, 10.0),
]


# In the process of one contender


@contextlib.asynccontextmanager
async def opened(folder: str, synchronous: str) -> AsyncIterator[tuple[SQLiteLedger, list[str]]]:
    """Open a fresh family of weekly files with users who can afford everything."""
    settings = DatabaseSettings(path=Path(folder) / "bets.db", synchronous=Durability(synchronous))
    async with PartitionManager(settings) as partitions:
        engine = SQLiteLedger(partitions)
        users = UserStore(engine)
        created = await asyncio.gather(*(users.create(f"0x{number}", OPENING) for number in range(USERS)))
        yield engine, [user.id for user in created]


async def filled(engine: SQLiteLedger, users: list[str], count: int, cells: Sequence[str] = (CELL,)) -> list[str]:
    """Place `count` bets on the cells in turn, of users at random; returns their ids."""
    chance, bets, ids = random.Random(count), BetStore(engine), list[str]()
    for start in range(0, count, CHUNK // 2):
        numbers = range(start, min(start + CHUNK // 2, count))
        some = [NewBet(chance.choice(users), cells[number % len(cells)], AMOUNT, PPM / 1e6) for number in numbers]
        ids += [bet.id for bet in await bets.place_many(some)]
    return ids


async def run_placing(name: str, case: str, folder: str, seconds: float) -> dict[str, Any]:
    synchronous, tasks, _ = CASES[case]
    async with opened(folder, synchronous) as (_, users):
        pass
    contender = CONTENDERS[name]()
    await contender.open(Path(folder) / "bets.db", synchronous)
    try:
        warm = await measure(lambda key: contender.place(users[key % USERS]), 4, seconds / 5)
        found = await measure(lambda key: contender.place(users[key % USERS]), tasks, seconds)
    finally:
        await contender.close()
    errors = warm["errors"] + found["errors"]
    return found | {"broken": errors + await broken(folder, warm["done"] + found["done"])}


async def run_settling(name: str, case: str, folder: str, count: int) -> dict[str, Any]:
    won = "won" in case
    async with opened(folder, CASES[case][0]) as (engine, users):
        bets, waiting = BetStore(engine), iter(await filled(engine, users, count))
        started = perf_counter()
        if name == SETTLE_CELL:
            assert (await bets.settle_cell(CELL, won)).bets == count
        else:

            async def settle() -> None:
                for bet in waiting:
                    await bets.settle(bet, won)

            await asyncio.gather(*(settle() for _ in range(TASKS)))
        took = perf_counter() - started
    return {"ops": count / took, "p50_us": None, "p99_us": None, "broken": await broken(folder, count)}


class Timed(SQLiteLedger):
    """Notes how long each chunk of a settlement takes, from the call to its answer."""

    chunks: list[float]

    async def execute(self, command: Command[Any]) -> Any:
        started = perf_counter()
        result = await super().execute(command)
        if isinstance(command, SettleChunk):
            self.chunks.append(perf_counter() - started)
        return result


async def run_beside(case: str, folder: str, count: int) -> dict[str, Any]:
    """Settle a cell while another task goes on placing bets elsewhere; how long did that one wait at the worst?"""
    async with opened(folder, CASES[case][0]) as (engine, users):
        timed = Timed(engine._partitions)
        timed.chunks = []
        bets, waits, finished = BetStore(timed), list[float](), asyncio.Event()
        await filled(engine, users, count)

        async def play() -> None:
            while not finished.is_set():
                started = perf_counter()
                await bets.place(users[len(waits) % USERS], "elsewhere", AMOUNT, PPM / 1e6)
                waits.append(perf_counter() - started)

        player = asyncio.create_task(play())
        started = perf_counter()
        assert (await bets.settle_cell(CELL, True)).bets == count
        took = perf_counter() - started
        finished.set()
        await player
    times = {"chunk_ms": 1e3 * statistics.median(timed.chunks), "longest_chunk_ms": 1e3 * max(timed.chunks)}
    times |= {"longest_wait_ms": 1e3 * max(waits)}
    found = {"ops": count / took, "p50_us": 1e6 * statistics.median(waits), "p99_us": None}
    return found | times | {"broken": await broken(folder, count + len(waits))}


async def run_auditing(case: str, folder: str, count: int) -> dict[str, Any]:
    """Rows a second over a week of `count` bets, half of them won: users, bets and entries, each looked at once."""
    async with opened(folder, CASES[case][0]) as (engine, users):
        await filled(engine, users, count, ("one cell", "another"))
        await BetStore(engine).settle_cell("one cell", True)
        started = perf_counter()
        report = await LedgerStore(engine).audit()
        took = perf_counter() - started
    rows = sum(report.counts[name] for name in ("users", "bets", "entries"))
    return {"ops": rows / took, "p50_us": None, "p99_us": None, "broken": len(report.violations)}


async def broken(folder: str, bets: int) -> int:
    """Count what the audit finds in the files that a contender left, and how far they are from so many bets."""
    async with PartitionManager(DatabaseSettings(path=Path(folder) / "bets.db")) as partitions:
        report = await LedgerStore(SQLiteLedger(partitions)).audit()
    return len(report.violations) + abs(report.counts["bets"] - bets)


def be_contender(name: str, case: str, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="betcore-bench-") as folder:
        if case == BESIDE:
            found = asyncio.run(run_beside(case, folder, options.bets * 5 // 2))
        elif name in {SETTLE_CELL, SETTLE_EACH}:
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
    for key in samples[0].keys() - {"ops", "broken"}:
        values = [sample[key] for sample in samples if sample[key] is not None]
        middle = max if key.startswith("longest") else statistics.median
        found[key] = middle(values) if values else None
    return found | {"broken": sum(sample["broken"] for sample in samples)}


def show(results: dict[str, dict[str, dict[str, Any]]]) -> None:
    print(f"{'':24}{'':26}{'bets/s':>10}{'±':>6}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>8}{'ours':>8}  broken")
    for case, contenders in results.items():
        ours = next(iter(contenders.values()))["ops"]
        for name, found in contenders.items():
            times = [f"{found[key] / 1000:>9.2f}" if found[key] else f"{'':9}" for key in ("p50_us", "p99_us")]
            times.append(f"{found['cpu_us']:>8.1f}" if "cpu_us" in found else f"{'':8}")
            spread = found["spread"] / found["ops"]
            print(
                f"{case:24}{name:26}{found['ops']:>10,.0f}{spread:>6.0%}{''.join(times)}"
                f"{ours / found['ops']:>7.1f}x{found['broken']:>8}"
            )
    beside = results[BESIDE][SETTLE_CELL]
    print(
        f"\n{BESIDE}: a chunk of {CHUNK:,} took {beside['chunk_ms']:.0f} ms, {beside['longest_chunk_ms']:.0f} ms at the"
        f" worst; the writer waited {beside['longest_wait_ms']:.0f} ms at the worst"
    )
    print("\ntargets:")
    for case, name, against, least in TARGETS:
        ratio = results[case][name]["ops"] / results[case][against]["ops"]
        print(f"  {'reached' if ratio >= least else 'MISSED ':8} {case:20} {ratio:6.1f}x of {least:g}x {against}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, under a minute")
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
