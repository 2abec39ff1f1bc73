"""How long things took: any number of measurements in a fixed few kilobytes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

_LOWEST = -6  # 10**-6 s = 1 µs: nothing that crosses a thread is faster
_DECADES = 9  # up to 1,000 s
_PER_DECADE = 50  # neighbours differ by 4.7 %, so a quantile is off by 2.4 % at most


@dataclass(frozen=True, slots=True)
class Bucket:
    """`count` measurements lay between `low` and `high` (seconds)."""

    low: float
    high: float
    count: int


class Latencies:
    """A histogram with logarithmic buckets: the memory it takes does not depend on what is recorded."""

    def __init__(self) -> None:
        self._counts = [0] * (_DECADES * _PER_DECADE)
        self.count = 0
        self.longest = 0.0

    def record(self, seconds: float) -> None:
        """Add one measurement; what is shorter than 1 µs or longer than 1,000 s counts as just that."""
        place = math.floor((math.log10(seconds) - _LOWEST) * _PER_DECADE) if seconds > 0 else 0
        self._counts[min(max(place, 0), len(self._counts) - 1)] += 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Record how long the block took, unless it raised: a refused call is fast for the wrong reason."""
        started = perf_counter()
        yield
        self.record(perf_counter() - started)

    def quantile(self, share: float) -> float:
        """Return the time (seconds) within which `share` of the measurements lay, within 2.4 %; 0.0 for none."""
        wanted = math.ceil(share * self.count)
        seen = 0
        for place, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(math.sqrt(_edge(place) * _edge(place + 1)), self.longest)
        return 0.0

    def buckets(self, per_decade: int = 10) -> list[Bucket]:
        """Return the histogram, `per_decade` (a divisor of 50) buckets to a factor of ten, without the empty ends."""
        width = _PER_DECADE // per_decade
        counts = [sum(self._counts[place : place + width]) for place in range(0, len(self._counts), width)]
        filled = [place for place, count in enumerate(counts) if count]
        if not filled:
            return []
        return [
            Bucket(_edge(place * width), _edge((place + 1) * width), counts[place])
            for place in range(filled[0], filled[-1] + 1)
        ]


def _edge(place: int) -> float:
    return math.pow(10, _LOWEST + place / _PER_DECADE)
