"""The replay: writes the feed to the price cache in its own order, moves the clock, begins new weeks."""

import asyncio
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from betcore_async.app import Betcore
from betcore_async.clock import EPOCH, ManualClock
from betcore_async.demo.cells import WINDOWS_AHEAD
from betcore_async.demo.pace import Pace
from betcore_async.demo.tally import Tally
from betcore_async.demo.trace import Trace
from betcore_async.models import PricePoint
from betcore_async.partitions import Week

Step = list[PricePoint]


def steps(ticks: Iterable[PricePoint], length: timedelta) -> Iterator[Step]:
    """Yield the ticks of one window at a time; a window that a Monday cuts makes two steps."""
    for _, step in itertools.groupby(ticks, key=lambda tick: ((tick.at - EPOCH) // length, Week.of(tick.at))):
        yield list(step)


class Replay:
    """Drives a run: one step after another, as fast as those who follow it allow."""

    def __init__(self, betcore: Betcore, clock: ManualClock, pace: Pace, tally: Tally, trace: Trace) -> None:
        self._betcore = betcore
        self._clock = clock
        self._pace = pace
        self._tally = tally
        self._trace = trace
        self._week = betcore.partitions.current_week
        self._rotation: asyncio.Task[None] | None = None

    async def run(
        self, ticks: Iterable[PricePoint], length: timedelta, group: asyncio.TaskGroup, stop: asyncio.Event
    ) -> None:
        """Replay the feed to its end or until `stop` is set; returns when everybody is done with what was replayed.

        Rotations run as tasks of `group`.
        """
        await self._pace.wait_for(EPOCH)  # until everybody has subscribed
        # A player bets on windows at least WINDOWS_AHEAD after that of the tick at hand. As the feed never comes that
        # far ahead of a player, every bet is committed before its window begins.
        ahead: deque[datetime] = deque()
        for step in steps(ticks, length):
            if stop.is_set():
                break
            if len(ahead) == WINDOWS_AHEAD:
                await self._pace.wait_for(ahead.popleft())
            ahead.append(step[-1].at)
            await self._write(step, group)
        while ahead:
            await self._pace.wait_for(ahead.popleft())
        if self._rotation is not None:
            await self._rotation

    async def _write(self, step: Step, group: asyncio.TaskGroup) -> None:
        # Never backwards: a run that was picked up repeats ticks from before the last commit.
        self._clock.now = max(self._clock.now, step[-1].at)
        await self._begin_week(Week.of(step[0].at), group)
        with self._tally.price_write.measure():
            await self._betcore.prices.set_prices(step)
        self._tally.ticks += len(step)
        self._tally.first = self._tally.first or step[0].at
        self._tally.last = step[-1].at
        self._tally.week = self._week.name
        for tick in step:
            self._trace.tick(tick)

    async def _begin_week(self, week: Week, group: asyncio.TaskGroup) -> None:
        if week <= self._week:
            return
        if self._rotation is not None:
            await self._rotation
        self._week = week
        self._trace.rotated(week.start)
        # Not awaited: the feed runs on and players bet on while the week changes under them.
        self._rotation = group.create_task(self._rotate(), name="demo rotation")

    async def _rotate(self) -> None:
        report = await self._betcore.partitions.rotate_to_new_week()
        self._tally.rotations += report.performed
