"""Waiting for a lock in asyncio.

SQLite's own busy handler blocks the thread, cannot be cancelled (an interrupt does not break it) and starves
processes, so every connection has it off and waits here: exponential backoff with full jitter, cancellable at once.
"""

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import monotonic
from typing import TypeVar

from betcore_async.errors import BusyTimeoutError

T = TypeVar("T")

FIRST_DELAY = 0.001
"""Seconds; about the length of a short transaction of somebody else."""
LONGEST_DELAY = 0.05
"""Seconds; longer pauses lose the lock to luckier processes without saving much."""

_PRIMARY = 0xFF  # an extended result code carries its primary code in the low byte


def error_code(error: BaseException) -> int:
    """Return SQLite's extended result code; 0 for errors that the sqlite3 module raised by itself."""
    return getattr(error, "sqlite_errorcode", 0) or 0


def is_busy(error: BaseException) -> bool:
    """Tell whether another connection was in the way.

    That is BUSY, BUSY_RECOVERY, BUSY_SNAPSHOT, BUSY_TIMEOUT and LOCKED_SHAREDCACHE. Plain LOCKED is not among them: it
    is a conflict within one connection, and waiting does not help.
    """
    code = error_code(error)
    return code & _PRIMARY == sqlite3.SQLITE_BUSY or code == sqlite3.SQLITE_LOCKED_SHAREDCACHE


def backoff(attempt: int) -> float:
    """Return how many seconds to wait after failed attempt number `attempt` (from 1).

    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    ceiling = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt - 1, 16))
    return random.uniform(0, ceiling)  # noqa: S311 - spreads load, guards nothing


def busy_timeout(what: str, waited: float, attempts: int) -> BusyTimeoutError:
    return BusyTimeoutError(
        f"{what}: another connection held the lock for {waited:.3g} s ({attempts} attempts); "
        "look for a long write transaction, or raise DB_BUSY_TIMEOUT",
        waited=waited,
        attempts=attempts,
    )


async def retry_busy(attempt: Callable[[], Awaitable[T]], budget: timedelta, what: str = "database is busy") -> T:
    """Await `attempt()` until it is not refused with BUSY; raises BusyTimeoutError once `budget` is spent."""
    started, attempts = monotonic(), 0
    while True:
        attempts += 1
        try:
            return await attempt()
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            waited = monotonic() - started
            if waited >= budget.total_seconds():
                raise busy_timeout(what, waited, attempts) from error
        await asyncio.sleep(min(backoff(attempts), budget.total_seconds() - waited))


async def retry_false(attempt: Callable[[], Awaitable[bool]], budget: timedelta) -> bool:
    """Await `attempt()` until it is true, as `retry_busy` does; False once `budget` is spent."""
    started, attempts = monotonic(), 1
    while not await attempt():
        left = budget.total_seconds() - (monotonic() - started)
        if left <= 0:
            return False
        await asyncio.sleep(min(backoff(attempts), left))
        attempts += 1
    return True
