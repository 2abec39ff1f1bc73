"""The one way to finish work that must not be cut off by a cancellation."""

import asyncio
from collections.abc import Coroutine
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
