"""Which files a range reaches, which are missing, and which of the files found is the live one: pure decisions."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weekly_files import ALWAYS, W

from betcore_async.clock import to_microseconds
from betcore_async.errors import ModelError, PartitionDamagedError, PartitionMissingError
from betcore_async.partitions.catalog import Partition, sort_out
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.plan import known_missing, plan
from betcore_async.partitions.week import Week

LIVE, SEALED, DAMAGED = PartitionState.LIVE, PartitionState.SEALED, PartitionState.DAMAGED


def chain(*weeks: Week) -> dict[Week, Partition]:
    """Return the files of weeks that followed each other, the last of them live."""
    found = {}
    for before, week, after in zip((None, *weeks), weeks, (*weeks[1:], None), strict=False):
        state = LIVE if after is None else SEALED
        found[week] = Partition(week, Path(week.name), state, 1, before, after)
    return found


def damaged(week: Week, problem: str = "it is broken") -> Partition:
    return Partition(week, Path(week.name), DAMAGED, problem=problem)


def orphan(week: Week, predecessor: Week, **others: bool) -> Partition:
    return Partition(week, Path(week.name), LIVE, 1, predecessor, **others)


# Ranges

moments = st.integers(0, 8 * 7 * 24).map(lambda hours: W[0].start - timedelta(days=7) + timedelta(hours=hours))


@given(moments, moments, st.sets(st.sampled_from(W[:5]), min_size=1))
def test_spans_cover_the_range_in_the_weeks_there_are_and_nothing_else(one, other, weeks):
    start, end = sorted((one, other))
    reach = plan(chain(*sorted(weeks)), start, end, allow_partial=False)
    assert reach.missing == ()
    for moment in (start, end - timedelta(microseconds=1), *(week.start for week in W[:7])):
        hit = [span for span in reach.spans if span.start <= to_microseconds(moment) < span.end]
        inside = start <= moment < end and Week.of(moment) in weeks
        assert [span.partition.week for span in hit] == ([Week.of(moment)] if inside else [])
    assert [span.partition.week for span in reach.spans] == sorted(span.partition.week for span in reach.spans)


def test_a_range_that_ends_before_it_starts_is_refused():
    with pytest.raises(ModelError, match="ends"):
        plan(chain(W[0]), W[1].start, W[0].start, allow_partial=False)


def test_a_naive_range_is_refused():
    with pytest.raises(ModelError, match="time zone"):
        plan(chain(W[0]), datetime(2026, 1, 1), W[1].start, allow_partial=False)  # noqa: DTZ001


def test_an_empty_range_reaches_nothing():
    assert plan(chain(*W[:3]), W[1].start, W[1].start, allow_partial=False).spans == ()


def test_the_weeks_of_a_downtime_are_not_missing():
    catalog = chain(W[0], W[5], W[6])
    assert known_missing(catalog) == []
    assert len(plan(catalog, *ALWAYS, allow_partial=False).spans) == 3


def without(catalog: dict[Week, Partition], *weeks: Week) -> dict[Week, Partition]:
    return {week: entry for week, entry in catalog.items() if week not in weeks}


@pytest.mark.parametrize("broken", [False, True])
def test_a_missing_middle_week_is_named(broken):
    catalog = chain(*W[:4])
    catalog = catalog | {W[1]: damaged(W[1])} if broken else without(catalog, W[1])
    with pytest.raises(PartitionMissingError, match="2026-W21") as caught:
        plan(catalog, *ALWAYS, allow_partial=False)
    assert caught.value.weeks == (W[1],)
    assert ("it is broken" in str(caught.value)) is broken
    reach = plan(catalog, *ALWAYS, allow_partial=True)
    assert reach.missing == (W[1],)
    assert [span.partition.week for span in reach.spans] == [W[0], W[2], W[3]]
    assert plan(catalog, W[2].start, W[3].end, allow_partial=False).missing == ()


def test_all_weeks_of_a_gap_are_named_also_those_nobody_speaks_of():
    catalog = without(chain(*W[:6]), W[1], W[2], W[3])
    assert known_missing(catalog) == W[1:4]
    with pytest.raises(PartitionMissingError) as caught:
        plan(catalog, W[2].start, W[2].end, allow_partial=False)
    assert caught.value.weeks == (W[2],)


def test_the_weeks_before_the_oldest_file_are_missing_where_it_had_a_predecessor():
    catalog = without(chain(*W[:5]), W[0], W[1], W[2])
    for start, end in (ALWAYS, (W[2].start, W[3].end), (W[0].start, W[1].end)):
        with pytest.raises(PartitionMissingError) as caught:
            plan(catalog, start, end, allow_partial=False)
        assert caught.value.weeks == (W[2],)
    assert plan(catalog, W[3].start, ALWAYS[1], allow_partial=False).missing == ()


def test_a_foreign_file_outside_the_chain_is_not_missed():
    strange = Week("2030-W01")
    catalog = chain(*W[:3]) | {strange: damaged(strange), Week("2020-W01"): damaged(Week("2020-W01"))}
    assert plan(catalog, *ALWAYS, allow_partial=False).missing == ()


# Which file is live


def test_the_end_of_the_chain_is_live():
    discovery = sort_out(chain(*W[:4]))
    assert (discovery.live, discovery.orphans) == (W[3], [])
    assert list(discovery.partitions) == W[:4]


def test_an_empty_folder_has_no_live_week():
    assert sort_out({}).live is None


@pytest.mark.parametrize("left_over", [[W[4]], [W[4], W[7]]])
def test_a_file_its_predecessor_does_not_name_is_an_orphan(left_over):
    found = chain(*W[:4])
    discovery = sort_out(found | {week: orphan(week, W[3]) for week in left_over})
    assert discovery.live == W[3]
    assert discovery.orphans == [Path(week.name) for week in left_over]
    assert list(discovery.partitions) == W[:4]


def test_an_orphan_of_a_week_that_was_sealed_for_another_is_told_apart():
    discovery = sort_out(chain(W[0], W[2]) | {W[1]: orphan(W[1], W[0])})
    assert (discovery.live, discovery.orphans) == (W[2], [Path(W[1].name)])


def test_the_live_week_stays_live_when_its_predecessor_went_away():
    assert sort_out(without(chain(*W[:3]), W[0], W[1])).live == W[2]


def test_the_live_week_stays_live_when_its_predecessor_is_damaged():
    discovery = sort_out(chain(*W[:3]) | {W[1]: damaged(W[1]), W[2]: orphan(W[2], W[1], written=True)})
    assert (discovery.live, discovery.orphans) == (W[2], [])


def test_nothing_is_decided_where_a_damaged_file_may_have_been_live():
    with pytest.raises(PartitionDamagedError, match="nobody can say") as caught:
        sort_out(chain(*W[:3]) | {W[1]: damaged(W[1])})
    assert caught.value.path == Path(W[1].name)


def test_two_live_weeks_are_refused_by_name():
    with pytest.raises(PartitionDamagedError, match=r"2026-W20.*2026-W25"):
        sort_out(chain(W[0]) | chain(W[5]))


def test_a_missing_live_week_is_named():
    with pytest.raises(PartitionDamagedError, match="in favour of 2026-W22, whose file is not there"):
        sort_out(without(chain(*W[:3]), W[2]))


def test_a_damaged_live_week_is_not_replaced_by_a_new_one():
    with pytest.raises(PartitionDamagedError, match="can take writes: it is broken"):
        sort_out(chain(*W[:3]) | {W[2]: damaged(W[2])})


def test_only_a_foreign_file_is_no_empty_folder():
    with pytest.raises(PartitionDamagedError, match="it is broken"):
        sort_out({W[0]: damaged(W[0])})


@given(st.integers(1, 6), st.integers(0, 5), st.sampled_from(["remove", "damage"]))
def test_a_lost_sealed_week_never_changes_which_one_is_live(length, lost, how):
    found = chain(*W[:length])
    found[W[length - 1]] = orphan(W[length - 1], W[length - 2], written=True) if length > 1 else found[W[0]]
    if lost < length - 1:
        found = without(found, W[lost]) if how == "remove" else found | {W[lost]: damaged(W[lost])}
    assert sort_out(found).live == W[length - 1]
