"""Waiting without futures: what a task may rely on while others wake it, cancel it, or end the program."""

import asyncio
from contextvars import ContextVar

import pytest

from betcore_async.redis.waking import Waiter, Wakeups

place = ContextVar("place", default="nowhere")


async def waiting(waiter, seen):
    await waiter
    seen.append(place.get())


async def started(*waits):
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.sleep(0)
    return tasks


@pytest.fixture
async def loop():
    return asyncio.get_running_loop()


@pytest.fixture
async def wakeups(loop):
    return Wakeups(loop)


async def test_all_are_woken_in_order_in_one_step_of_the_loop_and_in_their_own_context(loop, wakeups):
    waiters, seen = [Waiter(loop) for _ in range(3)], []
    for number, waiter in enumerate(waiters):
        place.set(number)
        await started(waiting(waiter, seen))
    wakeups.add(waiters)
    assert seen == []
    await asyncio.sleep(0)
    assert seen == [0, 1, 2]


async def test_a_cancelled_wait_carries_its_message_and_a_wake_up_that_comes_too_late_does_nothing(loop, wakeups):
    waiter = Waiter(loop)
    (task,) = await started(waiting(waiter, []))
    task.cancel("enough")
    wakeups.add([waiter])
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task


async def test_a_cancellation_between_the_wake_up_and_its_turn_is_not_lost(loop, wakeups):
    waiter = Waiter(loop)
    (task,) = await started(waiting(waiter, []))
    wakeups.add([waiter])
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_one_waiter_serves_wait_after_wait(loop, wakeups):
    waiter, rounds = Waiter(loop), []

    async def again_and_again():
        for number in range(3):
            try:
                await waiter
            except asyncio.CancelledError:
                rounds.append("cancelled")
            else:
                rounds.append(number)

    (task,) = await started(again_and_again())
    wakeups.add([waiter])
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    wakeups.add([waiter])
    await task
    assert rounds == [0, "cancelled", 2]


async def test_nobody_waits_any_more_is_no_error(loop, wakeups):
    wakeups.add([Waiter(loop)])
    await asyncio.sleep(0)


def test_a_task_that_ends_the_program_does_not_keep_the_others_asleep():
    ended, tasks = [], []

    async def wait_to_the_end(waiter):
        try:
            await waiter
        finally:
            ended.append("other")

    async def stop(waiter):
        await waiter
        raise KeyboardInterrupt

    async def main():
        loop = asyncio.get_running_loop()
        first, second = Waiter(loop), Waiter(loop)
        tasks.extend([asyncio.create_task(stop(first)), asyncio.create_task(wait_to_the_end(second))])
        await asyncio.sleep(0)
        Wakeups(loop).add([first, second])
        await asyncio.wait(tasks)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert ended == ["other"]
    assert isinstance(tasks[0].exception(), KeyboardInterrupt)  # retrieved: nothing is logged of it later
