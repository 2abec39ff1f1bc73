"""Finishing what must not be cut off by a cancellation, stopping tasks and threads, tasks that end together."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:
    """Run `work` to its end however often the caller is cancelled, then let the cancellation through.

    Returns what `work` returns. When the caller was cancelled meanwhile, CancelledError is raised after `work` ended,
    with an exception of `work` as its cause. `asyncio.shield` alone is not enough: a second cancel would leave the
    work behind.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:
            if not task.done():  # not the work's own error, which is read below: this coroutine is being closed
                raise
    if cancelled is None:
        return task.result()
    try:
        task.result()
    except BaseException as error:
        raise cancelled from error
    raise cancelled


async def stop(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks, where they were ever begun, and wait for their end however often this is cancelled itself."""
    begun = [task for task in tasks if task is not None]
    for task in begun:
        task.cancel()
    if begun:
        await finish(asyncio.wait(begun))


async def in_thread(work: Callable[[threading.Event], T]) -> T:
    """Return `work(stop)`, run on a thread of its own.

    When the caller is cancelled, `stop` is set, and CancelledError is raised once the work has ended: it should look at
    `stop` now and then, and clean up after itself.
    """
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        try:
            await finish(asyncio.wait([running]))
        finally:  # also when cancelled once more meanwhile
            if not running.cancelled():
                running.exception()  # retrieved, so that asyncio does not report it as forgotten
        raise


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Yield a TaskGroup that raises the first error as it is: one line tells a person more than a tree of errors."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from error.__cause__


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of all works, run concurrently; when one fails, the others are cancelled and waited for.

    `asyncio.gather` would leave them running, on resources that are about to be closed.
    """
    async with task_group() as group:
        tasks = [group.create_task(work) for work in works]
    return [task.result() for task in tasks]
