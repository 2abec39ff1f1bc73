"""Price cells: what the players of the demonstration bet on.

A cell is a symbol, a band of prices [low, high) and a window of time [start, end). A bet on it wins when the price at
some tick inside the window lies inside the band; a window without a tick is lost. Its id says all of it:

    BTC-USD:2022-01-03T10:05Z+5m:46300-46350
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Self

from betcore_async.clock import EPOCH
from betcore_async.durations import format_duration, parse_duration
from betcore_async.errors import ModelError
from betcore_async.models import PricePoint

SHORTEST_WINDOW = timedelta(minutes=5)
TICKS_PER_WINDOW = 5

WINDOWS_AHEAD = 2
"""The nearest window open for bets, counted from the running one: it begins more than one window from now."""

_BANDS_PER_PRICE = 1000  # a band is about a thousandth of the price wide: 50 for bitcoin at 46,000
_TIME = "%Y-%m-%dT%H:%MZ"
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Cell:
    symbol: str
    start: datetime
    end: datetime
    low: Decimal
    high: Decimal

    def __str__(self) -> str:
        window = f"{self.start:{_TIME}}+{format_duration(self.end - self.start)}"
        return f"{self.symbol}:{window}:{self.low:f}-{self.high:f}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the cell that `text` names; raises ModelError when it names none."""
        try:
            symbol, rest = text.split(":", 1)
            window, band = rest.rsplit(":", 1)
            begins, length = window.split("+")
            start = datetime.strptime(begins, _TIME).replace(tzinfo=UTC)
            low, high = (Decimal(part) for part in band.split("-"))
            return cls(symbol, start, start + parse_duration(length), low, high)
        except (ValueError, InvalidOperation) as error:
            raise ModelError(f"{text[:80]!r} is not the id of a price cell", field="cell_id") from error

    def won_by(self, ticks: Iterable[PricePoint]) -> bool:
        """Tell whether some tick of `ticks` lies inside the window and the band."""
        return any(
            tick.symbol == self.symbol and self.start <= tick.at < self.end and self.low <= tick.price < self.high
            for tick in ticks
        )


def window_length(interval: timedelta) -> timedelta:
    """Return how long the windows of a feed are whose ticks come every `interval`: some ticks fit, at least 5 minutes.

    Whole minutes, so that a window can be told by its id.
    """
    minutes = -(-TICKS_PER_WINDOW * interval // _MINUTE)  # rounded up
    return max(SHORTEST_WINDOW, minutes * _MINUTE)


def cell_near(tick: PricePoint, *, bands: int, windows: int, length: timedelta) -> Cell:
    """Return the cell `bands` above the price of `tick` and `windows` after the window it falls in."""
    width = band_width(tick.price)
    low = (tick.price // width + bands) * width
    start = EPOCH + ((tick.at - EPOCH) // length + windows) * length
    return Cell(tick.symbol, start, start + length, low, low + width)


def band_width(price: Decimal) -> Decimal:
    """Return the width of the bands around `price`: 1, 2 or 5 times a power of ten, about a thousandth of it."""
    wanted = price / _BANDS_PER_PRICE
    power = Decimal(1).scaleb(wanted.adjusted())
    return next(step * power for step in (Decimal(1), Decimal(2), Decimal(5), Decimal(10)) if step * power >= wanted)


def reward_rate(bands: int) -> float:
    """Return what a won bet pays for each unit staked; more for a band farther from the price of the moment."""
    return round(2.6 + 0.45 * math.pow(abs(bands), 1.7), 2)
