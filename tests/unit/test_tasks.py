"""finish(): the work ends however often its caller is cancelled, and the cancellation is honoured afterwards."""

import asyncio
import gc
import threading

import pytest

from betcore_async.tasks import finish, in_thread


class Work:
    """Something that takes until it is told to end, and remembers whether it got to its end."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.started, self.go, self.ended, self._error = asyncio.Event(), asyncio.Event(), False, error

    async def __call__(self) -> str:
        self.started.set()
        await self.go.wait()
        self.ended = True
        if self._error is not None:
            raise self._error
        return "done"


async def test_the_result_is_returned():
    work = Work()
    work.go.set()
    assert await finish(work()) == "done"


async def test_the_error_is_raised():
    work = Work(ValueError("no"))
    work.go.set()
    with pytest.raises(ValueError, match="no"):
        await finish(work())


async def test_a_future_is_waited_for():
    future = asyncio.get_running_loop().create_future()
    future.set_result(5)
    assert await finish(future) == 5


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_work_ends_under_repeated_cancellation_and_then_the_caller_is_cancelled(times):
    work = Work()
    caller = asyncio.create_task(finish(work()))
    await work.started.wait()
    for _ in range(times):
        caller.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not caller.done()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert caller.cancelled()
    assert work.ended


async def test_a_caller_that_was_cancelled_before_it_began_still_does_the_work():
    work = Work()
    work.go.set()

    async def call() -> None:
        asyncio.current_task().cancel()
        await finish(work())

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(call())
    assert work.ended


async def test_the_error_of_the_work_is_the_cause_of_the_cancellation():
    error = ValueError("no")
    work = Work(error)
    caller = asyncio.create_task(finish(work()))
    await work.started.wait()
    caller.cancel()
    await asyncio.sleep(0)
    work.go.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await caller
    assert caught.value.__cause__ is error


async def test_work_that_is_cancelled_itself_cancels_its_caller():
    future = asyncio.get_running_loop().create_future()
    caller = asyncio.create_task(finish(future))
    await asyncio.sleep(0)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_timeout_around_it_is_told_after_the_work_ended():
    work = Work()
    asyncio.get_running_loop().call_later(0.05, work.go.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await finish(work())
    assert work.ended


async def test_a_task_group_whose_member_fails_waits_for_the_work():
    work = Work()

    async def fail() -> None:
        await work.started.wait()
        asyncio.get_running_loop().call_soon(work.go.set)
        raise ValueError("no")

    async def run_both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(finish(work()))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await run_both()
    assert work.ended


async def test_a_coroutine_that_is_thrown_away_can_be_closed():
    work = Work()
    caller = finish(work())
    caller.send(None)
    caller.close()
    work.go.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert work.ended


@pytest.mark.parametrize("cancels", [1, 2])
async def test_a_thread_that_is_stopped_is_waited_for_and_its_error_is_not_reported_as_forgotten(cancels):
    begun, told, reported = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))

    def work(stop):
        loop.call_soon_threadsafe(begun.set)
        assert stop.wait(10)
        assert told.wait(10)
        raise InterruptedError("stopped half-way")

    task = asyncio.create_task(in_thread(work))
    await begun.wait()
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done()
    told.set()
    await asyncio.wait([task])
    assert task.cancelled()
    del task
    gc.collect()
    assert reported == []
