"""A user's page spares the weeks that have no bets of that user, and never one that has."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
from functools import partial
from pathlib import Path

import pytest
from sqlite_files import Gate, until
from structlog.testing import capture_logs
from weekly_files import ALWAYS, Platform, W, direct, platform

from betcore_async.errors import PoolClosedError
from betcore_async.models import Bet
from betcore_async.partitions import PartitionManager, Week, figures, handles, user_filter


@pytest.fixture
async def it(tmp_path, monkeypatch):
    """Four sealed weeks, of which the first two have a bet of `guest`, and all of them some of others."""
    monkeypatch.setattr(user_filter, "_SMALLEST", 65_536)  # so that nobody is taken for somebody else
    async with platform(tmp_path / "data") as it:
        it.guest = (await it.users.create("0xguest", 10_000)).id
        users = [(await it.users.create(f"0x{number}", 10_000)).id for number in range(3)]
        it.placed = []
        for number in range(4):
            if number < 2:
                it.placed.insert(0, await it.bets.place(it.guest, "cell", 10, 2.0))
            for user in users:
                await it.bets.place(user, "cell", 10, 2.0)
            await it.next_week()
        await until(lambda: not it.manager._reading.retiring)
        yield it


async def page(manager: PartitionManager, user: str, **options) -> list[str]:
    return [bet.id for bet in (await manager.query_bets(user, *ALWAYS, **options)).bets]


async def counted(it: Platform) -> None:
    """Wait until what the last question left to be counted is."""
    await until(it.manager._reading.counting._task.done)


@contextlib.asynccontextmanager
async def watched(manager: PartitionManager, *weeks: Week):
    """Yield the list of the weeks in which bets were looked for meanwhile."""
    looked = []

    def notice(week, sql):
        if "user_id = " in sql:
            looked.append(week)

    def watch(scanner, catalog):
        for week in weeks:
            scanner.handle(catalog[week]).raw.set_trace_callback(partial(notice, week))

    await manager.scan(watch)
    yield looked


async def test_a_week_without_bets_of_a_user_is_spared_once_it_was_counted(it):
    expected = [bet.id for bet in it.placed]
    async with watched(it.manager, *W[:4]) as looked:
        assert await page(it.manager, it.guest) == expected
        assert set(looked) == set(W[:4])
        await counted(it)
        looked.clear()
        assert await page(it.manager, it.guest) == expected
        assert set(looked) == {W[1], W[0]}
        looked.clear()
        assert await page(it.manager, "nobody", newest_first=False) == []
        assert set(looked) <= {W[0]}
    async with platform(it.folder, W[4]) as other, watched(other.manager, *W[:4]) as looked:  # it was written down
        assert await page(other.manager, it.guest) == expected
        assert set(looked) == {W[1], W[0]}


@pytest.mark.parametrize("limit", [2, 64])  # of files that stay open
async def test_bets_that_somebody_put_into_a_counted_week_are_found(it, limit, monkeypatch):
    monkeypatch.setattr(handles, "HANDLE_LIMIT", limit)
    expected = [bet.id for bet in it.placed]
    assert await page(it.manager, it.guest) == expected
    await counted(it)
    assert await page(it.manager, it.guest) == expected
    path, status = it.file(W[3]), it.file(W[3]).stat()
    other = Path(shutil.copy(path, path.with_suffix(".other")))
    other.chmod(0o600)
    with direct(other) as raw:
        bet = ("put in", it.guest, "cell", 10, 2_000_000, "lost", W[3].starts_at, W[3].starts_at, None)
        raw.execute(f"INSERT INTO bets ({Bet.COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", bet)
    other.chmod(0o400)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    await it.manager._reading.scanners.forget(W[3])  # what is open is read as it was
    for _ in range(2):
        assert await page(it.manager, it.guest) == ["put in", *expected]
        await counted(it)


async def test_a_week_that_cannot_be_counted_is_told_once_and_asked_all_the_same(it, monkeypatch):
    expected, count, tried = [bet.id for bet in it.placed], figures.count, []

    def fail_once(raw):
        tried.append(raw)
        if len(tried) == 1:
            raise sqlite3.DatabaseError("database disk image is malformed")
        return count(raw)

    monkeypatch.setattr(figures, "count", fail_once)
    with capture_logs() as events:
        for _ in range(3):
            assert await page(it.manager, it.guest) == expected
            await counted(it)
    assert [(event["event"], event["week"]) for event in events] == [("week cannot be counted", "2026-W23")]
    assert len(tried) == 4
    async with watched(it.manager, *W[:4]) as looked:
        assert await page(it.manager, it.guest) == expected
    assert set(looked) == {W[3], W[1], W[0]}


async def test_closing_in_the_middle_of_counting_ends_it(it, monkeypatch):
    gate, count = Gate(), figures.count
    monkeypatch.setattr(figures, "count", lambda raw: gate.pass_through() or count(raw))
    assert await page(it.manager, it.guest) == [bet.id for bet in it.placed]
    await gate.reached()
    task = it.manager._reading.counting._task
    closing = asyncio.create_task(it.manager.close())
    await until(lambda: it.manager._live is None)
    gate.open()
    await closing
    assert task.cancelled()
    with pytest.raises(PoolClosedError):
        await page(it.manager, it.guest)


async def test_a_week_that_is_detached_while_it_is_counted_is_waited_for(it, monkeypatch):
    gate, count = Gate(), figures.count
    monkeypatch.setattr(figures, "count", lambda raw: gate.pass_through() or count(raw))
    await page(it.manager, it.guest)
    await gate.reached()  # in the newest of the sealed weeks
    going = asyncio.create_task(it.manager.detach_partition(W[0]))
    newest = asyncio.create_task(it.manager.detach_partition(W[3]))
    await until(lambda: W[3] not in it.manager._catalog)
    gate.open()
    await asyncio.gather(going, newest)
    await counted(it)
    names = {name for scanner in it.manager._reading.scanners._scanners for name in scanner._hub._handles}
    assert not names & {W[0].name, W[3].name}
    assert [week.name for week in (await it.manager.count_bets(*ALWAYS, allow_partial=True)).missing_weeks] == [
        "2026-W20",
        "2026-W23",
    ]
