"""Counting sealed weeks in the background, which lets later questions spare those that have nothing for them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection

from betcore_async.errors import PoolClosedError
from betcore_async.logs import get_logger
from betcore_async.partitions.week import Week
from betcore_async.tasks import stop

_log = get_logger("partitions")


class Counting:
    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._failed: set[Week] = set()
        self._stopped = False

    def begin(
        self, weeks: Collection[Week], count: Callable[[Week], Awaitable[None]], save: Callable[[], Awaitable[None]]
    ) -> None:
        """Begin to count weeks, newest first, and to save what came of it; not while that goes on already."""
        left = sorted({*weeks} - self._failed, reverse=True)
        if left and not self._stopped and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(left, count, save))

    async def _run(
        self, weeks: list[Week], count: Callable[[Week], Awaitable[None]], save: Callable[[], Awaitable[None]]
    ) -> None:
        for week in weeks:
            try:
                await count(week)
            except PoolClosedError:
                return
            except Exception:  # noqa: BLE001 - whatever it is, who asks for that week is told
                self._failed.add(week)  # else each question would try it again
                _log.exception("week cannot be counted", week=str(week))
        with contextlib.suppress(PoolClosedError):
            await save()

    async def stop(self) -> None:
        self._stopped = True
        await stop(self._task)
