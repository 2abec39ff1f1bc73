from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.clock import to_microseconds
from betcore_async.errors import ModelError
from betcore_async.redis.candles import candles_of, check_interval

POINTS = st.lists(st.tuples(st.integers(-200, 200), st.integers(1, 50).map(Decimal)), max_size=60)


@given(points=POINTS, width=st.integers(1, 90))
def test_candles_agree_with_counting_by_hand(points, width):
    points = sorted(points, key=lambda point: point[0])
    candles = candles_of("A", points, width)
    assert [to_microseconds(candle.start) for candle in candles] == sorted({at // width * width for at, _ in points})
    for candle in candles:
        start = to_microseconds(candle.start)
        inside = [price for at, price in points if start <= at < start + width]
        assert (candle.open, candle.close, candle.count) == (inside[0], inside[-1], len(inside))
        assert (candle.low, candle.high) == (min(inside), max(inside))


def test_no_points_give_no_candles():
    assert candles_of("A", [], 60) == []


@pytest.mark.parametrize("interval", [timedelta(0), timedelta(seconds=-1), 60, None, "1m"])
def test_an_interval_that_is_none_is_refused(interval):
    with pytest.raises(ModelError) as error:
        check_interval(interval)
    assert error.value.field == "interval"
