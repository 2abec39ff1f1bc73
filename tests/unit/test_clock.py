"""Time as whole microseconds, exact both ways."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.clock import ManualClock, from_microseconds, system_clock, to_microseconds
from betcore_async.errors import ModelError


@given(st.datetimes(timezones=st.timezones()).filter(lambda moment: 1 < moment.year < 9999))
def test_microseconds_are_exact_both_ways_from_any_time_zone(moment):
    assert from_microseconds(to_microseconds(moment)) == moment.astimezone(UTC)


def test_the_epoch_is_zero():
    assert to_microseconds(datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == 0


def test_a_naive_time_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        to_microseconds(datetime(2026, 1, 1))  # noqa: DTZ001 - the naive time is the point


def test_the_system_clock_is_utc():
    assert system_clock().tzinfo is UTC


def test_a_manual_clock_stands_until_it_is_moved():
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    assert clock() == clock()
    clock.advance(timedelta(days=7))
    assert clock() == datetime(2026, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize("microseconds", [2**63 - 1, -(2**63), 253_402_300_800_000_000])
def test_a_count_that_is_no_time_is_told(microseconds):
    with pytest.raises(ModelError, match=str(microseconds)):
        from_microseconds(microseconds)
