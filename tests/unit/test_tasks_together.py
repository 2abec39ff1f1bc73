import asyncio

import pytest

from betcore_async.tasks import all_of, stop, task_group


async def test_results_come_in_the_order_of_the_works():
    async def after(turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    assert await all_of(after(turns) for turns in (3, 0, 2)) == [3, 0, 2]


async def test_when_one_fails_its_error_is_raised_and_no_other_runs_on():
    ended = asyncio.Event()

    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fail():
        await asyncio.sleep(0)
        raise KeyError("the reason")

    with pytest.raises(KeyError, match="the reason"):
        await all_of([wait(), fail()])
    assert ended.is_set()


async def test_an_error_of_the_block_comes_out_as_it_is():
    async def fail_beside_a_task():
        async with task_group() as group:
            group.create_task(asyncio.Event().wait())
            raise KeyError

    with pytest.raises(KeyError):
        await fail_beside_a_task()


async def test_a_cancelled_group_is_cancelled():
    task = asyncio.create_task(all_of([asyncio.Event().wait()]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_stopped_tasks_have_ended_also_when_who_stops_them_is_cancelled():
    ended, going = [], asyncio.Event()

    async def slow_to_end(name):
        try:
            await asyncio.Event().wait()
        finally:
            await going.wait()
            ended.append(name)

    tasks = [asyncio.create_task(slow_to_end(name)) for name in "ab"]
    await asyncio.sleep(0)
    stopping = asyncio.create_task(stop(tasks[0], None, tasks[1]))
    for _ in range(3):
        await asyncio.sleep(0)
        stopping.cancel()
    assert not stopping.done()
    going.set()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert ended == ["a", "b"]


async def test_to_stop_what_was_never_begun_does_nothing():
    await stop(None)
