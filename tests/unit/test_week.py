"""Weeks are those of ISO 8601, in UTC, as `datetime.isocalendar` has them."""

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.clock import to_microseconds
from betcore_async.errors import ModelError
from betcore_async.partitions import Week

moments = st.datetimes(datetime(1970, 1, 1), datetime(2200, 12, 31, 23, 59, 59, 999999), timezones=st.just(UTC))  # noqa: DTZ001
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
LONG_YEARS = [1970, 1976, 1981, 1987, 1992, 1998, 2004, 2009, 2015, 2020, 2026, 2032, 2037]


@given(moments)
def test_a_week_is_named_as_isocalendar_has_it(moment):
    year, number, _ = moment.isocalendar()
    assert Week.of(moment).name == f"{year}-W{number:02}"


@given(moments)
def test_a_week_holds_its_moments_and_no_others(moment):
    week = Week.of(moment)
    assert week.start <= moment < week.end
    assert Week.of(week.start) == week == Week.of(week.end - timedelta(microseconds=1))
    assert Week.of(week.end) == week.next() != week
    assert Week.of(week.start - timedelta(microseconds=1)) == week.previous()
    assert week.start.weekday() == 0
    assert week.ends_at - week.starts_at == 7 * 24 * 3600 * 1_000_000


@given(moments)
def test_a_week_is_the_week_of_its_name(moment):
    week = Week.of(moment)
    assert Week(week.name) == Week.parse(str(week)) == Week.parse(week) == week
    assert hash(Week(week.name)) == hash(week)
    assert pickle.loads(pickle.dumps(week)).start == copy.deepcopy(week).start == week.start  # noqa: S301 - our own


@given(moments, moments)
def test_weeks_compare_by_time(one, other):
    assert (Week.of(one) < Week.of(other)) == (Week.of(one).start < Week.of(other).start)


@given(st.datetimes(datetime(1970, 1, 8), datetime(2200, 1, 1), timezones=offsets))  # noqa: DTZ001
def test_a_week_is_that_of_utc_whatever_the_time_zone(moment):
    assert Week.of(moment) == Week.of(moment.astimezone(UTC))


@given(moments, st.integers(-(10**18), 10**18))
def test_clamp_moves_a_moment_into_the_week_and_no_further(moment, at):
    week = Week.of(moment)
    clamped = week.clamp(at)
    assert week.starts_at <= clamped < week.ends_at
    assert clamped == at or clamped in {week.starts_at, week.ends_at - 1}
    assert week.clamp(to_microseconds(moment)) == to_microseconds(moment)


def test_every_week_from_1970_to_2200_follows_the_one_before():
    week, last = Week("1970-W01"), Week("2200-W52")
    lengths: dict[str, int] = {}
    while week <= last:
        assert week.next().start == week.end
        assert week.next().previous() == week
        year = week.name[:4]
        lengths[year] = lengths.get(year, 0) + 1
        assert int(week.name[6:]) == lengths[year]
        week = week.next()
    assert [int(year) for year, length in lengths.items() if length == 53][: len(LONG_YEARS)] == LONG_YEARS
    assert set(lengths.values()) == {52, 53}


def test_the_days_around_new_year_belong_to_the_week_of_their_thursday():
    assert Week.of(datetime(2027, 1, 1, tzinfo=UTC)).name == "2026-W53"
    assert Week.of(datetime(2024, 12, 30, tzinfo=UTC)).name == "2025-W01"
    assert Week("2026-W53").end == datetime(2027, 1, 4, tzinfo=UTC)


NO_WEEKS = "|2026|2026-W00|2026-W54|2025-W53|2026-W7|2026-w07|2026-W07\n| 2026-W07|26-W07|0000-W01|9999-W52|10000-W01"
NO_WEEKS += "|２０２６-W07|2026-W07.db|../2026-W07|2026-W-1"


@pytest.mark.parametrize("name", NO_WEEKS.split("|"))
def test_a_name_that_is_no_week_is_refused(name):
    with pytest.raises(ModelError, match="is not an ISO week") as caught:
        Week(name)
    assert caught.value.field == "week"


def test_the_edges_of_time_are_refused_and_not_wrapped():
    assert Week("9999-W51").end == datetime(9999, 12, 27, tzinfo=UTC)
    assert Week.of(datetime(1, 1, 1, tzinfo=UTC)).name == "0001-W01"
    with pytest.raises(ModelError):
        Week("9999-W51").next()
    with pytest.raises(ModelError, match="no week before"):
        Week("0001-W01").previous()
    with pytest.raises(ModelError):
        Week.of(datetime(9999, 12, 31, tzinfo=UTC))
    with pytest.raises(ModelError):
        Week.of(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))))


def test_a_naive_moment_is_refused():
    with pytest.raises(ModelError, match="time zone"):
        Week.of(datetime(2026, 7, 1))  # noqa: DTZ001
