"""What people and crashes do to a folder of weekly files between two steps of ours: nothing is lost, and it is told."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from sqlite_files import held_elsewhere, seen_from_outside
from weekly_files import ALWAYS, WEEK, Platform, W, manager_for, names_in, platform

from betcore_async.clock import ManualClock
from betcore_async.config import DatabaseSettings, PartitionSettings
from betcore_async.errors import ArchiveError, PartitionDamagedError, PartitionError, PartitionMissingError
from betcore_async.partitions import PartitionManager, rotation
from betcore_async.partitions.files import Family
from betcore_async.partitions.moving import move_in, move_out

pytestmark = pytest.mark.usefixtures("object_stores")


async def test_a_week_that_somebody_protected_while_part_of_it_was_in_its_wal_is_archived_whole(tmp_path):
    folder, kept = tmp_path / "data", tmp_path / "kept"
    async with platform(folder) as it:
        user = await it.users.create("0xabc", 10_000)
        await it.bets.place(user.id, "cell", 100, 2.0)
        with contextlib.closing(sqlite3.connect(it.file(W[0]))) as other:  # so that its seal stays in the -wal
            other.execute("SELECT count(*) FROM bets").fetchall()
            await it.next_week()
            kept.mkdir()
            for path in folder.glob(f"bets-{W[0]}.db*"):
                shutil.copy(path, kept)
    for path in kept.glob("*[bl]"):  # a process was killed here, and not its -shm
        (folder / path.name).unlink(missing_ok=True)
        shutil.copy(path, folder)
    (folder / f"bets-{W[0]}.db").chmod(0o444)

    async with platform(folder, W[1]) as it:
        await it.next_week(3)
        await it.manager.archive(W[0])
        await it.manager.restore(W[0])
        assert await it.manager.count_bets(*ALWAYS) == 1


async def test_where_only_records_of_archived_weeks_are_left_nothing_is_begun_anew(tmp_path):
    async with platform(tmp_path) as it:
        await it.users.create("0xabc", 10_000)
        for _ in range(3):
            await it.next_week()
        await it.manager.archive(W[0])
        there = [it.file(week) for week in W[1:4]]
    for path in there:
        path.rename(tmp_path / f"{path.name}.away")
    with pytest.raises(PartitionDamagedError, match=f"{W[0]}.db.archived says .* bring back"):
        async with platform(tmp_path, W[5]):
            pass
    for path in there:
        path.with_name(f"{path.name}.away").rename(path)
    async with platform(tmp_path, W[5]) as it:
        assert (await it.users.by_wallet("0xabc")).balance == 10_000


async def counted(it):
    """What each way to ask finds; the first week has one bet, the others none."""
    rows = await it.manager.query("SELECT id FROM bets", start=ALWAYS[0], end=ALWAYS[1], allow_partial=True)
    count = await it.manager.count_bets(*ALWAYS, allow_partial=True)
    assert count.missing_weeks == rows.missing_weeks
    return count, len(rows), [week.name for week in count.missing_weeks]


async def test_a_week_that_another_process_takes_away_and_brings_back_is_noticed(tmp_path):
    patience, outside = timedelta(seconds=10), tmp_path / "w20.db"
    async with platform(tmp_path / "data") as it:
        user = await it.users.create("0xabc", 10_000)
        bet = await it.bets.settle((await it.bets.place(user.id, "cell", 100, 2.0)).id, won=True)
        await it.next_week()
        async with manager_for(it.folder, it.clock) as other:
            await other.detach_partition(W[0])
            await move_out(other._family, W[0], outside, patience)
        await it.next_week()
        with pytest.raises(PartitionMissingError):
            await it.bets.get(bet.id)
        assert await counted(it) == (0, 0, ["2026-W20"])

        async with manager_for(it.folder, it.clock) as other:
            await other.attach_partition(W[0], outside)
            await other.detach_partition(W[0])
            await move_in(other._family, W[0], outside, patience)
        assert await it.bets.get(bet.id) == bet
        assert await counted(it) == (1, 1, [])


@pytest.mark.parametrize("move", ["detached", "archived", "taken in"])
async def test_a_week_that_another_process_reads_for_a_moment_longer_is_waited_for(tmp_path, monkeypatch, move):
    checkpointed, attempts = rotation._checkpointed, []

    def checkpointed_or_let_go(path):
        attempts.append(checkpointed(path))
        if len(attempts) == 1:
            holder.let_go()
        return attempts[-1]

    async with platform(tmp_path / "data") as it:
        user, file = await it.users.create("0xabc", 10_000), it.file(W[0])
        with held_elsewhere(file, "BEGIN", "SELECT count(*) FROM bets") as holder:
            await it.bets.place(user.id, "cell", 100, 2.0)  # of which the reader must not see anything
            for _ in range(3):
                await it.next_week()
            if move == "taken in":
                await it.manager._reading.stop_retiring(W[0])
            monkeypatch.setattr(rotation, "_checkpointed", checkpointed_or_let_go)
            if move == "archived":
                await it.manager.archive(W[0])
            elif move == "detached":
                await it.manager.detach_partition(W[0])
            else:
                other = Family(tmp_path / "other" / "bets.db")
                other.folder.mkdir()
                await move_in(other, W[0], file, timedelta(seconds=10))
                file = other.path_of(W[0])
        assert attempts[0] is False
        assert not file.with_name(f"{file.name}-wal").exists()
        if move != "archived":
            assert seen_from_outside(file, "SELECT count(*) FROM bets") == 1


@pytest.mark.parametrize("move", ["detached", "archived", "taken in"])
async def test_cancelled_while_it_waits_for_another_process_a_move_can_be_repeated(tmp_path, monkeypatch, move):
    waiting, checkpointed = asyncio.Event(), rotation._checkpointed
    loop, other = asyncio.get_running_loop(), Family(tmp_path / "other" / "bets.db")
    other.folder.mkdir()

    def noticed(path):
        found = checkpointed(path)
        loop.call_soon_threadsafe(waiting.set)
        return found

    def moving():
        if move == "archived":
            return it.manager.archive(W[0])
        return it.manager.detach_partition(W[0]) if move == "detached" else move_in(other, W[0], file, WEEK)

    async with platform(tmp_path / "data") as it:
        user, file = await it.users.create("0xabc", 10_000), it.file(W[0])
        with held_elsewhere(file, "BEGIN", "SELECT count(*) FROM bets"):
            await it.bets.place(user.id, "cell", 100, 2.0)  # of which the reader must not see anything
            for _ in range(3):
                await it.next_week()
            await it.manager._reading.stop_retiring(W[0])
            monkeypatch.setattr(rotation, "_checkpointed", noticed)
            task = asyncio.create_task(moving())
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert file.exists()
            assert names_in(other.folder) == set()
        await moving()
        assert file.exists() == (move != "archived")
        assert other.path_of(W[0]).exists() == (move == "taken in")


async def test_a_good_file_in_place_of_a_damaged_one_is_noticed_without_a_restart(tmp_path):
    async with platform(tmp_path) as it:
        user = await it.users.create("0xabc", 10_000)
        await it.bets.settle((await it.bets.place(user.id, "cell", 100, 2.0)).id, won=True)
        for _ in range(2):
            await it.next_week()
    good = it.file(W[0]).rename(tmp_path / "good")
    it.file(W[0]).write_bytes(b"no database" * 100)
    async with platform(tmp_path, W[2]) as it:
        for _ in range(2):
            assert await counted(it) == (0, 0, ["2026-W20"])
        with pytest.raises(PartitionMissingError, match="not a database"):
            await it.manager.sum_bets(*ALWAYS)
        good.replace(it.file(W[0]))
        assert (await it.manager.sum_bets(*ALWAYS)).payout == 200


async def test_a_week_that_was_detached_here_stays_so_though_its_file_is_there(tmp_path):
    async with platform(tmp_path) as it:
        await it.next_week()
        await it.manager.detach_partition(W[0])
        assert await counted(it) == (0, 0, ["2026-W20"])
        with pytest.raises(PartitionMissingError):
            await it.manager.sum_bets(*ALWAYS)


async def settle_as_lost(it, bet):
    await it.bets.settle(bet.id, won=False)


async def confirm(it, bet):
    await it.bets.confirm(bet.id)


async def close_a_cell(it, bet):
    await it.bets.settle_cell("without bets", won=True)


@pytest.mark.parametrize("write", [settle_as_lost, confirm, close_a_cell])
async def test_a_week_that_was_live_is_never_removed_for_an_older_copy_of_the_one_before(tmp_path, write):
    copy = tmp_path / "copy"
    async with platform(tmp_path) as it:
        user = await it.users.create("0xabc", 10_000)
        bet = await it.bets.place(user.id, "cell", 100, 2.0)
        with contextlib.closing(sqlite3.connect(it.file(W[0]))) as raw:
            raw.execute("VACUUM INTO ?", (str(copy),))
        await it.next_week()
        await write(it, bet)
        user, bet = await it.users.get(user.id), await it.bets.get(bet.id)
    old = it.file(W[0]).rename(tmp_path / "aside")
    copy.rename(it.file(W[0]))
    with pytest.raises(PartitionDamagedError, match=f"does not name it: bring back the {W[0]}"):
        async with platform(tmp_path, W[1]):
            pass
    old.replace(it.file(W[0]))
    async with platform(tmp_path, W[1]) as it:
        assert await it.users.get(user.id) == user
        assert await it.bets.get(bet.id) == bet


async def test_a_folder_that_is_empty_all_at_once_is_told_and_not_counted_as_nothing(tmp_path):
    folder, away = tmp_path / "data", tmp_path / "away"
    async with platform(folder) as it:
        user = await it.users.create("0xabc", 10_000)
        await it.bets.settle((await it.bets.place(user.id, "cell", 100, 2.0)).id, won=False)
        await it.next_week()
        folder.rename(away)
        folder.mkdir()  # as where a volume was mounted
        for _ in range(2):
            with pytest.raises(PartitionDamagedError, match="no weekly file is in"):
                await it.manager.count_bets(*ALWAYS)
        folder.rmdir()
        away.rename(folder)
        assert await it.manager.count_bets(*ALWAYS) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for others")
async def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    async with platform(tmp_path) as it:
        await it.users.create("0xabc", 10_000)
        for _ in range(3):
            await it.next_week()
        await it.manager.archive(W[0])
        await it.manager.restore(W[0])
        named = [path for path in tmp_path.glob("bets*") if path.is_file() and path.suffix != ".figures"]
        assert {path.suffix for path in named} > {".db", ".lock", ".archived"}
        assert {(path.stat().st_uid, path.stat().st_gid) for path in named} == {(65534, 65534)}
        assert len([path for path in named if path.suffix == ".db"]) == 4


async def test_a_week_of_another_database_in_the_archive_does_not_take_the_place_of_one_that_was_lost(tmp_path):
    settings = PartitionSettings(archive_url=str(tmp_path / "archive"))
    for name, delay in (("one", 1), ("other", 2)):
        clock = ManualClock(W[0].start + timedelta(minutes=delay))
        database = DatabaseSettings(path=tmp_path / name / "bets.db")
        async with PartitionManager(database, settings, clock=clock) as manager:
            it = Platform(manager, clock, tmp_path / name)
            user = await it.users.create("0xabc", 10_000)
            await it.bets.settle((await it.bets.place(user.id, name, 100, 2.0)).id, won=False)
            for _ in range(3):
                await it.next_week()
            if name == "one":
                await manager.archive(W[0])
                (it.folder / f"bets-{W[0]}.db.archived").unlink()
                assert (await manager.restore(W[0])).bets == 1  # its own, also without the record
    it.file(W[0]).unlink()
    async with PartitionManager(database, settings, clock=clock) as manager:
        with pytest.raises(ArchiveError, match=f"{W[0]} of another database: .*{W[1]}.db, which is here"):
            await manager.restore(W[0])
        assert (await manager.count_bets(*ALWAYS, allow_partial=True)).missing_weeks == (W[0],)
    assert not [path for path in it.folder.iterdir() if str(W[0]) in path.name]


async def test_a_week_of_another_database_is_not_attached(tmp_path):
    for name in ("ours", "theirs"):
        async with platform(tmp_path / name) as it:
            user = await it.users.create(name, 10_000)
            for _ in range(3):
                await it.bets.place(user.id, "cell", 100, 2.0)
                await it.next_week()
    theirs = [tmp_path / "theirs" / f"bets-{week}.db" for week in W[:3]]
    async with platform(tmp_path / "ours", W[3]) as it:
        for week, file in zip(
            W, theirs, strict=False
        ):  # the first, one in the middle, and the one before the live week
            await it.manager.detach_partition(week)
            with pytest.raises(PartitionDamagedError, match="of another database") as caught:
                await it.manager.attach_partition(week, file)
            assert caught.value.path == file
            await it.manager.attach_partition(week, it.file(week))
        assert await counted(it) == (3, 3, [])


@pytest.mark.parametrize("side", ["-wal", "-journal"])
async def test_a_week_is_not_moved_to_where_the_log_of_another_file_would_be_played_into_it(tmp_path, side):
    target = tmp_path / "backup" / f"bets-{W[0]}.db"
    async with platform(tmp_path / "data") as it:
        await it.next_week()
        target.parent.mkdir()
        log = target.with_name(target.name + side)
        log.write_bytes(b"of a file that is gone")
        await it.manager.detach_partition(W[0])
        with pytest.raises(PartitionError, match="File exists"):
            await move_out(it.manager._family, W[0], target.parent, timedelta(seconds=10))
        assert it.file(W[0]).exists()
        log.unlink()
        assert await move_out(it.manager._family, W[0], target.parent, timedelta(seconds=10)) == target


@pytest.fixture
def other_disk(tmp_path):
    """A folder on another file system than the tests' own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        if Path(folder).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is one file system")
        yield Path(folder)


async def test_a_week_is_moved_to_another_disk_past_files_of_somebody_else(tmp_path, other_disk):
    theirs = other_disk / f"bets-{W[0]}.db.part"
    theirs.write_bytes(b"half a download")
    async with platform(tmp_path / "data") as it:
        await it.next_week()
        await it.manager.detach_partition(W[0])
        content = it.file(W[0]).read_bytes()
        moved = await move_out(it.manager._family, W[0], other_disk, timedelta(seconds=10))
    assert not it.file(W[0]).exists()
    assert moved.read_bytes() == content
    assert moved.stat().st_mode & 0o777 == 0o400
    assert theirs.read_bytes() == b"half a download"
    assert set(other_disk.iterdir()) == {moved, theirs}


async def test_a_damaged_file_of_a_far_week_does_not_let_a_week_after_the_live_one_be_attached(tmp_path):
    async with platform(tmp_path / "other", W[8]) as other:
        await other.next_week()
        later = other.file(W[8])
    (tmp_path / "data").mkdir()
    async with platform(tmp_path / "data") as it:
        user = await it.users.create("0xabc", 10_000)
    (tmp_path / "data" / f"bets-{W[9]}.db").write_bytes(b"no database" * 100)
    async with platform(tmp_path / "data") as it:
        with pytest.raises(PartitionError, match="comes after the live week"):
            await it.manager.attach_partition(W[8], later)
        (row,) = await it.manager.query("SELECT id FROM users", start=ALWAYS[0], end=ALWAYS[1])
        assert row["id"] == user.id


@pytest.mark.parametrize("parameters", [(), (1,), (1, 2, 3)])
async def test_a_parameter_too_many_or_too_few_is_an_error_also_over_many_weeks(tmp_path, parameters):
    sql = "SELECT count(*) FROM bets WHERE amount > ? LIMIT ?"
    async with platform(tmp_path) as it:
        for _ in range(11):
            await it.next_week()
        assert [tuple(row) for row in await it.manager.query(sql, (1, 2), start=ALWAYS[0], end=ALWAYS[1])] == [(0,)]
        with pytest.raises(PartitionError):
            await it.manager.query(sql, parameters, start=ALWAYS[0], end=ALWAYS[1])
