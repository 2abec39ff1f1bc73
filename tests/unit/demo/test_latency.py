import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.demo.latency import Latencies

seconds = st.floats(min_value=1.1e-6, max_value=900, allow_nan=False)


def recorded(values):
    latencies = Latencies()
    for value in values:
        latencies.record(value)
    return latencies


@given(values=st.lists(seconds, min_size=1, max_size=200), share=st.floats(min_value=0.01, max_value=1))
def test_quantile_is_the_exact_one_within_its_bucket(values, share):
    ordered = sorted(values)
    exact = ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
    assert recorded(values).quantile(share) == pytest.approx(exact, rel=0.05)


@given(values=st.lists(st.floats(min_value=0, max_value=1e7), max_size=100))
def test_every_measurement_is_in_exactly_one_bucket(values):
    latencies = recorded(values)
    assert sum(bucket.count for bucket in latencies.buckets()) == latencies.count == len(values)


def test_buckets_join_and_leave_the_empty_ends_out():
    buckets = recorded([0.001, 0.0011, 0.1]).buckets(per_decade=10)
    assert buckets[0].low <= 0.001 * 1.0001
    assert buckets[-1].high > 0.1
    assert [bucket.count for bucket in buckets if bucket.count] == [2, 1]
    assert all(first.high == later.low for first, later in itertools.pairwise(buckets))


def test_nothing_recorded_is_zero():
    assert recorded([]).quantile(0.99) == 0.0
    assert recorded([]).buckets() == []


def test_a_block_that_raises_is_not_measured():
    latencies = Latencies()
    with latencies.measure():
        pass
    with pytest.raises(KeyError), latencies.measure():
        raise KeyError
    assert latencies.count == 1
