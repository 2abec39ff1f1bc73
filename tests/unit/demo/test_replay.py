import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from betcore_async.demo.replay import steps
from betcore_async.models import PricePoint
from betcore_async.partitions import Week

START = datetime(2022, 1, 2, 23, 0, tzinfo=UTC)


@given(gaps=st.lists(st.integers(0, 500), min_size=1, max_size=100), minutes=st.integers(5, 60))
def test_steps_are_the_feed_cut_at_windows_and_mondays(gaps, minutes):
    length = timedelta(minutes=minutes)
    times = [START + timedelta(minutes=passed) for passed in itertools.accumulate(gaps)]
    ticks = [PricePoint(symbol="A", price=Decimal(1), at=at) for at in times]
    cut = list(steps(iter(ticks), length))
    assert [tick for step in cut for tick in step] == ticks
    for step in cut:
        assert step[-1].at - step[0].at < length
        assert Week.of(step[0].at) == Week.of(step[-1].at)
