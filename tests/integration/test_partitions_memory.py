"""What weekly files take of memory while they are read: bounded, whatever is asked of them and however often.

Counted by SQLite itself: what the process gets of the system also depends on how the allocator cuts it up.
"""

import _sqlite3
import asyncio
import ctypes

import pytest
from weekly_files import ALWAYS, Platform, direct, platform

from betcore_async.models import Bet
from betcore_async.partitions import Week

WEEKS = 53  # a year of sealed weeks, and the live one
BETS = 500  # in each week, more than the cache for a file holds

try:
    sqlite_memory = ctypes.CDLL(getattr(_sqlite3, "__file__", None)).sqlite3_memory_used
    sqlite_memory.restype = ctypes.c_longlong
except AttributeError:
    pytest.skip("this Python has an SQLite in it that it keeps for itself", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A year of weeks with the bets of two users, some of which are open for good."""
    folder = tmp_path_factory.mktemp("year")

    async def make() -> None:
        async with platform(folder) as it:
            users = [(await it.users.create(f"0x{number}", 10_000)).id for number in range(2)]
            for _ in range(WEEKS - 1):
                for user in users:
                    await it.bets.place(user, "open", 1, 2.0)
                await it.next_week()
            weeks = [info.week for info in await it.manager.partitions()]
        for week in weeks:
            fill(folder / f"bets-{week}.db", week, users)

    asyncio.run(make())
    return folder


def fill(path, week: Week, users: list[str]) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    with direct(path) as raw:
        raw.execute(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            f"INSERT INTO bets ({Bet.COLUMNS}) SELECT printf('{week}-%08d', i), iif(i % 2, ?, ?), 'cell', 10, 1900000, "
            "'lost', starts_at + i, starts_at + i, NULL FROM n, partition_meta",
            (BETS, *users),
        )
    path.chmod(mode)


async def ask_all(it: Platform, users: list[str], start) -> None:
    """Ask what there is to be asked, as often at once as there are threads."""
    span = start, ALWAYS[1]
    for _ in range(2):
        await asyncio.gather(*(it.manager.query_bets(user, *span, limit=limit) for user in users for limit in (9, 900)))
        await asyncio.gather(*(it.manager.sum_bets(*span, user_id=user) for user in users))
        await asyncio.gather(*(it.manager.sum_bets(*span) for _ in users))


async def test_a_year_of_weeks_open_on_all_threads_takes_less_than_twenty_megabytes(folder):
    async with platform(folder) as it:
        live = it.manager.current_week
        users = [row["id"] for row in await it.manager.query("SELECT id FROM users", start=live.start, end=live.end)]
        await ask_all(it, users, live.start)
        before = sqlite_memory()
        await ask_all(it, users, ALWAYS[0])
        scanners = it.manager._reading.scanners._scanners
        assert [len(scanner._hub._handles) for scanner in scanners] == [WEEKS, WEEKS]
        assert sqlite_memory() - before < 20_000_000


async def test_sql_of_ones_own_that_is_another_each_time_does_not_pile_up(folder):
    async with platform(folder) as it:

        async def ask(number: int) -> None:
            sql = f"SELECT status, count(*), sum(amount) FROM bets WHERE cell_id = '{number}' GROUP BY status"
            await it.manager.query(sql, start=ALWAYS[0], end=ALWAYS[1])

        for number in range(20):
            await ask(number)
        before = sqlite_memory()
        for number in range(20, 60):
            await ask(number)
        assert sqlite_memory() - before < 2_000_000
