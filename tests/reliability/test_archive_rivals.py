"""Several processes archive, restore, verify and read the same weeks, some of them killed: no bet is ever lost."""

import asyncio
import contextlib
import fcntl
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from weekly_files import ALWAYS, W, names_in, platform

WORKER = [sys.executable, Path(__file__).parent / "archive_rival.py"]
GOES, LIVE = W[:3], W[5]
RIVALS, KILLS, WORKS = 3, 6, 12

pytestmark = pytest.mark.usefixtures("object_stores")


async def some_weeks(folder):
    """Six weeks with decided bets, and some that stay open, of which three may go, and were archived once."""
    bets = {}
    async with platform(folder) as it:
        user = await it.users.create("0xabc", 10_000)
        for week in W[:6]:
            if week != W[0]:
                await it.next_week()
            placed = [await it.bets.place(user.id, cell, 10, 2.0) for cell in ("cell", "open", "cell")]
            await it.bets.settle(placed[0].id, won=True)
            bets[str(week)] = [bet.id for bet in placed]
        for week in GOES:
            await it.manager.archive(week)
        await it.manager.restore(W[1])
    return user.id, bets


async def rivals_at_work(folder, user, bets):
    """Let them work, kill some of them, and return how often each kind of work was done."""
    done, kills = Counter(), 0

    async def rival():
        command = [*WORKER, folder, user, json.dumps(bets)]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        reading_errors = asyncio.create_task(process.stderr.read())
        try:
            mine = random.randrange(1, WORKS)
            async for line in process.stdout:
                done[line.decode().strip()] += 1
                nonlocal kills
                mine -= 1
                if mine == 0 and kills < KILLS:
                    kills += 1
                    await asyncio.sleep(random.uniform(0, 0.03))  # into the middle of what it does next
                    process.kill()
                elif kills >= KILLS and done.total() >= RIVALS * WORKS * 3:
                    process.stdin.close()
            assert await process.wait() in {0, -9}, (await reading_errors).decode()
            return process.returncode != 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await reading_errors

    async def rivals_one_after_the_other():
        while await rival():
            pass

    async with asyncio.TaskGroup() as group:
        for _ in range(RIVALS):
            group.create_task(rivals_one_after_the_other())
    assert kills == KILLS
    return done


@pytest.mark.timeout(180)
async def test_rivals_that_archive_restore_and_read_the_same_weeks_lose_nothing_though_some_are_killed(tmp_path):
    folder = tmp_path / "data"
    user, bets = await some_weeks(folder)
    done = await rivals_at_work(folder, user, bets)
    assert {"archive", "restore", "verify", "query"} <= done.keys(), done
    for name in ("bets.db.lock", "bets.db.archive.lock"):
        with (folder / name).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    async with platform(folder, LIVE) as it:
        for week in GOES:
            await it.manager.archive(week)
            assert (await it.manager.verify(week)).ok
            (manifest, *objects) = sorted((folder / "bets.db-archive" / str(week)).iterdir(), reverse=True)
            assert (manifest.name, len(objects)) == ("manifest.json", 1), objects
            await it.manager.restore(week)
        page = await it.manager.query_bets(user, *ALWAYS)
        assert sorted(bet.id for bet in page.bets) == sorted(bet for ids in bets.values() for bet in ids)
        assert (await it.ledger.audit()).ok
    weeks = {f"bets-{week}.db" for week in W[:6]}
    assert names_in(folder) - weeks == {"bets.db-archive", *(f"bets-{week}.db.archived" for week in GOES)}
