"""Cancels a coroutine at its n-th suspension, for every n there is."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

import pytest

from betcore_async.partitions import archive_steps

MOST_SUSPENSIONS = 300
"""More than anything here has; reaching it means that a cancelled coroutine goes on for ever."""


class Injector:
    """Awaits `work` and cancels the task it runs in at suspension number `at` (from 0); `twice`: at the next one, too.

    The cancel is asked for while the coroutine is suspended there, as it comes from another task.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], at: int, *, twice: bool = False, late: bool = False) -> None:
        self._work = work
        self._at = at
        self._twice = twice
        self._late = late
        self.suspensions = 0

    @property
    def struck(self) -> bool:
        return self.suspensions > self._at

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        send, value = steps.send, None
        while True:
            try:
                waits_for = send(value)
            except StopIteration as stop:
                return stop.value
            if self.suspensions == self._at or (self._twice and self.suspensions == self._at + 1):
                if self._late and waits_for is not None:
                    # In the very turn of the loop in which what it waits for is there, before it has been told.
                    waits_for.add_done_callback(lambda _: task.cancel())
                else:
                    loop.call_soon(task.cancel)
            self.suspensions += 1
            try:
                value = yield waits_for
                send = steps.send
            except BaseException as error:  # noqa: BLE001 - handed on, as `yield from` does
                value, send = error, steps.throw


async def cancelled_everywhere(make: Any, *, twice: bool = False, late: bool = False) -> AsyncIterator[bool]:
    """Run `make()` again and again, cancelled one suspension later each time, until it ends before that.

    Yields after each run whether it ended by the cancellation, for the checks.
    """
    for at in range(MOST_SUSPENSIONS):
        injector = Injector(make(), at, twice=twice, late=late)

        async def run(injector: Injector = injector) -> Any:
            return await injector

        task = asyncio.create_task(run())
        done, _ = await asyncio.wait([task], timeout=30)
        assert done, f"hangs after a cancel at suspension {at}"
        if task.cancelled():
            yield True
        else:
            task.result()
            yield False
        if not injector.struck:
            return
    raise AssertionError(f"still suspended after {MOST_SUSPENSIONS} times")


MODES = {"once": {}, "twice": {"twice": True}, "late": {"late": True}}


def suspensions(mode: str, one_in: Callable[[int], int]) -> range:
    """Return the suspensions to strike at: all of them once; in the other modes every third one, others each time."""
    step = 1 if mode == "once" else one_in(3)
    return range(random.randrange(step), MOST_SUSPENSIONS, step)


async def cancelled_at(number: int, work: Coroutine[Any, Any, Any], mode: str) -> bool:
    """Run `work`, cancelled at suspension `number`; False once it has no such suspension."""
    injector = Injector(work, number, **MODES[mode])

    async def run() -> None:
        await injector

    task = asyncio.create_task(run())
    done, _ = await asyncio.wait([task], timeout=30)
    assert done, f"hangs after a cancel at suspension {number}"
    if not task.cancelled():
        task.result()
    return injector.struck


async def cancel_at_piece(number: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Run `work`, which moves a week, cancelled at that piece of a file (from 0); False once it has no such piece.

    The thread that moves it waits at the piece until it could know.
    """
    loop, pieces, stage = asyncio.get_running_loop(), itertools.count(), archive_steps.Work.stage

    def watched_stage(self: archive_steps.Work, name: str, total: int) -> Callable[[int], None]:
        go_on = stage(self, name, total)

        def watched(size: int) -> None:
            if next(pieces) == number:
                loop.call_soon_threadsafe(task.cancel)
                assert self.stop.wait(15), "nobody told the thread to stop"
            go_on(size)

        return watched

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_steps.Work, "stage", watched_stage)
        task = asyncio.ensure_future(work)
        await asyncio.wait([task])
    if task.cancelled():
        return True
    task.result()
    assert next(pieces) <= number, "it went on although it was cancelled"
    return False
