"""What time it is, as something that can be handed in: tests and replays own their time."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from betcore_async.errors import ModelError

Clock = Callable[[], datetime]
"""Returns the current time as an aware UTC datetime."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def system_clock() -> datetime:
    """Return the time of the machine's clock, in UTC."""
    return datetime.now(UTC)


def to_microseconds(moment: datetime) -> int:
    """Return whole microseconds since the epoch; exact, unlike `timestamp()`, which is a float.

    Raises ValueError for a naive datetime: whose midnight would it be?
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone; pass an aware datetime, best in UTC")
    return (moment - EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Return the UTC datetime of a count of microseconds since the epoch.

    Raises ModelError for one outside the years 1 to 9999, such as another tool may have written into a file.
    """
    try:
        return EPOCH + microseconds * _MICROSECOND  # a third of the price of timedelta(microseconds=…), for each column
    except OverflowError:
        raise ModelError(f"{microseconds} microseconds are no time in the years 1 to 9999", field="time") from None


class ManualClock:
    """A clock that stands still until it is moved. Never goes backwards by itself."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by
