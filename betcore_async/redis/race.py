"""Asks several servers the same at once, and takes the first good answer."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from redis.exceptions import RedisError as ServerError

from betcore_async.tasks import finish

T = TypeVar("T")


class AllFailedError(Exception):
    """None succeeded; `failures` says why, each."""

    def __init__(self, failures: list[ServerError]) -> None:
        super().__init__(failures)
        self.failures = failures


async def first_to_succeed(
    attempts: Iterable[Coroutine[Any, Any, T | None]], discard: Callable[[T], None] = lambda _: None
) -> T:
    """Return the first result that is not None; the other attempts are cancelled, their results given to `discard`.

    Raises AllFailedError when each raised an error of redis-py, or returned None.
    """
    tasks = [asyncio.create_task(attempt, name="betcore-redis-ask") for attempt in attempts]
    try:
        winner = await _first_of(tasks)
        await finish(_give_up(tasks, winner, discard))
    except BaseException:
        await finish(_give_up(tasks, None, discard))
        raise
    return winner


async def _first_of(tasks: list[asyncio.Task[T | None]]) -> T:
    failures: list[ServerError] = []
    for task in asyncio.as_completed(tasks):
        try:
            result = await task
        except ServerError as error:
            failures.append(error)
        else:
            if result is not None:
                return result
    raise AllFailedError(failures)


async def _give_up(tasks: list[asyncio.Task[T | None]], kept: T | None, discard: Callable[[T], None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and task.exception() is None:
            result = task.result()
            if result is not None and result is not kept:
                discard(result)
