"""What people and crashes do to a folder of weekly files between two steps of ours: nothing is lost, and it is told."""

import contextlib
import shutil
import sqlite3

import pytest
from weekly_files import ALWAYS, W, platform

from betcore_async.errors import PartitionDamagedError

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
