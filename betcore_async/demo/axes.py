"""Where things go on a chart: scales from values to pixels, and the round values to label."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_TIME_STEPS = [
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(hours=3),
    timedelta(hours=6),
    timedelta(hours=12),
    timedelta(days=1),
    timedelta(days=2),
    timedelta(days=7),
    timedelta(days=28),
    timedelta(days=364),
]
_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps [low, high] to pixels [start, end]; an empty range is widened, so that nothing divides by zero."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def round_values(low: float, high: float, about: int = 5) -> list[float]:
    """Return the multiples of 1, 2 or 5 times a power of ten inside [low, high], some `about` of them."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / about
    power = math.pow(10, math.floor(math.log10(rough)))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def round_times(first: datetime, last: datetime, most: int = 8) -> list[tuple[datetime, str]]:
    """Return at most some `most` round moments inside [first, last], each with its label; weeks begin on a Monday."""
    step = next((step for step in _TIME_STEPS if (last - first) / step <= most), _TIME_STEPS[-1])
    start = -(-(first - _MONDAY) // step)  # rounded up
    times = [_MONDAY + place * step for place in range(start, (last - _MONDAY) // step + 1)]
    whole_days = step >= timedelta(days=1)
    return [(time, f"{time:%b} {time.day}" if whole_days else f"{time:%H:%M}") for time in times]


def short_number(value: float) -> str:
    """Return a number for an axis: 46,500, 1.2M, 0.0002."""
    size = abs(value)
    for unit, suffix in ((1e9, "G"), (1e6, "M")):
        if size >= unit:
            return f"{value / unit:,.4g}{suffix}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.6g}"


def short_time(seconds: float) -> str:
    """Return a duration for an axis: 200 µs, 3 ms, 1 s."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit * 0.9999:
            return f"{_digits(seconds / unit)} {name}"
    return f"{_digits(seconds * 1e6)} µs"


def _digits(value: float) -> str:
    """Return a number with two significant digits: more would tell what a histogram does not know."""
    return f"{float(f'{value:.2g}'):g}"
