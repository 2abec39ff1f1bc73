"""Cancelled anywhere, archiving, restoring and verifying leave the week whole somewhere, and nothing half done."""

import asyncio
import shutil

import pytest
from reliability.cancellation import MODES, cancel_at_piece, cancelled_at, suspensions
from weekly_files import ALWAYS, W, names_in, platform

from betcore_async.config import PartitionSettings
from betcore_async.partitions import archive_transfer

pytestmark = pytest.mark.usefixtures("object_stores")

WEEK, LIVE = W[1], W[5]
WORK = {
    "archive": lambda manager: manager.archive(WEEK),
    "archive_old_weeks": lambda manager: manager.archive_old_weeks(3),
    "restore": lambda manager: manager.restore(WEEK),
    "verify": lambda manager: manager.verify(WEEK),
    "query that restores": lambda manager: manager.query_bets("nobody", *ALWAYS),
}


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """Six weeks of which two may go: in one folder all of them are here, in the other one those two are archived."""
    here, away = (tmp_path_factory.mktemp(name) / "data" for name in ("here", "away"))

    async def make():
        async with platform(here) as it:
            user = await it.users.create("0xabc", 10_000)
            for week in W[:6]:
                if week != W[0]:
                    await it.next_week()
                await it.bets.settle((await it.bets.place(user.id, "cell", 20, 2.0)).id, won=True)
                await it.bets.place(user.id, "open", 10, 2.0)
        shutil.copytree(here, away)
        async with platform(away, LIVE) as it:
            await it.manager.archive_old_weeks(3)

    asyncio.run(make())
    return {name: here if name.startswith("archive") else away for name in WORK}


async def check(it):
    """Hold what must hold after a cancellation: each week whole somewhere, and all of it works."""
    assert not [name for name in names_in(it.folder) if name.endswith((".restoring", ".staging", ".new"))]
    for week in W[:2]:
        here = it.file(week).exists()
        assert here or (await it.manager.verify(week)).ok
    await it.manager.archive_old_weeks(3)
    for week in W[:2]:
        kept = it.folder / "bets.db-archive" / str(week)
        assert sorted(name[-4:] for name in names_in(kept)) == [".zst", "json"]
        assert (await it.manager.verify(week)).ok
        await it.manager.restore(week)
    assert len(await it.manager.query("SELECT id FROM bets", start=ALWAYS[0], end=ALWAYS[1])) == 12
    assert (await it.ledger.audit()).ok


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["archive_old_weeks", "restore", "verify", "query that restores"])
async def test_cancelled_at_any_await_nothing_is_lost_and_nothing_half_done_is_left(
    name, templates, tmp_path, mode, one_in
):
    for number in suspensions(mode, one_in):
        folder = shutil.copytree(templates[name], tmp_path / str(number))
        async with platform(folder, LIVE) as it:
            it.manager._settings = PartitionSettings(restore_on_demand="query" in name)
            struck = await cancelled_at(number, WORK[name](it.manager), mode)
            await check(it)
        shutil.rmtree(folder)
        if not struck:
            break
    assert 3 <= number < 99


@pytest.mark.parametrize("name", ["archive", "archive again", "restore", "verify"])
async def test_cancelled_at_any_piece_of_a_transfer_it_stops_there_and_leaves_nothing(
    name, templates, tmp_path, monkeypatch
):
    monkeypatch.setattr(archive_transfer, "PIECE", 16 * 1024)
    name, again = name.partition(" again")[:2]
    for number in range(200):
        folder = shutil.copytree(templates["restore" if again else name], tmp_path / str(number))
        async with platform(folder, LIVE) as it:
            if again:  # what is archived already is compared
                await it.manager.restore(WEEK)
            struck = await cancel_at_piece(number, WORK[name](it.manager))
            if struck:  # while it was proven that it may go, and before it was proven that it came back
                assert it.file(WEEK).exists() == (name == "archive")
                objects = list((folder / "bets.db-archive" / str(WEEK)).glob("*"))
                assert len(objects) == (0 if (name, again) == ("archive", "") else 2)
            await check(it)
        shutil.rmtree(folder)
        if not struck:
            break
    assert 5 < number < 199
