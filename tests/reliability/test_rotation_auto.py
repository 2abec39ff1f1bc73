"""Processes that rotate by themselves, at the same moment, one of them killed in the middle: one week goes on."""

import asyncio
import contextlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from reliability.killing import REACHES_SQLITE
from weekly_files import W, live_weeks, platform, states

WORKER = [sys.executable, Path(__file__).parent / "rotation_worker.py", "auto"]
NEVER = 10**9


@contextlib.asynccontextmanager
async def rotating(folder, kill_at=NEVER):
    """A process that waits to be told what time it is."""
    process = await asyncio.create_subprocess_exec(
        *WORKER, folder, str(kill_at), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def week_of(process):
    """The week that takes writes, as a process says before it goes to sleep again."""
    while b" " in (line := await process.stdout.readline()):
        pass  # what it logs
    return line.decode().strip()


def tell(process, week):
    process.stdin.write(f"{week}\n".encode())


@pytest.mark.timeout(180)
@pytest.mark.skipif(not REACHES_SQLITE, reason="the SQLite of this Python cannot be reached from outside")
async def test_of_processes_that_wake_up_together_one_rotates_though_another_is_killed_at_it(tmp_path):
    async with platform(tmp_path) as it:
        user = await it.users.create("0xabc", 1000)
        bet = await it.bets.place(user.id, "open", 10, 2.0)
    killed_at = itertools.cycle((10, 110, 160))
    async with contextlib.AsyncExitStack() as stack:
        some = [await stack.enter_async_context(rotating(tmp_path)) for _ in range(2)]
        assert [await week_of(process) for process in some] == [str(W[0])] * 2
        # The end of a week; downtime; clocks of a moment ago; another end.
        for before, week, now in ((0, 1, 1), (1, 9, 9), (9, 9, 4), (9, 10, 10)):
            async with rotating(tmp_path, next(killed_at)) as victim:
                assert await week_of(victim) == str(W[before])
                for process in (victim, *some):
                    tell(process, W[now])
                assert [await week_of(process) for process in some] == [str(W[week])] * 2
            assert live_weeks(tmp_path) == [str(W[week])]
    async with platform(tmp_path, W[10]) as it:
        assert states(tmp_path) == dict.fromkeys(map(str, (W[0], W[1], W[9])), "sealed") | {str(W[10]): "live"}
        assert (await it.bets.settle(bet.id, won=True)).payout_amount == 20
        assert (await it.ledger.audit()).ok


@pytest.mark.timeout(180)
@pytest.mark.skipif(not REACHES_SQLITE, reason="the SQLite of this Python cannot be reached from outside")
@pytest.mark.parametrize("killed_at", [20, 120])
async def test_what_a_process_that_was_killed_began_the_next_one_that_wakes_up_completes(tmp_path, killed_at):
    async with rotating(tmp_path) as it, rotating(tmp_path, killed_at) as victim:
        assert await week_of(it) == await week_of(victim) == str(W[0])
        tell(victim, W[1])
        assert await victim.wait() == -9
        tell(it, W[1])
        assert await week_of(it) == str(W[1])
        assert not list(tmp_path.glob("*.staging*"))
    assert states(tmp_path) == {str(W[0]): "sealed", str(W[1]): "live"}
