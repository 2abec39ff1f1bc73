"""Killed anywhere, archiving and restoring leave the week here or whole in the archive; a repeat ends the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from reliability.killing import REACHES_SQLITE
from weekly_files import W, platform

WORKER = [sys.executable, Path(__file__).parent / "archive_worker.py"]


@pytest.fixture
async def weeks(tmp_path):
    """Six weeks with decided and open bets, of which W[1] may be archived."""
    folder = tmp_path / "template"
    async with platform(folder) as it:
        user = await it.users.create("0xabc", 10_000)
        for week in W[:6]:
            if week != W[0]:
                await it.next_week()
            await it.bets.settle((await it.bets.place(user.id, "cell", 20, 2.0)).id, won=True)
            await it.bets.place(user.id, "open", 10, 2.0)
    return folder


@pytest.mark.timeout(180)
@pytest.mark.skipif(not REACHES_SQLITE, reason="the SQLite of this Python cannot be reached from outside")
@pytest.mark.parametrize(("what", "every"), [("archive", 3), ("restore", 2)])
def test_killed_at_any_step_the_week_is_whole_somewhere_and_a_repeat_completes_it(weeks, tmp_path, what, every, one_in):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [*WORKER, weeks, scratch, what, one_in(every)]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["killed"] > 15
    assert all(result["left"].values()), result  # the kills fell on both sides of the decisive step
