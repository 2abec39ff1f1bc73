"""Wakes thousands of waiting tasks in one step of the event loop, which is what a fan-out spends its time on.

An `asyncio.Future` costs the loop an entry of its own for each task it wakes: made, queued, run and dropped, which
takes as long as all the rest of a delivery. Here one entry wakes them all, one after another.
"""

import asyncio
from collections.abc import Callable, Generator, Iterable
from contextvars import Context, copy_context
from typing import Any


class Waiter:
    """What one task awaits, time and again: to asyncio a future, because it has all that a Task asks of one.

    A wait may end for no reason; look again whether what you wait for is there.
    """

    __slots__ = ("_asyncio_future_blocking", "_is_cancelled", "_loop", "_message", "callback", "context")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.callback: Callable[[Any], object] | None = None
        """Lets the task go on, in `context`. Not to be called from within a task: two cannot run at a time."""
        self.context: Context
        self._is_cancelled = False
        self._message: Any = None
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator[Any, None, None]:
        self._is_cancelled = False
        self._asyncio_future_blocking = True
        yield self

    # What follows is for asyncio.Task.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        self.callback = callback
        self.context = copy_context() if context is None else context

    def cancel(self, msg: Any = None) -> bool:
        callback, self.callback = self.callback, None
        if callback is None:
            return False
        self._is_cancelled, self._message = True, msg
        self._loop.call_soon(callback, self, context=self.context)
        return True

    def result(self) -> None:
        if self._is_cancelled:
            raise asyncio.CancelledError(*(() if self._message is None else (self._message,)))


class Wakeups:
    """Those who are to be woken in the loop's next step."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._due: list[Waiter] = []

    def add(self, waiters: Iterable[Waiter]) -> None:
        """Wake `waiters` soon, in order."""
        if not self._due:
            self.loop.call_soon(self._run)
        self._due += waiters

    def _run(self) -> None:
        due, self._due = self._due, []
        rest = iter(due)
        try:
            for waiter in rest:
                # Read and cleared with no call in between, where a signal could have a task cancelled.
                callback, waiter.callback = waiter.callback, None
                if callback is not None:  # else it goes on already, cancelled
                    waiter.context.run(callback, waiter)
        finally:
            if left := list(rest):  # one of the tasks wants the whole program to end
                self.add(left)
