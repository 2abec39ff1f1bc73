from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.demo.axes import Scale, round_times, round_values, short_number, short_time


@given(low=st.floats(-1e9, 1e9), span=st.floats(1e-3, 1e9))
def test_labels_are_few_and_lie_inside_the_axis(low, span):
    values = round_values(low, low + span)
    assert 1 <= len(values) <= 12
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value in values)


def test_labels_are_round():
    assert round_values(33_100, 47_900) == [35_000, 40_000, 45_000]
    assert round_values(5, 5) == [5]


@given(
    first=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    minutes=st.integers(10, 3_000_000),
)
def test_times_are_few_round_and_inside(first, minutes):
    last = first + timedelta(minutes=minutes)
    times = round_times(first, last)
    assert len(times) <= 9
    assert all(first <= time <= last and time.minute % 5 == 0 for time, _ in times)


def test_weeks_are_labelled_at_their_mondays():
    start = datetime(2021, 12, 31, 23, 1, tzinfo=UTC)
    assert [label for _, label in round_times(start, start + timedelta(days=31))] == [
        "Jan 3",
        "Jan 10",
        "Jan 17",
        "Jan 24",
        "Jan 31",
    ]


def test_an_empty_range_lies_in_the_middle():
    assert Scale(3, 3, 0, 100)(3) == 50


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.000501, "500 µs"), (0.00089125, "890 µs"), (0.002, "2 ms"), (1, "1 s"), (12.6, "13 s")]
)
def test_durations_have_two_digits(seconds, text):
    assert short_time(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(46_500, "46,500"), (1_250_000, "1.25M"), (3e9, "3G"), (0.0002, "0.0002"), (0, "0")]
)
def test_numbers_are_short(value, text):
    assert short_number(value) == text
