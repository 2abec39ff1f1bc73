"""Stopping the write function that runs on a connection, and no other."""

import asyncio
import threading
from collections.abc import Callable
from time import monotonic

from betcore_async.errors import DatabaseError, WriteTimeoutError
from betcore_async.sqlite.raw import RawConnection
from betcore_async.sqlite.stats import Counters
from betcore_async.sqlite.waiting import Job

AGAIN_AFTER = 0.01
"""Seconds. An interrupt that falls between two statements is lost, so it is repeated until the function ended."""


class Watch:
    """Stops a write function that runs for too long, or whose caller was cancelled; the next one never notices.

    The thread notes what it runs, the loop looks at that now and then: one timer for all, and nothing to pay for each
    function. Both sides write first and look afterwards, so that one of them always sees the other.
    """

    def __init__(self, limit: float, counters: Counters, at_work: Callable[[], bool]) -> None:
        self._limit = limit
        self._counters = counters
        self._at_work = at_work
        self._raw: RawConnection | None = None
        self._running: Job | None = None
        self._since = 0.0
        self._lock = threading.Lock()  # taken only to stop something
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None

    # On the thread

    def begin(self, raw: RawConnection, job: Job, now: float) -> None:
        """Say what runs from `now` (monotonic seconds) on; look at `job.cancelled` only after that."""
        self._raw, self._since = raw, now
        self._running = job

    def end(self) -> None:
        """Say that the function is over; raises why, if it was stopped."""
        self._running = None
        if self._stopping:
            with self._lock:  # an interrupt that is on its way must not hit what runs next
                pass
        raw = self._raw
        if raw is not None and raw.stopped is not None:
            stopped, raw.stopped = raw.stopped, None
            raise stopped

    # On the loop

    def arm(self) -> None:
        """See to it that whatever runs from now on is stopped in time."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._limit, self._look)

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stop_cancelled(self) -> None:
        """Stop what runs if its caller was cancelled; to be called after `job.cancelled` was set."""
        job = self._running
        if job is not None and job.cancelled:
            self.disarm()
            self._look()

    def _look(self) -> None:
        self._timer = None
        job, ran = self._running, monotonic() - self._since
        if job is None:
            again = self._limit
        elif job.cancelled:
            self._stop(job, DatabaseError("stopped: its caller was cancelled"))
            again = AGAIN_AFTER
        elif ran >= self._limit:
            self._stop(job, self._too_long(ran))
            again = AGAIN_AFTER
        else:
            again = self._limit - ran
        if self._at_work():
            self._timer = asyncio.get_running_loop().call_later(again, self._look)

    def _stop(self, job: Job, error: DatabaseError) -> None:
        with self._lock:
            self._stopping = True
            if self._running is job and self._raw is not None:
                if self._raw.stopped is None:
                    self._raw.stopped = error  # from here on each of its statements is refused
                    self._counters.interrupts += 1
                    self._counters.overruns += isinstance(error, WriteTimeoutError)
                self._raw.interrupt()
            self._stopping = False

    def _too_long(self, ran: float) -> WriteTimeoutError:
        return WriteTimeoutError(
            f"a write function was stopped after {ran:.3g} s and undone (DB_WRITE_TIMEOUT); while it runs nobody else "
            "can write: do less at a time, or take pool.transaction() for work that may be long",
            ran=ran,
            limit=self._limit,
        )
