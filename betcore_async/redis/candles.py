"""Candles from prices; pure arithmetic."""

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal

from betcore_async.clock import from_microseconds
from betcore_async.errors import ModelError
from betcore_async.models import Candle

_MICROSECOND = timedelta(microseconds=1)


def check_interval(interval: timedelta) -> int:
    """Return a candle's width in microseconds; raises ModelError unless it is above 0."""
    if not isinstance(interval, timedelta) or interval < _MICROSECOND:
        raise ModelError(f"interval must be a timedelta above 0; got {interval!r}", field="interval")
    return interval // _MICROSECOND


def candles_of(symbol: str, points: Iterable[tuple[int, Decimal]], width: int) -> list[Candle]:
    """Return a candle for each interval that has points; `points` are (microseconds, price), oldest first.

    Intervals of `width` microseconds are counted from the epoch, so that the same moment belongs to the same candle
    whatever range was asked for.
    """
    slots: dict[int, list[Decimal]] = {}
    for at, price in points:
        slots.setdefault(at - at % width, []).append(price)
    return [
        Candle.model_construct(
            symbol=symbol,
            start=from_microseconds(start),
            open=prices[0],
            high=max(prices),
            low=min(prices),
            close=prices[-1],
            count=len(prices),
        )
        for start, prices in slots.items()
    ]
