"""The live week moves on: what is carried, when it is refused, and what those notice who are at work meanwhile."""

import asyncio
import contextlib
import errno
import os
import shutil
import sqlite3
import threading
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlite_files import Gate, until
from weekly_files import ALWAYS, WEEK, Platform, W, direct, live_weeks, manager_for, names_in, platform, states

from betcore_async.clock import ManualClock, from_microseconds
from betcore_async.config import PartitionSettings
from betcore_async.errors import (
    BusyTimeoutError,
    CommitOutcomeUnknownError,
    PartitionDamagedError,
    PartitionError,
    PoolClosedError,
    RotationError,
    StorageFullError,
)
from betcore_async.models import BetStatus
from betcore_async.partitions import PartitionManager, carry, files, rotation, scanner, staging
from betcore_async.partitions.catalog import discover
from betcore_async.partitions.files import FOLDER, ROTATION, Family
from betcore_async.partitions.reading import Reading
from betcore_async.sqlite.group import GroupCommit
from betcore_async.sqlite.migrations import load_migrations, shipped_folder
from betcore_async.stores import outbox


@pytest.fixture
async def it(tmp_path):
    async with platform(tmp_path / "data") as it:
        yield it


async def user_with_bets(it: Platform) -> str:
    """Make a user with a pending, a confirmed, a won, a lost and an unfunded bet of the live week."""
    user = await it.users.create("0xabc", 1000)
    await it.bets.place(user.id, "pending", 10, 2.0)
    await it.bets.confirm((await it.bets.place(user.id, "confirmed", 20, 2.0)).id)
    for won in (True, False):
        await it.bets.settle((await it.bets.place(user.id, "settled", 30, 2.0)).id, won=won)
    await it.bets.place(user.id, "unfunded", 5000, 2.0)
    return user.id


# What it does


async def test_a_rotation_carries_users_and_open_bets_and_opens_their_ledgers(it):
    user_id = await user_with_bets(it)
    before = await it.users.get(user_id)
    bets = (await it.manager.query_bets(user_id, *ALWAYS)).bets
    it.clock.now = W[1].start + timedelta(hours=3)
    report = await it.manager.rotate_to_new_week()
    assert (report.week, report.previous, report.performed) == (W[1], W[0], True)
    assert (report.users, report.open_bets) == (1, 2)
    assert it.manager.current_week == W[1]
    assert await it.users.get(user_id) == before
    assert (await it.manager.query_bets(user_id, *ALWAYS)).bets == bets
    with direct(it.file(W[1])) as raw:
        assert raw.execute("SELECT cell_id, status FROM bets ORDER BY cell_id").fetchall() == [
            ("confirmed", "confirmed"),
            ("pending", "pending"),
        ]
        entries = raw.execute("SELECT user_id, version, amount, balance_after, ref_type, ref_id FROM ledger_entries")
        opening = (user_id, before.version, before.balance, before.balance, "carry_forward", user_id)
        assert entries.fetchall() == [opening]
        meta = raw.execute("SELECT week, starts_at, ends_at, state, predecessor, successor FROM partition_meta")
        assert meta.fetchone() == (str(W[1]), W[1].starts_at, W[1].ends_at, "live", str(W[0]), None)
    assert (await it.ledger.audit()).ok


async def test_an_open_bet_is_decided_in_a_later_week_and_shown_once(it):
    user = await it.users.create("0xabc", 100)
    bet = await it.bets.place(user.id, "late", 100, 3.0)
    await it.next_week(3)
    await it.next_week()
    won = await it.bets.settle(bet.id, won=True)
    assert won.placed_at == bet.placed_at
    assert (await it.manager.query_bets(user.id, *ALWAYS)).bets == [won]
    assert (await it.manager.query_bets(user.id, W[0].start, W[0].end)).bets == [won]
    assert (await it.manager.query_bets(user.id, W[1].start, ALWAYS[1])).bets == []
    assert (await it.users.get(user.id)).balance == 300


async def test_after_a_downtime_it_goes_straight_to_the_current_week(it):
    await it.next_week(7)
    assert it.manager.current_week == W[7]
    assert states(it.folder) == {str(W[0]): "sealed", str(W[7]): "live"}
    assert await it.manager.count_bets(*ALWAYS) == 0


async def test_rotating_again_does_nothing(it):
    report = await it.manager.rotate_to_new_week()
    assert (report.performed, report.week, report.previous) == (False, W[0], W[0])
    await it.next_week()
    assert not (await it.manager.rotate_to_new_week(W[1])).performed
    assert states(it.folder) == {str(W[0]): "sealed", str(W[1]): "live"}


async def test_a_clock_that_steps_back_does_nothing(it):
    await it.next_week(2)
    it.clock.now = W[1].start
    assert not (await it.manager.rotate_to_new_week()).performed
    user = await it.users.create("0xabc", 10)
    assert user.created_at == W[2].start  # clamped into the live week
    assert (await it.ledger.audit()).ok


async def test_a_clock_ahead_of_the_live_week_is_clamped_to_its_end(it):
    it.clock.now = W[4].start
    user = await it.users.create("0xabc", 10)
    assert user.created_at == W[0].end - timedelta(microseconds=1)
    bet = await it.bets.place(user.id, "cell", 1, 2.0)
    assert (await it.manager.query_bets(user.id, W[0].start, W[0].end)).bets == [bet]


async def test_a_week_in_the_past_is_refused(it):
    await it.next_week(2)
    with pytest.raises(RotationError, match="weeks only move forward") as caught:
        await it.manager.rotate_to_new_week("2026-W21")
    assert caught.value.week == W[1]


async def test_a_clock_far_ahead_is_refused_until_the_week_is_named(tmp_path):
    clock = ManualClock(W[0].start)
    limit = PartitionSettings(max_clock_ahead=timedelta(weeks=5))
    manager = manager_for(tmp_path, clock)
    manager = PartitionManager(manager._database, limit, clock=clock)
    async with manager:
        clock.now = W[6].start
        assert (await manager.rotate_to_new_week()).performed
        clock.now = W[13].start
        with pytest.raises(RotationError, match=rf"far ahead .* rotate_to_new_week\('{W[13]}'\)"):
            await manager.rotate_to_new_week()
        assert manager.current_week == W[6]
        assert (await manager.rotate_to_new_week(W[13].name)).performed
        assert manager.current_week == W[13]


async def test_a_week_named_before_the_current_one_keeps_its_times_to_itself(it):
    await user_with_bets(it)
    it.clock.now = W[9].start
    assert (await it.manager.rotate_to_new_week(W[3])).performed
    with direct(it.file(W[3])) as raw:
        first, last = raw.execute("SELECT min(created_at), max(created_at) FROM ledger_entries").fetchone()
    assert W[3].start <= from_microseconds(first) <= from_microseconds(last) < W[3].end
    assert (await it.ledger.audit()).ok


async def test_the_53rd_week_is_followed_by_the_first_of_the_next_year(tmp_path):
    async with platform(tmp_path, W[33]) as it:
        assert str(it.manager.current_week) == "2026-W53"
        await it.next_week()
        assert str(it.manager.current_week) == "2027-W01"
        assert await it.manager.count_bets(*ALWAYS) == 0


# When it fails


@pytest.mark.parametrize("forgotten", carry.CARRIED, ids=lambda carried: carried.what)
async def test_a_rotation_that_does_not_add_up_leaves_the_old_week_live(it, forgotten, monkeypatch):
    user_id = await user_with_bets(it)
    await it.bets.settle_cell("closed", won=True)
    await it.manager.write(outbox.turn_on)
    lazy = replace(forgotten, copy="", catch_up=())
    monkeypatch.setattr(carry, "CARRIED", [lazy if entry is forgotten else entry for entry in carry.CARRIED])
    before = names_in(it.folder)
    it.clock.advance(WEEK)
    with pytest.raises(RotationError, match="the old week stays live") as caught:
        await it.manager.rotate_to_new_week()
    assert caught.value.before != caught.value.after
    assert names_in(it.folder) == before
    monkeypatch.undo()
    await it.bets.place(user_id, "cell", 1, 2.0)
    assert (await it.manager.rotate_to_new_week()).performed


@pytest.mark.parametrize("call", ["fsync", "replace"])
async def test_a_disk_that_fails_leaves_the_old_week_live(it, call, monkeypatch):
    user_id = await user_with_bets(it)
    before = names_in(it.folder)

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, call, fails)
    it.clock.advance(WEEK)
    with pytest.raises(RotationError, match="No space left on device; the old week stays live"):
        await it.manager.rotate_to_new_week()
    monkeypatch.undo()
    assert names_in(it.folder) == before
    await it.bets.place(user_id, "cell", 1, 2.0)
    assert (await it.manager.rotate_to_new_week()).performed
    assert (await it.ledger.audit()).ok


async def test_a_full_disk_is_told_as_such(it, monkeypatch):
    await user_with_bets(it)
    create = staging._create

    def small(*arguments: object) -> sqlite3.Connection:
        raw = create(*arguments)
        raw.execute("PRAGMA max_page_count = 1")
        return raw

    monkeypatch.setattr(staging, "_create", small)
    big = replace(carry.USERS, copy="CREATE TABLE filler AS SELECT randomblob(100000) AS x")
    monkeypatch.setattr(carry, "CARRIED", [big])
    before = names_in(it.folder)
    it.clock.advance(WEEK)
    with pytest.raises(StorageFullError):
        await it.manager.rotate_to_new_week()
    assert names_in(it.folder) == before


@pytest.mark.parametrize("committed", [True, False])
async def test_a_seal_whose_outcome_is_unknown_is_found_out_by_the_next_call(it, committed, monkeypatch):
    user_id = await user_with_bets(it)
    commit = GroupCommit.commit

    def unknown(group: GroupCommit) -> None:
        if committed:
            commit(group)
        raise CommitOutcomeUnknownError("fsync failed")

    monkeypatch.setattr(GroupCommit, "commit", unknown)
    it.clock.advance(WEEK)
    with pytest.raises(CommitOutcomeUnknownError):
        await it.manager.rotate_to_new_week()
    monkeypatch.undo()
    assert live_weeks(it.folder) == [str(W[1] if committed else W[0])]
    bet = await it.bets.place(user_id, "cell", 1, 2.0)
    assert it.manager.current_week == (W[1] if committed else W[0])
    assert (await it.manager.rotate_to_new_week()).performed is not committed
    assert it.manager.current_week == W[1]
    assert await it.bets.get(bet.id) == bet
    assert (await it.ledger.audit()).ok


@pytest.mark.parametrize("lock", [FOLDER, ROTATION])
async def test_a_rotation_gives_up_while_another_process_holds_the_family(tmp_path, lock):
    async with platform(tmp_path, busy_timeout=timedelta(milliseconds=300)) as it:
        it.clock.advance(WEEK)
        async with Family(tmp_path / "bets.db").alone(timedelta(), lock):
            with pytest.raises(BusyTimeoutError, match="rotating") as caught:
                await it.manager.rotate_to_new_week()
            assert caught.value.attempts >= 2
            await it.users.create("0xabc", 1)  # writers are not held up by it
            assert not list(tmp_path.glob("*.staging"))
        assert (await it.manager.rotate_to_new_week()).performed


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_a_week_that_a_newer_release_migrated_is_not_rotated_by_an_older_one(it, meanwhile, monkeypatch):
    await user_with_bets(it)
    head, copy = it.manager._head, staging.Staging.copy

    def set_version(version: int) -> None:
        with direct(it.file(W[0])) as raw:
            raw.execute(f"PRAGMA user_version = {version}")

    def migrated_meanwhile(self: staging.Staging, raw: sqlite3.Connection) -> None:
        set_version(head + 1)
        copy(self, raw)

    if meanwhile:
        monkeypatch.setattr(staging.Staging, "copy", migrated_meanwhile)
    else:
        set_version(head + 1)
    before = names_in(it.folder)
    it.clock.advance(WEEK)
    with pytest.raises(RotationError, match=f"schema version {head + 1}, this code knows {head}"):
        await it.manager.rotate_to_new_week()
    assert names_in(it.folder) == before
    monkeypatch.undo()
    set_version(head)
    assert (await it.manager.rotate_to_new_week()).performed


# Rivals and followers


async def test_of_rivals_one_rotates_and_the_others_follow(tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        rivals = [await stack.enter_async_context(platform(tmp_path)) for _ in range(4)]
        await user_with_bets(rivals[0])
        for week in W[1:4]:
            for rival in rivals:
                rival.clock.now = week.start
            reports = await asyncio.gather(*(rival.manager.rotate_to_new_week() for rival in rivals for _ in range(2)))
            assert Counter(report.performed for report in reports) == {True: 1, False: 7}
            assert {report.week for report in reports} == {week}
            assert live_weeks(tmp_path) == [str(week)]
        assert (await rivals[0].ledger.audit()).ok


async def test_a_manager_that_slept_over_rotations_follows_without_touching_the_weeks_between(tmp_path):
    async with platform(tmp_path) as sleeper:
        user_id = await user_with_bets(sleeper)
        async with platform(tmp_path) as rival:
            for _ in range(3):
                await rival.next_week()
        async with platform(tmp_path, W[3]):
            pass  # a start finalizes the weeks between
        with direct(sleeper.file(W[2])) as raw:
            assert raw.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        sleeper.file(W[1]).unlink()
        sleeper.clock.now = W[3].start
        bet = await sleeper.bets.place(user_id, "cell", 1, 2.0)
        assert sleeper.manager.current_week == W[3]
        assert bet.placed_at == W[3].start
        with direct(sleeper.file(W[2])) as raw:
            assert raw.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert not sleeper.file(W[1]).exists()


async def test_a_query_alone_notices_that_another_process_rotated(tmp_path):
    async with platform(tmp_path) as it, platform(tmp_path) as rival:
        user_id = await user_with_bets(it)
        assert await it.manager.count_bets(*ALWAYS) == 5
        await rival.next_week()
        bet = await rival.bets.place(user_id, "new", 1, 2.0)
        assert (await it.manager.query_bets(user_id, *ALWAYS, limit=1)).bets == [bet]


async def test_a_file_that_was_put_in_the_place_of_a_sealed_one_is_told(tmp_path):
    async with platform(tmp_path) as it:
        backup = tmp_path / "backup"
        with direct(it.file(W[0])) as raw:
            raw.execute("VACUUM INTO ?", (str(backup),))
        async with platform(tmp_path) as rival:
            await rival.next_week()
            for side in ("-wal", "-shm"):
                it.file(W[0]).with_name(it.file(W[0]).name + side).unlink()
            backup.replace(it.file(W[0]))
            with pytest.raises(PartitionDamagedError, match="put another file in its place"):
                await it.users.create("0xabc", 1)


async def until_more(things: list[str], number: int) -> None:
    wanted = len(things) + number
    await until(lambda: len(things) >= wanted)


async def test_writers_in_flight_lose_nothing_over_many_rotations(it):
    users = [await it.users.create(f"0x{number}", 1_000_000) for number in range(20)]
    placed: list[str] = []
    over = asyncio.Event()

    async def place(user_id: str) -> None:
        while not over.is_set():
            bet = await it.bets.place(user_id, "cell", 1, 2.0)
            placed.append(bet.id)
            if len(placed) % 3 == 0:
                await it.bets.settle(bet.id, won=len(placed) % 2 == 0)

    writers = [asyncio.create_task(place(user.id)) for user in users]
    for _ in range(6):
        await until_more(placed, 30)
        await it.next_week()
    over.set()
    await asyncio.gather(*writers)
    found = [bet.id for user in users for bet in (await it.manager.query_bets(user.id, *ALWAYS)).bets]
    assert sorted(found) == sorted(placed)
    assert len(set(placed)) == len(placed)
    assert (await it.ledger.audit()).ok
    assert list(states(it.folder).values()) == ["sealed"] * 6 + ["live"]


async def test_queries_during_rotations_show_each_bet_exactly_once(it):
    user = await it.users.create("0xabc", 1_000_000)
    placed: list[str] = []
    over = asyncio.Event()

    async def place() -> None:
        while not over.is_set():
            bet = await it.bets.place(user.id, "cell", 1, 2.0)
            placed.append(bet.id)
            if len(placed) % 4 == 0:
                await it.bets.settle(placed[len(placed) // 2], won=False)

    async def look() -> int:
        looks = 0
        while not over.is_set():
            known = list(placed)
            page = await it.manager.query_bets(user.id, *ALWAYS, newest_first=looks % 2 == 0)
            found = [bet.id for bet in page.bets]
            assert len(set(found)) == len(found)
            assert set(known) <= set(found)
            before = len(placed)
            assert await it.manager.count_bets(*ALWAYS) >= before
            looks += 1
        return looks

    tasks = [asyncio.create_task(work()) for work in (place, place, look, look)]
    for _ in range(6):
        await until_more(placed, 20)
        await it.next_week()
    over.set()
    results = await asyncio.gather(*tasks)
    assert min(results[2:]) > 3


async def test_a_read_of_the_old_week_that_is_going_on_is_finished(it):
    user_id, gate = await user_with_bets(it), Gate()

    def slowly(raw: sqlite3.Connection) -> int:
        gate.pass_through()
        return raw.execute("SELECT balance FROM users WHERE id = ?", (user_id,)).fetchone()[0]

    reading = asyncio.create_task(it.manager.read(slowly))
    await gate.reached()
    await it.next_week()
    gate.open()
    assert await reading == (await it.users.get(user_id)).balance


async def test_the_retired_week_becomes_a_plain_file_once_nobody_reads_it(it):
    await it.manager.count_bets(*ALWAYS)
    await it.next_week()
    await until(lambda: not it.manager._reading.retiring)
    assert it.file(W[0]).stat().st_mode & 0o777 == 0o400
    assert not it.file(W[0]).with_name(it.file(W[0]).name + "-wal").exists()
    assert await it.manager.count_bets(*ALWAYS) == 0


async def test_the_retired_week_becomes_a_plain_file_though_several_go_on_to_ask_it(it):
    user_id = await user_with_bets(it)
    async with platform(it.folder) as other:

        async def ask_again_and_again(one: Platform) -> None:
            while not finalized():
                assert len((await one.manager.query_bets(user_id, *ALWAYS)).bets) >= 5
                await asyncio.sleep(0.005)  # longer than a question takes

        def finalized() -> bool:
            return it.file(W[0]).stat().st_mode & 0o777 == 0o400

        await it.next_week()
        other.clock.now = it.clock.now
        await asyncio.gather(*(one.bets.place(user_id, "cell", 1, 2.0) for one in (it, other)))  # looks for ids in it
        async with asyncio.timeout(60):
            await asyncio.gather(*(ask_again_and_again(one) for one in (it, other)))
        assert not it.file(W[0]).with_name(it.file(W[0]).name + "-wal").exists()
        await until(lambda: not it.manager._reading.retiring and not other.manager._reading.retiring)
        for one in (it, other):  # kept open from now on
            assert len((await one.manager.query_bets(user_id, *ALWAYS)).bets) == 7


@pytest.mark.parametrize("ends", ["detached", "closed"])
async def test_a_week_that_somebody_keeps_open_holds_nobody_up(it, ends):
    user_id = await user_with_bets(it)
    with direct(it.file(W[0])) as raw:
        raw.execute("BEGIN")
        raw.execute("SELECT count(*) FROM bets").fetchone()
        await it.next_week()
        assert len((await it.manager.query_bets(user_id, *ALWAYS)).bets) == 5
        assert it.manager._reading.retiring.keys() == {W[0]}
        async with asyncio.timeout(10):
            if ends == "closed":
                await it.manager.close()
            else:
                it.be_impatient()
                with pytest.raises(PartitionError, match="cannot be moved yet"):
                    await it.manager.detach_partition(W[0])
                assert not it.manager._reading.retiring
    assert it.file(W[0]).stat().st_mode & 0o777 == 0o600
    if ends == "detached":
        await it.manager.detach_partition(W[0])
        assert it.file(W[0]).stat().st_mode & 0o777 == 0o400


async def test_stopped_at_any_step_it_closes_what_it_had_open_and_leaves_the_week_readable(it, monkeypatch):
    stopping, retire = [], Reading.retire

    def retired_and_stopped(reading, left):
        stopping.append(asyncio.create_task(reading.stop_retiring()))  # runs before the task that retires it
        retire(reading, left)

    user_id, reading = await user_with_bets(it), it.manager._reading
    for steps in range(24):
        left = it.manager._live.current
        if steps == 0:  # in the moment in which the week is left
            monkeypatch.setattr(Reading, "retire", retired_and_stopped)
        await it.next_week()
        monkeypatch.undo()
        for _ in range(steps):
            await asyncio.sleep(0)
        await reading.stop_retiring()
        assert not reading.retiring
        with pytest.raises(PoolClosedError):
            await left.pool.fetch_value("SELECT 1")
        assert len((await it.manager.query_bets(user_id, *ALWAYS)).bets) == 5
    await asyncio.gather(*stopping)
    await it.manager.close()
    assert {it.file(week).stat().st_mode & 0o777 for week in W[:24]} == {0o400}


async def test_a_detach_that_is_cancelled_at_any_step_of_the_retirement_can_be_repeated(it):
    for steps in range(24):
        left = it.manager._live.current
        await it.next_week()
        detaching = asyncio.create_task(it.manager.detach_partition(left.week))
        for _ in range(steps):
            await asyncio.sleep(0)
        detaching.cancel()
        await asyncio.wait([detaching])
        assert detaching.cancelled() or detaching.exception() is None
        await it.manager.detach_partition(left.week)
        assert not it.manager._reading.retiring
        with pytest.raises(PoolClosedError):
            await left.pool.fetch_value("SELECT 1")
        assert it.file(left.week).stat().st_mode & 0o777 == 0o400


async def test_finalizing_races_readers_without_an_error(it):
    user_id = await user_with_bets(it)
    await it.next_week()
    await until(lambda: not it.manager._reading.retiring)
    path, over, rounds = it.file(W[0]), threading.Event(), []

    def finalize_again_and_again() -> None:
        while not over.wait(0.002):  # leaves the readers room to get in between
            path.chmod(0o600)
            with contextlib.suppress(sqlite3.OperationalError), direct(path) as raw:
                raw.execute("PRAGMA busy_timeout = 0")
                raw.execute("PRAGMA journal_mode = WAL")
            rounds.append(rotation.finalize(path))

    work = asyncio.create_task(asyncio.to_thread(finalize_again_and_again))
    for _ in range(12):
        async with platform(it.folder, W[1]) as other:
            assert len((await other.manager.query_bets(user_id, *ALWAYS)).bets) == 5
            assert await other.manager.count_bets(*ALWAYS, status=BetStatus.PENDING) == 1
    over.set()
    await work
    assert True in rounds


# Closing


async def test_closing_waits_for_a_rotation_that_is_going_on(tmp_path, monkeypatch):
    clock = ManualClock(W[0].start)
    manager = manager_for(tmp_path, clock)
    await manager.open()
    gate, publish = Gate(), rotation.publish

    def slowly(*paths: object) -> None:
        gate.pass_through()
        publish(*paths)

    monkeypatch.setattr(rotation, "publish", slowly)
    clock.now = W[1].start
    rotating = asyncio.create_task(manager.rotate_to_new_week())
    await gate.reached()
    closing = asyncio.create_task(manager.close())
    await asyncio.sleep(0)
    gate.open()
    await closing
    assert (await rotating).performed
    assert live_weeks(tmp_path) == [str(W[1])]


async def test_closing_while_another_rotation_is_followed_leaves_nothing_open(tmp_path):
    for turns in range(12):
        folder = tmp_path / str(turns)
        async with platform(folder) as rival:
            manager = manager_for(folder, rival.clock)
            await manager.open()
            await rival.next_week()
            following = asyncio.create_task(manager.read(lambda _: None))
            for _ in range(turns):
                await asyncio.sleep(0)
            await manager.close()
            with contextlib.suppress(PoolClosedError):
                await following


async def test_nothing_is_followed_once_all_is_closed(tmp_path):
    async with platform(tmp_path) as it:
        live_file = it.manager._live
        left = live_file.current

    async def find() -> None:
        pytest.fail("looked for a week to open")

    assert not await live_file.follow(left, find)


async def test_a_scanner_that_opens_while_all_is_closed_does_not_stay_open():
    scanners = scanner.Scanners(2, timedelta())
    asking = asyncio.create_task(scanners.run(lambda _: None))
    await asyncio.sleep(0)
    await scanners.close()
    with pytest.raises(PoolClosedError):
        await asking


async def test_a_look_at_the_folder_sees_a_rotation_that_went_on_after_it_was_listed(it):
    await it.next_week(), await it.next_week()
    await until(lambda: not it.manager._reading.retiring)  # which would be in the way for a moment

    class ListedBefore(Family):
        def weekly_files(self) -> dict:
            return {W[0]: self.path_of(W[0])}

    discovery = discover(ListedBefore(it.folder / "bets.db"), load_migrations(shipped_folder())[-1].version)
    assert (discovery.live, list(discovery.partitions)) == (W[2], W[:3])


async def test_closing_interrupts_a_query_that_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(scanner, "CLOSE_TIMEOUT", 0.05)
    manager = manager_for(tmp_path, ManualClock(W[0].start))
    await manager.open()
    endless = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    span = {"start": ALWAYS[0], "end": ALWAYS[1]}
    asking = [asyncio.create_task(manager.query(endless, **span)) for _ in range(4)]  # two run, two stand in line
    await until(lambda: len(manager._reading.scanners._scanners) == 2)
    await manager.close()
    for result in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(result, PoolClosedError)


async def test_a_week_carried_by_hand_from_another_machine_goes_on_there(tmp_path):
    async with platform(tmp_path / "here") as it:
        user_id = await user_with_bets(it)
        await it.next_week()
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    async with platform(tmp_path / "there", W[1]) as it:
        assert len((await it.manager.query_bets(user_id, *ALWAYS)).bets) == 5
        assert (await it.ledger.audit()).ok
