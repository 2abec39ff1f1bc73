"""Killed anywhere, a rotation leaves exactly one live week and loses nothing; whoever comes next completes it."""

import asyncio
import contextlib
import itertools
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from reliability.killing import REACHES_SQLITE
from weekly_files import ALWAYS, Platform, W, build_successor, live_weeks, platform, states

from betcore_async.partitions.files import Family
from betcore_async.stores import outbox
from betcore_async.stores.commands import SettleChunk

WORKER = [sys.executable, Path(__file__).parent / "rotation_worker.py"]
ROTATIONS = 12

pytestmark = pytest.mark.timeout(180)
sweeps = pytest.mark.skipif(not REACHES_SQLITE, reason="this Python has an SQLite in it that it keeps for itself")


@pytest.fixture
async def weeks(tmp_path):
    """Two sealed weeks and a live one, with all that a rotation carries over, or has to leave where it is.

    Bets of all kinds, some open since each week; links of the chain; a cell that is half settled; events that were told
    up to the middle of the second week, and wait since then in that week and the next.
    """
    folder = tmp_path / "template"
    async with platform(folder) as it:
        users = [(await it.users.create(f"0x{number}", 1000)).id for number in range(3)]
        await a_weeks_work(it, users)
        await it.next_week()
        await it.users.deposit(users[0], 5)
        await it.manager.write(outbox.turn_on)
        await a_weeks_work(it, users)
        await it.next_week()
        await a_weeks_work(it, users)
        await it.bets._engine.execute(SettleChunk("half", won=True, number=1, size=4))
    return folder


async def a_weeks_work(it: Platform, users: list[str]) -> None:
    for user in users:
        await it.bets.place(user, "open", 10, 2.0)
        await it.bets.place(user, "half", 1, 2.0)
        await it.bets.confirm((await it.bets.place(user, "open", 1, 1.5)).id)
        await it.bets.settle((await it.bets.place(user, "cell", 20, 2.0)).id, won=True)
        await it.bets.settle((await it.bets.place(user, "cell", 5, 3.0)).id, won=False)
        await it.bets.cancel((await it.bets.place(user, "cell", 5, 3.0)).id)
        await it.bets.place(user, "cell", 10**6, 3.0)  # refused: there is not so much
    await it.users.transfer(users[0], users[1], 3)


def sweep(template: Path, scratch: Path, what: str, every: int) -> dict:
    """Kill at every so many steps, others each time."""
    scratch.mkdir()
    command = [*WORKER, "sweep", template, scratch, what, str(random.randrange(every)), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@sweeps
@pytest.mark.parametrize("what", ["rotate", "beside"], ids=["alone", "with another process at work"])
async def test_killed_at_a_step_of_a_rotation_it_leaves_one_live_week_and_loses_nothing(weeks, tmp_path, what, one_in):
    result = await asyncio.to_thread(sweep, weeks, tmp_path / "scratch", what, one_in(8))
    assert result["killed"] > 15
    # The kills fell on both sides of the commit point.
    assert result["live"].keys() == {str(W[2]), str(W[3])}
    assert result["live"][str(W[2])] > 8


@sweeps
async def test_killed_at_a_step_of_a_start_it_leaves_one_live_week_and_loses_nothing(weeks, tmp_path, one_in):
    # A start with something to do: a cut rotation, a build that never ended, weeks that were not finalized.
    build_successor(weeks, W[3], W[2])
    shutil.copy(weeks / f"bets-{W[2]}.db", Family(weeks / "bets.db").new_staging(W[3]))
    for week in W[:2]:
        (weeks / f"bets-{week}.db").chmod(0o600)
    result = await asyncio.to_thread(sweep, weeks, tmp_path / "scratch", "start", one_in(2))
    assert result["killed"] > 12
    assert result["live"].keys() == {str(W[2])}


def test_bets_of_several_processes_survive_rivals_that_rotate_and_are_killed(tmp_path):
    folder, last = tmp_path / "data", W[ROTATIONS]
    users = asyncio.run(_users(folder))
    with contextlib.ExitStack() as stack:
        placers = [stack.enter_context(_worker("place", folder, user, out=tmp_path / user)) for user in users]
        rivals = [stack.enter_context(_worker("rotate", folder, last)) for _ in range(2)]
        killed = 0
        for patience in itertools.cycle((0.1, 2)):  # one that is killed at work, one that may come to its end
            if live_weeks(folder) == [str(last)]:
                break
            rival = rivals.pop(0)
            assert rival.stdout.readline() == b"ready\n"
            with contextlib.suppress(subprocess.TimeoutExpired):
                rival.wait(timeout=random.uniform(0, patience))
            rival.kill()
            killed += rival.wait() != 0
            rivals.append(stack.enter_context(_worker("rotate", folder, last)))
        for placer in placers:
            placer.stdin.close()
        assert [placer.wait(timeout=100) for placer in placers] == [0] * len(placers)
    assert states(folder) == {str(week): "sealed" if week < last else "live" for week in W[: ROTATIONS + 1]}
    asyncio.run(_check(folder, {user: (tmp_path / user).read_text().split() for user in users}))
    assert killed >= 1


async def _users(folder: Path) -> list[str]:
    async with platform(folder) as it:
        return [(await it.users.create(f"0x{number}", 10**9)).id for number in range(3)]


async def _check(folder: Path, acknowledged: dict[str, list[str]]) -> None:
    async with platform(folder, W[ROTATIONS]) as it:
        for user_id, ids in acknowledged.items():
            found = [bet.id for bet in (await it.manager.query_bets(user_id, *ALWAYS)).bets]
            assert len(found) == len(set(found))
            assert sorted(found) == sorted(ids)
            assert len(ids) > ROTATIONS
            assert (await it.users.get(user_id)).balance == 10**9 - len(ids)
        assert (await it.ledger.audit()).ok


@contextlib.contextmanager
def _worker(*arguments: object, out: Path | None = None):
    with contextlib.ExitStack() as stack:
        stdout = stack.enter_context(out.open("w")) if out else subprocess.PIPE
        process = subprocess.Popen([*WORKER, *map(str, arguments)], stdin=subprocess.PIPE, stdout=stdout)
        try:
            yield process
        finally:
            if process.stdin and not process.stdin.closed:
                process.stdin.close()
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
