"""Questions over a year of weekly files: ours beside one big file with the same rows, and a connection for each file.

All contenders give the same answers, models included; that is checked before anything is measured. A twentieth of the
bets is still open when its week ends, so that outcomes lie in later files.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import shutil
import sqlite3
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import aiosqlite

from betcore_async.clock import ManualClock
from betcore_async.config import DatabaseSettings
from betcore_async.errors import BetcoreError
from betcore_async.models import Bet
from betcore_async.partitions import PartitionManager, Week
from betcore_async.stores import SQLiteLedger, UserStore

OURS, BIG, GATHER = "betcore_async", "one big file, aiosqlite", "a connection per file, gather"
CONTENDERS = (OURS, BIG, GATHER)
WEEKS = 52  # sealed; the live one comes on top
USERS = 2_000
HEAVY_EVERY, RARE_WEEKS = 67, (3, 9, 14, 22, 28, 33, 41, 50)
FIRST = Week("2025-W40")
MANY_FILES = 500

NEWEST = "newest 50 bets of {} user"
USER_KINDS = ("a heavy", "an average", "a rare", "an unknown")
SUMS, SUMS_OF_USER, OWN_SQL = "count and sum", "count and sum of a user", "query(), GROUP BY"
CASES = (*(NEWEST.format(kind) for kind in USER_KINDS), SUMS, SUMS_OF_USER, OWN_SQL)
START, MEMORY, FIRST_COUNT = "start on 500 files", "52 sealed weeks open", "first count and sum"
ALONE = {START: "s", MEMORY: "MB", FIRST_COUNT: "s"}  # with their units
ALL_CASES = dict.fromkeys(CASES, CONTENDERS) | dict.fromkeys(ALONE, (OURS,))
TARGETS = [  # case, at most: of the time of the big file, or in the unit of the case; "Speed" of the design
    *((NEWEST.format(kind), 3.0) for kind in USER_KINDS[:3]),
    (SUMS, 1 / 20),
    (START, 1.0),
    (MEMORY, 20.0),
]
SECONDS = 0.5
"""Length of one measurement."""

_PAGE = f"SELECT {Bet.COLUMNS} FROM bets WHERE user_id = ? ORDER BY placed_at DESC, id DESC LIMIT 50"
_SUMS = "SELECT count(*), sum(amount), sum(payout_amount) FROM bets WHERE placed_at >= ? AND placed_at < ?"
_OF_USER = " AND user_id = ?"
_DECIDED = " AND status NOT IN ('pending', 'confirmed')"
_GROUPED = "SELECT cell_id, count(*), sum(amount) FROM bets{} GROUP BY cell_id ORDER BY cell_id"

Ask = Callable[[str], Awaitable[Any]]


# The files


async def fill(folder: Path, rows: int) -> None:
    """Write the weekly files, `rows` bets each, and the big one; rotations are real, bets are put in afterwards."""
    clock = ManualClock(FIRST.start + timedelta(hours=1))
    settings = DatabaseSettings(path=folder / "bets.db")
    async with PartitionManager(settings, clock=clock) as partitions:
        users = UserStore(SQLiteLedger(partitions))
        created = [await users.create(f"0x{number}", 1_000) for number in range(USERS)]
        for _ in range(WEEKS):
            clock.advance(timedelta(days=7))
            await partitions.rotate_to_new_week()
        weeks = [info.week for info in await partitions.partitions()]
    names = [user.id for user in created]
    (folder / "cast.json").write_text(json.dumps(dict(zip(USER_KINDS, [*names[:3], "nobody"], strict=True))))
    await asyncio.to_thread(_write_bets, folder, weeks, names, rows)
    async with ours(folder) as questions:  # sealed weeks are counted once, when somebody first asks
        await questions[SUMS]("")


def _write_bets(folder: Path, weeks: list[Week], users: list[str], rows: int) -> None:
    chance, open_bets = random.Random(7), list[tuple[Any, ...]]()
    schema = _schema_of(_file(folder, weeks[0]))
    with closing(sqlite3.connect(folder / "big.db", isolation_level=None)) as big:
        big.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {schema}; BEGIN")
        for number, week in enumerate(weeks):
            live = number == len(weeks) - 1
            moments = range(week.starts_at + 1_000_000, week.ends_at - 1_000_000, 600_000_000_000 // rows)
            placed = [_bet(chance, at, users, number, row) for row, at in enumerate(moments[:rows])]
            left = [bet for bet in placed if chance.random() < 0.05]
            carried, open_bets = open_bets, [*(bet for bet in open_bets if chance.random() < 0.3), *left]
            still_open = {bet[0] for bet in open_bets}
            _insert(_file(folder, week), [*map(_as_of(still_open), (*carried, *placed))], sealed=not live)
            _insert_into(big, map(_as_of(still_open if live else set()), placed))
        big.executemany(
            "UPDATE bets SET status = 'pending', resolved_at = NULL, payout_amount = NULL WHERE id = ?",
            [(bet[0],) for bet in open_bets],
        )
        big.execute("COMMIT")
        big.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _schema_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as raw:
        kept = raw.execute("SELECT sql FROM sqlite_schema WHERE tbl_name = 'bets' AND type <> 'trigger' AND sql <> ''")
        return "; ".join(row[0] for row in kept)


def _bet(chance: random.Random, at: int, users: list[str], number: int, row: int) -> tuple[Any, ...]:
    """Return the terms of a bet and how it will end."""
    user = users[3 + chance.randrange(len(users) - 3)] if row % 4_001 else users[1]
    if row % HEAVY_EVERY == 0:
        user = users[0]
    if row == 1 and number in RARE_WEEKS:
        user = users[2]
    if row % 1_000 == 5:
        user = users[1]
    status = chance.choice(("won", "lost", "cancelled"))
    amount = 10 + row % 90
    return f"{at:016x}-{row:08x}", user, f"cell-{row % 50}", amount, 1_900_000, status, at, at + 1, amount * 19 // 10


def _as_of(still_open: set[Any]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    def row(bet: tuple[Any, ...]) -> tuple[Any, ...]:
        *terms, status, placed_at, resolved_at, payout = bet
        if bet[0] in still_open:
            return (*terms, "pending", placed_at, None, None)
        return (*terms, status, placed_at, resolved_at, payout if status == "won" else None)

    return row


def _insert(path: Path, bets: list[tuple[Any, ...]], *, sealed: bool) -> None:
    path.chmod(0o600)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("BEGIN")
        _insert_into(raw, bets)
        raw.execute("COMMIT")
    path.chmod(0o400 if sealed else 0o600)


def _insert_into(raw: sqlite3.Connection, bets: Any) -> None:
    raw.executemany(f"INSERT INTO bets ({Bet.COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", bets)


def _file(folder: Path, week: Week) -> Path:
    return folder / f"bets-{week}.db"


# The contenders


@contextlib.asynccontextmanager
async def ours(folder: Path) -> AsyncIterator[dict[str, Ask]]:
    files = sorted(folder.glob("bets-*.db"))
    weeks = [Week(path.stem.removeprefix("bets-")) for path in files]
    clock = ManualClock(weeks[-1].start + timedelta(hours=1))
    sealed, ever = (weeks[0].start, weeks[-2].end), (weeks[0].start, weeks[-1].end)
    async with PartitionManager(DatabaseSettings(path=folder / "bets.db"), clock=clock) as partitions:

        async def newest(user: str) -> Any:
            return (await partitions.query_bets(user, *ever, limit=50)).bets

        async def sums(_: str) -> Any:
            found = await partitions.sum_bets(*sealed)
            return found.count, found.amount, found.payout

        async def sums_of_user(user: str) -> Any:
            found = await partitions.sum_bets(*sealed, user_id=user)
            return found.count, found.amount, found.payout

        async def grouped(_: str) -> Any:
            return [tuple(row) for row in await partitions.query(_GROUPED.format(""), start=ever[0], end=ever[1])]

        yield {"newest": newest, SUMS: sums, SUMS_OF_USER: sums_of_user, OWN_SQL: grouped}


@contextlib.asynccontextmanager
async def one_big_file(folder: Path) -> AsyncIterator[dict[str, Ask]]:
    weeks = sorted(Week(path.stem.removeprefix("bets-")) for path in folder.glob("bets-*.db"))
    span = (weeks[0].starts_at, weeks[-2].ends_at)
    async with aiosqlite.connect(folder / "big.db", isolation_level=None) as connection:
        await connection.execute("PRAGMA cache_size = -8000")

        async def newest(user: str) -> Any:
            return Bet.from_rows(await connection.execute_fetchall(_PAGE, (user,)))

        async def sums(_: str) -> Any:
            return (await connection.execute_fetchall(_SUMS, span))[0]

        async def sums_of_user(user: str) -> Any:
            return (await connection.execute_fetchall(_SUMS + _OF_USER, (*span, user)))[0]

        async def grouped(_: str) -> Any:
            return list(await connection.execute_fetchall(_GROUPED.format("")))

        yield {"newest": newest, SUMS: sums, SUMS_OF_USER: sums_of_user, OWN_SQL: grouped}


@contextlib.asynccontextmanager
async def a_connection_per_file(folder: Path) -> AsyncIterator[dict[str, Ask]]:
    files = sorted(folder.glob("bets-*.db"))
    weeks = [Week(path.stem.removeprefix("bets-")) for path in files]
    span = (weeks[0].starts_at, weeks[-2].ends_at)
    async with contextlib.AsyncExitStack() as stack:
        uris = (f"file:{path}?mode=ro" for path in files)
        opened = [await stack.enter_async_context(aiosqlite.connect(uri, uri=True)) for uri in uris]
        last = opened[-1]

        async def everywhere(sql: str, parameters: tuple[Any, ...]) -> list[Any]:
            return list(await asyncio.gather(*(each.execute_fetchall(sql, parameters) for each in opened)))

        async def where_decided(sql: str, parameters: tuple[Any, ...]) -> list[Any]:
            texts = [sql.format(_DECIDED if each is not last else "") for each in opened]
            asked = (each.execute_fetchall(text, parameters) for each, text in zip(opened, texts, strict=True))
            return [row for rows in await asyncio.gather(*asked) for row in rows]

        async def newest(user: str) -> Any:
            latest = {row[0]: row for rows in await everywhere(_PAGE, (user,)) for row in rows}
            return Bet.from_rows(sorted(latest.values(), key=lambda row: (row[6], row[0]), reverse=True)[:50])

        async def sums(_: str) -> Any:
            return _added(await where_decided(_SUMS + "{}", span))

        async def sums_of_user(user: str) -> Any:
            return _added(await where_decided(_SUMS + _OF_USER + "{}", (*span, user)))

        async def grouped(_: str) -> Any:
            found: dict[str, tuple[int, int]] = {}
            for cell, count, amount in await where_decided(_GROUPED.format(" WHERE 1{}"), ()):
                before = found.get(cell, (0, 0))
                found[cell] = (before[0] + count, before[1] + amount)
            return [(cell, *found[cell]) for cell in sorted(found)]

        yield {"newest": newest, SUMS: sums, SUMS_OF_USER: sums_of_user, OWN_SQL: grouped}


def _added(rows: list[Any]) -> tuple[int, ...]:
    return tuple(sum(value or 0 for value in column) for column in zip(*rows, strict=True))


_OPEN = {OURS: ours, BIG: one_big_file, GATHER: a_connection_per_file}


# In the process of one contender


async def run(name: str, case: str, folder: Path) -> dict[str, Any]:
    if case in ALONE:
        return await {START: start, MEMORY: memory, FIRST_COUNT: first_count}[case](folder)
    cast = json.loads((folder / "cast.json").read_text())
    kind = next((kind for kind in USER_KINDS if case == NEWEST.format(kind)), "an average")
    async with _OPEN[name](folder) as questions:
        ask = questions.get(case) or questions["newest"]
        answer = repr(await ask(cast[kind]))
        found = await _measured(ask, cast[kind])
    return found | {"answer": int(hashlib.sha256(answer.encode()).hexdigest()[:12], 16)}


async def _measured(ask: Ask, user: str) -> dict[str, Any]:
    for _ in range(3):
        await ask(user)
    took: list[float] = []
    cpu, started = process_time(), perf_counter()
    while perf_counter() - started < SECONDS or len(took) < 3:
        before = perf_counter()
        await ask(user)
        took.append(perf_counter() - before)
    return {"ms": statistics.median(took) * 1e3, "cpu_ms": (process_time() - cpu) / len(took) * 1e3}


async def first_count(folder: Path) -> dict[str, Any]:
    """Return how long the first count of all takes, which reads every file."""
    (folder / "bets.db.figures").unlink(missing_ok=True)
    async with ours(folder) as questions:
        before, cpu = perf_counter(), process_time()
        await questions[SUMS]("")
        return {"value": perf_counter() - before, "cpu": process_time() - cpu}


async def memory(folder: Path) -> dict[str, Any]:
    """Return how much larger the process gets when it has looked into all sealed weeks."""
    cast = json.loads((folder / "cast.json").read_text())
    weeks = sorted(Week(path.stem.removeprefix("bets-")) for path in folder.glob("bets-*.db"))
    clock = ManualClock(weeks[-1].start + timedelta(hours=1))
    async with PartitionManager(DatabaseSettings(path=folder / "bets.db"), clock=clock) as partitions:
        await partitions.query_bets(cast["a heavy"], weeks[-1].start, weeks[-1].end, limit=50)
        before = _resident()
        for kind in USER_KINDS:
            await partitions.query_bets(cast[kind], weeks[0].start, weeks[-1].end, limit=500)
        await partitions.sum_bets(weeks[0].start, weeks[-1].end)
        await partitions.query_bets(cast["a rare"], weeks[0].start, weeks[-1].end)
        return {"value": (_resident() - before) / 1e6}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def start(folder: Path) -> dict[str, Any]:
    """Return how long a start on many files takes."""
    with contextlib.ExitStack() as stack:
        many = folder / "many"
        stack.callback(shutil.rmtree, many, ignore_errors=True)
        clock = ManualClock(FIRST.start)
        settings = DatabaseSettings(path=many / "bets.db")
        async with PartitionManager(settings, clock=clock):
            pass
        await asyncio.to_thread(_multiply, many)
        before, cpu = perf_counter(), process_time()
        async with PartitionManager(settings, clock=clock) as partitions:
            return {"value": perf_counter() - before, "cpu": process_time() - cpu, "weeks": len(partitions._catalog)}


def _multiply(many: Path) -> None:
    """Make a chain of files out of the one that is there."""
    (template,) = many.glob("bets-*.db")
    weeks = [FIRST]
    while len(weeks) < MANY_FILES:
        weeks.append(weeks[-1].next())
    for number, week in reversed(list(enumerate(weeks))):
        path = _file(many, week)
        if path != template:
            shutil.copy(template, path)
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("PRAGMA journal_mode = DELETE")
            raw.execute("PRAGMA synchronous = OFF")
            raw.execute(
                "UPDATE partition_meta SET week = ?, starts_at = ?, ends_at = ?, predecessor = ?",
                (week.name, week.starts_at, week.ends_at, weeks[number - 1].name if number else None),
            )
            if number < MANY_FILES - 1:
                sealed = (weeks[number + 1].name, week.ends_at)
                raw.execute("UPDATE partition_meta SET state = 'sealed', successor = ?, sealed_at = ?", sealed)
        if number < MANY_FILES - 1:
            path.chmod(0o400)


# In the process that compares


def check_answers(samples: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """Insist that all contenders, in all rounds, told the same."""
    for case in CASES:
        answers = {sample["answer"] for (of, _), some in samples.items() if of == case for sample in some}
        if len(answers) != 1:
            raise BetcoreError(f"{case}: the contenders disagree")


def show(results: dict[str, dict[str, dict[str, Any]]]) -> None:
    print(f"\n{'':34}{'':32}{'ms':>9}{'CPU ms':>9}{'of the big file':>17}")
    for case in CASES:
        for name, found in results[case].items():
            ratio = found["ms"] / results[case][BIG]["ms"]
            print(f"{case:34}{name:32}{found['ms']:>9.3f}{found['cpu_ms']:>9.3f}{ratio:>16.3f}x")
    for case, unit in ALONE.items():
        print(f"{case:34}{OURS:32}{results[case][OURS]['value']:>9.3f} {unit}")
    print("\ntargets:")
    for case, most in TARGETS:
        found, against = results[case], "" if case in ALONE else " of the big file"
        value = found[OURS]["value"] if case in ALONE else found[OURS]["ms"] / found[BIG]["ms"]
        print(f"  {'reached' if value <= most else 'MISSED '} {case:34}{value:9.3f} of at most {most:g}{against}")
