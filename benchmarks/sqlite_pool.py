"""betcore_async's pool beside other ways to use SQLite from asyncio.

    python benchmarks/sqlite_pool.py [--quick] [--rounds N] [--only NAME ...] [--json FILE] [--chart FILE.svg]

Each contender runs in a process of its own, on a fresh file of its own (two SQLite libraries never share one), and the
contenders take turns, round by round, so that whatever the machine does meanwhile hits all of them. What is printed are
medians over the rounds. Every acknowledged write is counted again in the file afterwards: what is missing is a lost
update, however fast it was.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import perf_counter
from typing import Any

from contenders.chart import chart
from contenders.crowd import PROCESSES, run_crowd
from contenders.sqlite import CONTENDERS, ROWS

TASKS = 64
CASES = {  # name: (what, synchronous, concurrent tasks)
    "point": ("point", "normal", 1),
    "point x64": ("point", "normal", TASKS),
    "insert": ("insert", "normal", 1),
    "tx x64": ("transaction", "normal", TASKS),
    "tx x64 FULL": ("transaction", "full", TASKS),
    "10k rows": ("scan", "normal", 1),
    "tx, 4 processes": ("transaction", "normal", TASKS),
}
CROWD = "tx, 4 processes"  # the tasks are spread over the processes, which all write to one file
OURS = "betcore_async"
TARGETS = [  # case, against, at least: section "Speed" of the design
    ("point x64", "aiosqlite", 3.0),
    ("point x64", "apsw async_run", 3.0),
    ("point x64", "aiosqlitepool", 30.0),
    ("tx x64", "aiosqlite", 20.0),
    ("tx x64", "apsw async_run", 4.0),
    ("tx x64", "aiosqlitepool", 35.0),
    ("tx x64", "SQLAlchemy async", 80.0),
    ("tx x64", "sqlite3, one thread", 1.5),
    ("tx x64 FULL", "aiosqlite", 35.0),
    ("point", "aiosqlite", 1.0),
    ("insert", "aiosqlite, autocommit", 1.0),
    ("10k rows", "aiosqlite", 1.0),
    (CROWD, "aiosqlite", 1.0),
    (CROWD, "sqlite3, one thread", 1.0),
]


def fresh_file(path: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT, balance INTEGER, created_at INTEGER, note TEXT)"
        )
        connection.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, account INTEGER, amount INTEGER)")
        connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, account INTEGER)")
        rows = ((n, f"user {n}", 1_000_000, 1_700_000_000_000_000 + n, "x" * 20) for n in range(ROWS))
        connection.executemany("INSERT INTO accounts VALUES (?, ?, ?, ?, ?)", rows)
        connection.commit()


# In the process of one contender


async def measure(call: Callable[[int], Coroutine[Any, Any, Any]], tasks: int, seconds: float) -> dict[str, Any]:
    latencies: list[float] = []
    errors = 0
    ends = perf_counter() + seconds

    async def work(number: int) -> None:
        nonlocal errors
        key = number
        while (started := perf_counter()) < ends:
            key = (key * 7919 + 104_729) % ROWS
            try:
                await call(key)
            except Exception:
                errors += 1
            else:
                latencies.append(perf_counter() - started)

    begun, before = perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.gather(*(work(number) for number in range(tasks)))
    took, after = perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    latencies.sort()
    if not latencies:
        return {"ops": 0.0, "done": 0, "errors": errors, "p50_us": 0.0, "p99_us": 0.0, "cpu_us": 0.0}
    return {
        "ops": len(latencies) / took,
        "done": len(latencies),
        "errors": errors,
        "p50_us": 1e6 * latencies[len(latencies) // 2],
        "p99_us": 1e6 * latencies[int(len(latencies) * 0.99)],
        "cpu_us": 1e6 * cpu / len(latencies),
    }


async def run_case(name: str, case: str, seconds: float, folder: str) -> dict[str, Any]:
    what, synchronous, tasks = CASES[case]
    path = f"{folder}/{case.replace(' ', '-')}.db"
    fresh_file(path)
    if case == CROWD:
        before = counted(path, what)
        found = run_crowd(__file__, name, path, seconds)
        found["lost"] = found["done"] - (counted(path, what) - before)
        return found
    contender = CONTENDERS[name]()
    await contender.open(path, synchronous)
    try:
        call = (lambda _: contender.scan()) if what == "scan" else getattr(contender, what)
        await measure(call, min(tasks, 4), seconds / 5)  # warms caches up
        before = counted(path, what)
        found = await measure(call, tasks, seconds)
    finally:
        await contender.close()
    found["lost"] = found["done"] - (counted(path, what) - before) if before is not None else 0
    return found


async def be_member(name: str, path: str, seconds: float) -> dict[str, Any]:
    """Be one of several processes that write to one file: open it, wait for the word, write."""
    contender = CONTENDERS[name]()
    await contender.open(path, "normal")
    try:
        await contender.point(1)
        print("ready", flush=True)
        sys.stdin.readline()
        return await measure(contender.transaction, TASKS // PROCESSES, seconds)
    finally:
        await contender.close()


def counted(path: str, what: str) -> Any:
    """Count what writes of this kind left in the file, from a process of its own; None for reads."""
    sql = {
        "insert": "SELECT count(*) FROM log",
        "transaction": "SELECT 1000000 * count(*) - sum(balance) FROM accounts",
    }
    if what not in sql:
        return None
    script = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1], timeout=30).execute(sys.argv[2]).fetchone()[0])"
    return int(subprocess.run([sys.executable, "-c", script, path, sql[what]], capture_output=True, check=True).stdout)


def be_contender(name: str, seconds: float, folder: str, member: str | None) -> None:
    try:
        if member is not None:
            print(json.dumps(asyncio.run(be_member(name, member, seconds))))
        else:
            print(json.dumps({case: asyncio.run(run_case(name, case, seconds, folder)) for case in CASES}))
    except BaseException:
        traceback.print_exc()
        status = 1
    else:
        status = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # some contenders leave threads that would keep the process


# In the process that compares


def one_round(name: str, seconds: float) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory(prefix="betcore-bench-") as folder:
        command = [sys.executable, __file__, "--be", name, "--seconds", str(seconds), "--folder", folder]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if ended.returncode != 0:
        print(f"{name}: {ended.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(ended.stdout)


def median_of(rounds: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    together: dict[str, dict[str, float]] = {}
    for case in CASES:
        samples = [found[case] for found in rounds]
        numbers = {key: statistics.median(s[key] for s in samples) for key in ("ops", "p50_us", "p99_us", "cpu_us")}
        widest = max(s["ops"] for s in samples) - min(s["ops"] for s in samples)
        numbers["spread"] = widest / max(numbers["ops"], 1e-9)
        for key in ("errors", "lost"):
            numbers[key] = sum(s[key] for s in samples)
        together[case] = numbers
    return together


def show(results: dict[str, dict[str, dict[str, float]]]) -> None:
    for case, (what, synchronous, tasks) in CASES.items():
        print(f"\n{case}: {what}, synchronous={synchronous}, {tasks} task(s)")
        print(f"  {'':24}{'ops/s':>10}{'ours':>8}{'p50 us':>9}{'p99 us':>10}{'CPU us':>8}{'±':>6}  errors  lost")
        ours = results.get(OURS, {}).get(case, {}).get("ops")
        for name, found in sorted(results.items(), key=lambda item: -item[1][case]["ops"]):
            n = found[case]
            ratio = f"{ours / n['ops']:.2f}x" if ours and n["ops"] else ""
            print(
                f"  {name:24}{n['ops']:>10,.0f}{ratio:>8}{n['p50_us']:>9,.0f}{n['p99_us']:>10,.0f}{n['cpu_us']:>8.1f}"
                f"{n['spread'] / 2:>6.0%}{n['errors']:>8.0f}{n['lost']:>6.0f}"
            )


def show_targets(results: dict[str, dict[str, dict[str, float]]]) -> None:
    print("\ntargets:")
    for case, against, least in TARGETS:
        if OURS in results and against in results:
            ratio = results[OURS][case]["ops"] / max(results[against][case]["ops"], 1e-9)
            print(f"  {'reached' if ratio >= least else 'MISSED ':8} {case:12} {ratio:6.2f}x of {least:g}x {against}")


def drawn(results: dict[str, dict[str, dict[str, float]]]) -> str:
    cases: dict[str, dict[str, tuple[float, str]]] = {}
    wrong = set()
    for case in CASES:
        ours = results.get(OURS, {}).get(case, {}).get("ops", 0.0)
        cases[case] = {}
        for name, found in results.items():
            n = found[case]
            beside = f" ({ours / n['ops']:.2g}×)" if ours and n["ops"] and name != OURS else ""
            cases[case][name] = (n["ops"], f"{n['ops']:,.0f}/s{beside}")
            if n["errors"] or n["lost"]:
                wrong.add((case, name))
    at = versions()
    title = f"Operations per second, log scale; red: errors or losses (Python {at['python']}, SQLite {at['sqlite']})"
    return chart(title, cases, OURS, wrong)


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "machine": platform.platform()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short rounds, under a minute")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7, help="length of one measurement")
    parser.add_argument("--only", nargs="*", choices=list(CONTENDERS), help="contenders to run")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--be", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--chart", type=Path, help="file for a chart of the numbers, an SVG")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--member", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be:
        be_contender(options.be, options.seconds, options.folder, options.member)
    rounds, seconds = (2, 0.25) if options.quick else (options.rounds, options.seconds)
    names = options.only or list(CONTENDERS)
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:  # nobody is always first
            found = one_round(name, seconds)
            if found is not None:
                samples[name].append(found)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    results = {name: median_of(found) for name, found in samples.items() if found}
    show(results)
    show_targets(results)
    if options.chart:
        options.chart.write_text(drawn(results))
    if options.json:
        options.json.write_text(json.dumps({"versions": versions(), "rounds": rounds, "results": results}, indent=2))


if __name__ == "__main__":
    main()
