"""When to look at the clock again: pure arithmetic."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from betcore_async.partitions import Week
from betcore_async.partitions.auto_rotation import FIRST_RETRY, LONGEST_RETRY, LOOK_EVERY, SPREAD, pause

WEEK = Week("2026-W53")
chances = st.floats(min_value=0, max_value=1, exclude_max=True)


@given(st.integers(min_value=-10 * 604_800, max_value=10 * 604_800), chances)
def test_it_wakes_up_at_the_end_of_the_week_and_never_sleeps_long(seconds, chance):
    now = WEEK.end - timedelta(seconds=seconds)
    slept = pause(now, WEEK, 0, chance)
    assert 0 <= slept <= LOOK_EVERY
    if seconds <= LOOK_EVERY - SPREAD:
        assert max(seconds, 0) <= slept <= max(seconds, 0) + SPREAD


@given(st.integers(min_value=1, max_value=10_000), chances)
def test_after_failures_it_tries_ever_more_rarely_but_always_again(failures, chance):
    slept = pause(WEEK.end, WEEK, failures, chance)
    assert FIRST_RETRY / 2 <= slept <= LONGEST_RETRY
    assert slept >= pause(WEEK.end, WEEK, 1, chance)
    assert pause(WEEK.end, WEEK, failures + 1, chance) >= slept


def test_rivals_that_failed_together_do_not_try_together():
    assert len({pause(WEEK.end, WEEK, 3, chance / 10) for chance in range(10)}) == 10
