"""UUIDv7 ids (RFC 9562, section 5.7): sortable by time of birth, so that an id hints at its week.

The standard library has `uuid7` from 3.14 on, but bound to the system clock; ours takes any clock.
"""

import os
import re
import threading
from array import array
from datetime import datetime
from uuid import UUID

from betcore_async.clock import Clock, from_microseconds, system_clock, to_microseconds
from betcore_async.errors import ModelError, shown

_CANONICAL_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_LOW_BITS = 48
"""The last twelve digits of an id, which count; they are enough for 65,536 random steps of 32 bits."""

_PAGE = 4096  # bytes

_LONGEST_STEP_BACK = 24 * 3600 * 1000
"""Milliseconds by which a clock may step back without ids going back with it."""


class IdGenerator:
    """Makes ids that grow strictly, also within a millisecond and when the clock steps back. Threads may share it.

    A clock that goes back by more than a day was wrong before: ids go back with it, lest all of them lie in the future.
    """

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._millisecond = -1
        self._high = 0  # the 26 counting bits above the low ones
        self._low = 0
        self._prefix = ""
        self._words = array("I")
        self._process = 0
        self._lock = threading.Lock()

    def __call__(self) -> str:
        return self.at(to_microseconds(self._clock()))

    def at(self, moment: int) -> str:
        """Return an id that is born at `moment` (microseconds since the epoch), for who has looked at the clock."""
        with self._lock:
            return self._next(moment // 1000)

    def many(self, count: int, moment: int) -> list[str]:
        """Return `count` ids of one moment, each for a third of what a call of its own costs."""
        millisecond = moment // 1000
        with self._lock:
            return [self._next(millisecond) for _ in range(count)]

    def _next(self, millisecond: int) -> str:
        if millisecond > self._millisecond or millisecond < self._millisecond - _LONGEST_STEP_BACK:
            self._millisecond = millisecond
            self._turn_to(self._word() >> 7)  # leaves the top bit free, so that counting up cannot overflow
        else:
            # A random step keeps the next id hard to guess (RFC 9562, section 6.2, method 2).
            self._low += 1 + self._word()
            if self._low >> _LOW_BITS:
                self._turn_to(self._high + 1)
        return f"{self._prefix}{self._low:012x}"

    def _turn_to(self, high: int) -> None:
        """Set the upper digits, which hardly ever change within a millisecond: formatting them is most of the work."""
        self._high = high
        self._low = self._word() << 15 | self._word() >> 17  # the top bit is free here, too
        self._prefix = _format(self._millisecond, high << _LOW_BITS)[:-12]

    def _word(self) -> int:
        """Return 32 random bits, asked of the system by the page.

        Each question to the system lets go of the interpreter's lock: where another thread is waiting for that, as the
        writer's does under load, an id would cost thirty times as much.
        """
        if not self._words or self._process != os.getpid():  # a forked child must not repeat its parent's ids
            self._words, self._process = array("I", os.urandom(_PAGE)), os.getpid()
        return self._words.pop()


def _format(millisecond: int, counter: int) -> str:
    high, low = counter >> 62, counter & ((1 << 62) - 1)
    value = (millisecond << 80) | (0x7 << 76) | (high << 64) | (0b10 << 62) | low
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


SQL_UUID7 = """
lower(printf(
    '%08x-%04x-7%03x-%04x-%012x',
    :ms >> 16, :ms & 65535, random() & 4095, 32768 | (random() & 16383), random() & 281474976710655
))
""".strip()
"""An SQL expression for a fresh id that is born at `:ms` (milliseconds since the epoch), for many rows at once: calling
back to Python for each of them would want the interpreter lock, which a busy event loop does not give up."""


def parse_id(value: str, field: str = "id") -> str:
    """Return `value` if it is a canonical UUIDv7, else raise ModelError naming `field`."""
    if not isinstance(value, str) or not _CANONICAL_UUID7.fullmatch(value):
        raise ModelError(
            f"{field} must be a UUIDv7 in lower case such as {_EXAMPLE!r}; got {shown(value)}",
            field=field,
        )
    return value


def born_at(identifier: str) -> datetime:
    """Return the moment (to the millisecond) that a UUIDv7 carries. Raises ModelError for one after the year 9999."""
    try:
        return from_microseconds((UUID(identifier).int >> 80) * 1000)
    except OverflowError:
        raise ModelError(f"the id {identifier} lies in the future, after the year 9999", field="id") from None


def first_id(moment: datetime) -> str:
    """Return the least UUIDv7 that can be born at `moment`, for comparisons: ids sort by their time."""
    return _format(to_microseconds(moment) // 1000, 0)


_EXAMPLE = "0199c4f2-7d1c-7a30-8c5e-3b1f0a9d2e47"
