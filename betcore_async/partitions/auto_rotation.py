"""Moving on to a new week without being asked: a task that wakes up at the week's end.

Every process may run one. Rivals are safe, so nobody is elected: whoever comes first rotates, the others find it done.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from betcore_async.clock import Clock, system_clock
from betcore_async.errors import BetcoreError, BusyTimeoutError, PartitionError, PoolClosedError
from betcore_async.logs import get_logger
from betcore_async.partitions.manager import PartitionManager
from betcore_async.partitions.week import Week
from betcore_async.tasks import stop

LOOK_EVERY = 30.0
"""Most seconds between looks at the clock: it may be set, and a machine may sleep, while a timer does not notice."""

SPREAD = 1.0
"""Seconds over which processes that wake up for the same week spread their attempts."""

FIRST_RETRY = 5.0
"""Seconds until the attempt after one that failed; twice as long after each further one."""

LONGEST_RETRY = 600.0
"""Most seconds between attempts. A clock that is wrong stays so until somebody comes; a full disk, too."""

_log = get_logger("partitions")


def pause(now: datetime, live: Week, failures: int, chance: float) -> float:
    """Return how many seconds to sleep before the next look, after so many attempts that failed. Pure.

    `chance` lies in [0, 1), and is what sets several processes apart.
    """
    if failures:
        return min(FIRST_RETRY * 2.0 ** min(failures - 1, 16), LONGEST_RETRY) * (1 + chance) / 2
    left = max((live.end - now).total_seconds(), 0.0)
    return min(left + chance * SPREAD, LOOK_EVERY)


class AutoRotation:
    """Rotates an open PartitionManager whenever its week is over.

        async with PartitionManager(database) as partitions, AutoRotation(partitions):
            ...

    Betcore does this by itself (`PARTITIONS_AUTO_ROTATE`). What fails is logged and tried again, ever more rarely.
    After a clock stepped back, the end of the week is waited for once more; one implausibly far ahead is refused.
    """

    def __init__(
        self,
        partitions: PartitionManager,
        clock: Clock = system_clock,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Remember whom to rotate; `sleep(seconds)` waits, in tests by moving the clock."""
        self._partitions = partitions
        self._clock = clock
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start the task. Raises PartitionError where it runs already."""
        if self._task is not None:
            raise PartitionError("this automatic rotation is running already")
        self._task = asyncio.create_task(self._run(), name="betcore auto rotation")

    async def close(self) -> None:
        """Stop the task; a rotation that is going on is undone, or done where it was past undoing."""
        task, self._task = self._task, None
        await stop(task)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                live = self._partitions.current_week
            except PoolClosedError:  # closed before this was: there is nothing left to rotate
                return
            await self._sleep(pause(self._clock(), live, failures, random.random()))  # noqa: S311 - spreads load
            failures = 0 if await self._look(live) else failures + 1

    async def _look(self, live: Week) -> bool:
        """Rotate if the week is over; False where that failed."""
        if self._clock() < live.end:
            return True
        try:
            report = await self._partitions.rotate_to_new_week()
        except BusyTimeoutError as error:
            _log.warning("rotation waits for another process", week=str(live), error=str(error))
        except BetcoreError as error:
            _log.error("rotation refused or failed", week=str(live), error=str(error))
        except Exception:  # noqa: BLE001 - whatever it is, the week has to move on some day
            _log.exception("rotation failed", week=str(live))
        else:
            if report.performed:
                _log.info(
                    "rotated",
                    week=str(report.week),
                    previous=str(report.previous),
                    users=report.users,
                    open_bets=report.open_bets,
                    seconds=round(report.seconds, 3),
                    blocked_seconds=round(report.blocked_seconds, 3),
                )
            return True
        return False
