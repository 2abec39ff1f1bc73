"""What is open while weekly files are read, and how a week that was just sealed becomes a plain read-only file."""

import asyncio
import contextlib
import random

from betcore_async.errors import PoolClosedError
from betcore_async.partitions.counting import Counting
from betcore_async.partitions.live import LiveWeek
from betcore_async.partitions.rotation import finalize
from betcore_async.partitions.scanner import Scanners
from betcore_async.partitions.week import Week
from betcore_async.sqlite.connection import Link
from betcore_async.tasks import finish, stop

ATTEMPTS = 13
PAUSE = 0.1
"""Seconds at most before the second attempt to finalize a week, twice as long before each further one: the last comes
within seven minutes. What is left then is done when the process ends, or the next one starts."""


class Reading:
    def __init__(self, desk: Link, scanners: Scanners) -> None:
        self.desk = desk
        """A thread for work on the folder and on single files."""
        self.scanners = scanners
        self.retiring: dict[Week, tuple[LiveWeek, asyncio.Task[None]]] = {}
        """Weeks that were just sealed."""
        self.counting = Counting()

    def retire(self, left: LiveWeek) -> None:
        """Begin to close a week's pool, and to make a plain read-only file of it."""
        task = asyncio.create_task(self._retire(left))
        self.retiring[left.week] = left, task
        task.add_done_callback(lambda task: task.cancelled() or self.retiring.pop(left.week))

    async def _retire(self, left: LiveWeek) -> None:
        # It takes a moment in which nobody has the file open, here or in another process, and all go on to ask it.
        with self.scanners.passing(left.week):
            await finish(left.pool.close())  # not cut off: its last reads may still run
            for attempt in range(ATTEMPTS):
                if attempt:  # by chance, lest processes that all try it are in each other's way each time
                    await asyncio.sleep(PAUSE * 2 ** (attempt - 1) * random.random())  # noqa: S311
                with contextlib.suppress(PoolClosedError):  # in this moment, with all the others
                    await self.scanners.forget(left.week)
                if await self.desk.run(lambda _: finalize(left.path) or not left.path.exists()):
                    return

    async def calm(self, week: Week) -> None:
        """Let nothing of ours have a sealed week open, or work on it, so that it may be moved."""
        await self.scanners.forget(week)
        await self.stop_retiring(week)

    async def stop_retiring(self, *weeks: Week) -> None:
        """Close the pools of weeks that were just sealed, of all or of some, and leave their files as they are."""
        for left, task in [self.retiring[week] for week in weeks or self.retiring if week in self.retiring]:
            await stop(task)
            await left.pool.close()  # a task that is stopped before its first step does not get to it
            self.retiring.pop(left.week, None)
