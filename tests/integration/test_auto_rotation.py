"""The live week moves on by itself, whatever the clock does. Time passes only where the task sleeps."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlite_files import Gate
from structlog.testing import capture_logs
from weekly_files import WEEK, Platform, W, live_weeks, manager_for, platform, states

from betcore_async.clock import ManualClock
from betcore_async.config import PartitionSettings
from betcore_async.errors import BusyTimeoutError, PartitionError
from betcore_async.partitions import AutoRotation, PartitionManager, rotation
from betcore_async.partitions.auto_rotation import LONGEST_RETRY, LOOK_EVERY
from betcore_async.partitions.files import FOLDER, ROTATION, Family


class Sleeper:
    """Moves the clock instead of sleeping; `plan(number)` may set it otherwise, or stop all by returning None."""

    def __init__(self, clock: ManualClock, plan: Callable[[int], datetime | None] | None = None) -> None:
        self.clock = clock
        self.plan = plan
        self.slept: list[float] = []
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        moved = self.clock.now + timedelta(seconds=seconds)
        wanted = self.plan(len(self.slept)) if self.plan else moved
        if wanted is None:
            self.over.set()
            await asyncio.Event().wait()
        else:
            self.clock.now = wanted
        await asyncio.sleep(0)


@pytest.fixture
async def it(tmp_path):
    async with platform(tmp_path) as it:
        yield it


def steps(*moments: datetime) -> Callable[[int], datetime | None]:
    """Plan one moment for each time it sleeps, then the end."""
    return lambda number: moments[number - 1] if number <= len(moments) else None


async def run(it: Platform, *moments: datetime) -> tuple[Sleeper, list]:
    """Let it sleep once for each of these moments, to wake up at it; return the sleeper and what was logged."""
    sleeper = Sleeper(it.clock, steps(*moments))
    with capture_logs() as events:
        async with AutoRotation(it.manager, it.clock, sleep=sleeper):
            await asyncio.wait_for(sleeper.over.wait(), 20)
    return sleeper, events


async def test_it_rotates_within_a_second_of_the_weeks_end_and_goes_on_to_the_next(it):
    user = await it.users.create("0xabc", 100)
    bet = await it.bets.place(user.id, "open", 100, 2.0)
    it.clock.now = W[0].end - timedelta(seconds=70)
    sleeper = Sleeper(it.clock)
    sleeper.plan = lambda _: (
        None if it.manager.current_week == W[1] else it.clock.now + timedelta(seconds=sleeper.slept[-1])
    )
    with capture_logs() as events:
        async with AutoRotation(it.manager, it.clock, sleep=sleeper):
            await asyncio.wait_for(sleeper.over.wait(), 20)
    assert W[1].start <= it.clock.now <= W[1].start + timedelta(seconds=1)
    assert sleeper.slept[:2] == [LOOK_EVERY, LOOK_EVERY]
    assert max(sleeper.slept) == LOOK_EVERY
    (event,) = events
    assert (event["event"], event["week"], event["previous"]) == ("rotated", str(W[1]), str(W[0]))
    assert (event["users"], event["open_bets"], event["log_level"]) == (1, 1, "info")
    assert (await it.bets.settle(bet.id, won=True)).payout_amount == 200


async def test_after_weeks_of_downtime_it_goes_straight_to_the_current_week(it):
    sleeper, events = await run(it, W[7].start + timedelta(days=3))
    assert states(it.folder) == {str(W[0]): "sealed", str(W[7]): "live"}
    assert [event["event"] for event in events] == ["rotated"]
    assert len(sleeper.slept) == 2


async def test_a_week_that_was_over_at_the_start_is_left_within_a_second(it):
    it.clock.now = W[2].start + timedelta(days=1)
    sleeper = Sleeper(it.clock, lambda number: it.clock.now if number == 1 else None)
    async with AutoRotation(it.manager, it.clock, sleep=sleeper):
        await asyncio.wait_for(sleeper.over.wait(), 20)
    assert sleeper.slept[0] <= 1
    assert it.manager.current_week == W[2]


async def test_a_clock_that_steps_back_rotates_nothing_until_the_week_is_over(it):
    await it.next_week(2)
    back = [W[0].start, W[1].start + timedelta(days=2), W[2].start, W[2].end - timedelta(microseconds=1)]
    sleeper, events = await run(it, *back)
    assert it.manager.current_week == W[2]
    assert events == []
    assert max(sleeper.slept) <= LOOK_EVERY
    await run(it, W[2].end)
    assert it.manager.current_week == W[3]


async def test_a_clock_far_ahead_is_refused_and_told_ever_more_rarely_until_it_is_right(tmp_path):
    clock = ManualClock(W[0].start)
    limit = PartitionSettings(max_clock_ahead=timedelta(weeks=5))
    async with PartitionManager(manager_for(tmp_path, clock)._database, limit, clock=clock) as manager:
        it = Platform(manager, clock, tmp_path)
        sleeper, events = await run(it, *[W[20].start] * 12, W[0].end - timedelta(hours=1), W[0].end)
        assert [event["log_level"] for event in events] == ["error"] * 12 + ["info"]
        assert all("far ahead of the live week" in event["error"] for event in events[:12])
        assert manager.current_week == W[1]
        assert states(tmp_path) == {str(W[0]): "sealed", str(W[1]): "live"}
    assert sleeper.slept[1] < 10
    assert all(LONGEST_RETRY / 2 <= slept <= LONGEST_RETRY for slept in sleeper.slept[9:13])
    assert sleeper.slept[13] == LOOK_EVERY  # forgotten as soon as the clock is right again


async def test_of_several_processes_one_rotates_and_the_others_follow(tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        rivals = [await stack.enter_async_context(platform(tmp_path)) for _ in range(3)]
        for week in W[1:4]:
            ran = await asyncio.gather(*(run(rival, week.start) for rival in rivals))
            assert [event["event"] for _, events in ran for event in events].count("rotated") >= 1
            assert {rival.manager.current_week for rival in rivals} == {week}
            assert live_weeks(tmp_path) == [str(week)]
    assert states(tmp_path) == {str(week): "live" if week == W[3] else "sealed" for week in W[:4]}


@pytest.mark.parametrize("lock", [FOLDER, ROTATION])
async def test_a_family_that_is_held_for_long_is_waited_for(tmp_path, lock):
    async with platform(tmp_path, busy_timeout=timedelta(milliseconds=20)) as it:
        async with Family(tmp_path / "bets.db").alone(timedelta(), lock):
            _, events = await run(it, W[1].start)
        assert [(event["log_level"], event["event"]) for event in events] == [
            ("warning", "rotation waits for another process")
        ]
        await run(it, W[1].start)
        assert it.manager.current_week == W[1]


@pytest.mark.parametrize("error", [BusyTimeoutError("x", waited=1, attempts=1), OSError("x"), ValueError("x")])
async def test_whatever_fails_is_logged_and_tried_again(it, error, monkeypatch):
    original, calls = PartitionManager.rotate_to_new_week, []

    async def fails_once(self: PartitionManager) -> object:
        calls.append(self)
        if len(calls) == 1:
            raise error
        return await original(self)

    monkeypatch.setattr(PartitionManager, "rotate_to_new_week", fails_once)
    _, events = await run(it, W[1].start, W[1].start)
    assert [event["log_level"] in {"warning", "error"} for event in events] == [True, False]
    assert it.manager.current_week == W[1]


async def test_closing_it_in_the_middle_of_a_rotation_leaves_one_live_week_and_nothing_running(it, monkeypatch):
    gate, publish = Gate(), rotation.publish

    def slowly(*paths: object) -> None:
        gate.pass_through()
        publish(*paths)

    monkeypatch.setattr(rotation, "publish", slowly)
    auto = AutoRotation(it.manager, it.clock, sleep=Sleeper(it.clock, steps(W[1].start)))
    await auto.open()
    await gate.reached()
    closing = [asyncio.create_task(auto.close()), asyncio.create_task(auto.close())]
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(*closing)
    assert len(live_weeks(it.folder)) == 1
    await it.users.create("0xabc", 1)
    monkeypatch.undo()
    it.clock.now = W[1].start
    await it.manager.rotate_to_new_week()
    assert it.manager.current_week == W[1]
    assert (await it.ledger.audit()).ok


async def test_a_close_that_is_cancelled_stops_it_all_the_same(it):
    auto = AutoRotation(it.manager, it.clock)
    await auto.open()
    closing = asyncio.create_task(auto.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "betcore auto rotation"]


async def test_it_ends_by_itself_when_the_partitions_are_closed_under_it(tmp_path):
    clock = ManualClock(W[0].start)
    manager = manager_for(tmp_path, clock)
    await manager.open()
    async with AutoRotation(manager, clock, sleep=Sleeper(clock, lambda _: clock.now)) as auto:
        await manager.close()
        await asyncio.wait_for(asyncio.shield(auto._task), 30)


async def test_it_runs_once_at_a_time_and_may_be_opened_again(it):
    auto = AutoRotation(it.manager, it.clock)
    async with auto:
        with pytest.raises(PartitionError, match="running already"):
            await auto.open()
    async with auto:
        pass
    await auto.close()
    it.clock.advance(WEEK)
