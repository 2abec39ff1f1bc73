"""ISO weeks in UTC: pure arithmetic.

A week runs from Monday 00:00 UTC to the next Monday, half-open. Its name is that of ISO 8601: the days around New Year
belong to the week that holds their Thursday, and some years have 53 weeks (2020, 2026, 2032 …).
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from betcore_async.clock import from_microseconds, to_microseconds
from betcore_async.errors import ModelError, shown

_NAME = re.compile(r"([0-9]{4})-W([0-9]{2})", re.ASCII)
_LENGTH = timedelta(days=7)
_FIRST = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, order=True, slots=True)
class Week:
    """An ISO week, made from its name: `Week("2026-W47")`. Weeks compare by time."""

    name: str
    start: datetime = field(init=False, compare=False, repr=False)
    """Its first moment, Monday 00:00 UTC."""
    starts_at: int = field(init=False, compare=False, repr=False)
    """The same in microseconds since the epoch; kept, because every write is clamped into its week."""
    ends_at: int = field(init=False, compare=False, repr=False)
    """The first moment after it, in microseconds since the epoch."""

    def __post_init__(self) -> None:
        match = _NAME.fullmatch(self.name) if isinstance(self.name, str) else None
        try:
            year, number = (int(part) for part in match.groups()) if match else (0, 0)
            monday = datetime.fromisocalendar(year, number, 1).replace(tzinfo=UTC)
            end = monday + _LENGTH
        except (ValueError, OverflowError):
            raise ModelError(f"{shown(self.name)} is not an ISO week such as '2026-W47'", field="week") from None
        object.__setattr__(self, "start", monday)
        object.__setattr__(self, "starts_at", to_microseconds(monday))
        object.__setattr__(self, "ends_at", to_microseconds(end))

    @classmethod
    def of(cls, moment: datetime) -> Self:
        """Return the week that `moment` (an aware datetime) falls into, in UTC.

        Raises ModelError for a naive datetime and outside the weeks 0001-W01 to 9999-W51.
        """
        try:
            year, number, _ = from_microseconds(to_microseconds(moment)).isocalendar()
        except (ValueError, OverflowError) as error:
            raise ModelError(f"{moment} is in no week: {error}", field="week") from None
        return cls(f"{year:04}-W{number:02}")

    @classmethod
    def parse(cls, week: "Week | str") -> "Week":
        """Return `week` itself, or the week of that name. Raises ModelError for a name that is none."""
        return week if isinstance(week, Week) else cls(week)

    @property
    def end(self) -> datetime:
        """The first moment after it."""
        return self.start + _LENGTH

    def next(self) -> "Week":
        return Week.of(self.end)

    def previous(self) -> "Week":
        if self.start == _FIRST:
            raise ModelError(f"there is no week before {self}", field="week")
        return Week.of(self.start - _LENGTH)

    def clamp(self, moment: int) -> int:
        """Return `moment`, in microseconds since the epoch, or the moment of this week that is nearest to it."""
        return min(max(moment, self.starts_at), self.ends_at - 1)

    def __str__(self) -> str:
        return self.name
