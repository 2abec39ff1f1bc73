"""A filter never says that somebody is not there who is, rarely that somebody is there who is not, and stays small."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.partitions.user_filter import ANYBODY, UserFilter, hash_of

ids = st.sets(st.text(st.characters(exclude_categories=["Cs"])), max_size=60)


@given(ids)
def test_whoever_is_there_is_never_ruled_out(users):
    found = UserFilter.of([user.encode() for user in users])
    assert all(found.may_have(hash_of(user)) for user in users)
    assert UserFilter(found.bits) == found


@pytest.mark.parametrize(
    ("users", "size", "wrong"), [(0, 8, 0), (1, 8, 0.05), (1_000, 2_048, 0.07), (40_000, 65_536, 0.08)]
)
def test_few_others_are_taken_for_somebody_who_is_there(users, size, wrong):
    found = UserFilter.of([f"user-{number}".encode() for number in range(users)])
    assert len(found.bits) == size
    others = [found.may_have(hash_of(f"another-{number}")) for number in range(4_000)]
    assert sum(others) <= wrong * len(others)


def test_a_filter_of_very_many_users_is_no_larger_and_still_rules_most_others_out():
    found = UserFilter.of([f"user-{number}".encode() for number in range(100_000)])
    assert len(found.bits) == 65_536
    assert sum(found.may_have(hash_of(f"another-{number}")) for number in range(4_000)) < 1_000


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_where_nothing_is_known_nobody_is_ruled_out(user):
    assert ANYBODY.may_have(hash_of(user))


@pytest.mark.parametrize("size", [0, 3, 12])
def test_a_number_of_places_that_no_filter_has_is_refused(size):
    with pytest.raises(ValueError, match="power of two"):
        UserFilter(bytes(size))
