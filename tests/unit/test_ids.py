"""UUIDv7: canonical, strictly growing, and carrying the time of their birth."""

import itertools
import sqlite3
import subprocess
import sys
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.clock import ManualClock, from_microseconds, to_microseconds
from betcore_async.errors import ModelError
from betcore_async.ids import SQL_UUID7, IdGenerator, born_at, parse_id

NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


def test_an_id_is_a_uuid_of_version_7_that_parse_id_takes():
    made = IdGenerator()()
    assert (uuid.UUID(made).version, uuid.UUID(made).variant) == (7, uuid.RFC_4122)
    assert parse_id(made) == made == str(uuid.UUID(made))


@given(st.lists(st.integers(min_value=-3_000, max_value=3_000), max_size=50))
def test_ids_grow_strictly_whatever_the_clock_does(steps):
    clock = ManualClock(NOON)
    make = IdGenerator(clock)
    made = [make()]
    for step in steps:
        clock.advance(timedelta(microseconds=step))
        made.append(make())
    assert made == sorted(set(made))


def test_ids_go_back_with_a_clock_that_was_far_ahead():
    clock = ManualClock(NOON)
    make = IdGenerator(clock)
    made = [make()]
    for step in (30, -30, 30, -30):
        clock.advance(timedelta(days=step))
        made.append(make())
        assert born_at(made[-1]) == clock.now.replace(microsecond=123_000)
    assert len(set(made)) == 5
    clock.advance(timedelta(days=-1))
    assert make() > made[-1]


@given(st.lists(st.tuples(st.integers(-3_000, 3_000), st.integers(0, 300)), max_size=20))
def test_ids_drawn_together_go_on_where_single_ones_ended(draws):
    clock = ManualClock(NOON)
    make = IdGenerator(clock)
    made = []
    for step, count in draws:
        clock.advance(timedelta(microseconds=step))
        made += [make(), *make.many(count, to_microseconds(clock.now))]
    assert made == sorted(set(made))
    assert all(parse_id(identifier) for identifier in made)
    assert len(made) == sum(count + 1 for _, count in draws)


def test_many_hundred_thousand_ids_of_one_millisecond_still_grow():
    make = IdGenerator(ManualClock(NOON))
    made = make.many(300_000, to_microseconds(NOON))  # twice what the low digits count
    assert made == sorted(set(made))
    assert {born_at(identifier) for identifier in made} == {NOON.replace(microsecond=123_000)}
    assert len({identifier[:24] for identifier in made}) > 1


def test_ids_made_by_sqlite_are_as_good():
    many = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT {} FROM n"
    with closing(sqlite3.connect(":memory:")) as raw:
        made = [row[0] for row in raw.execute(many.format(SQL_UUID7), {"ms": to_microseconds(NOON) // 1000})]
    assert all(parse_id(identifier) == identifier for identifier in made)
    assert len(set(made)) == 5000
    assert {born_at(identifier) for identifier in made} == {NOON.replace(microsecond=123_000)}
    digits = [set(column) for column in zip(*made, strict=True)]
    assert all(len(digits[place]) == 16 for place in (15, 16, 17, 20, 21, 22, *range(24, 36)))  # random to the last
    assert digits[19] == set("89ab")


def test_ids_of_one_millisecond_differ_and_cannot_be_counted_on():
    make = IdGenerator(ManualClock(NOON))
    numbers = [uuid.UUID(make()).int for _ in range(1000)]
    steps = {later - earlier for earlier, later in itertools.pairwise(numbers)}
    assert len(set(numbers)) == 1000
    assert len(steps) > 900


@given(st.integers(min_value=0, max_value=to_microseconds(datetime(9999, 12, 31, tzinfo=UTC))))
def test_an_id_tells_the_millisecond_of_its_birth(microseconds):
    moment = from_microseconds(microseconds)
    born = born_at(IdGenerator(ManualClock(moment))())
    assert timedelta(0) <= moment - born < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "0199C4F2-7D1C-7A30-8C5E-3B1F0A9D2E47",
        "0199c4f2-7d1c-4a30-8c5e-3b1f0a9d2e47",
        "0199c4f2-7d1c-7a30-cc5e-3b1f0a9d2e47",
        "0199c4f27d1c7a308c5e3b1f0a9d2e47",
        "{0199c4f2-7d1c-7a30-8c5e-3b1f0a9d2e47}",
        "0199c4f2-7d1c-7a30-8c5e-3b1f0a9d2e47\n",
        None,
        7,
        uuid.UUID("0199c4f2-7d1c-7a30-8c5e-3b1f0a9d2e47"),
    ],
)
def test_anything_but_a_canonical_id_is_refused_by_field(value):
    with pytest.raises(ModelError, match="bet_id must be a UUIDv7") as caught:
        parse_id(value, "bet_id")
    assert caught.value.field == "bet_id"


def test_a_forked_process_makes_ids_of_its_own():
    code = """
import os
from datetime import UTC, datetime
from betcore_async.clock import ManualClock
from betcore_async.ids import IdGenerator
make = IdGenerator(ManualClock(datetime(2026, 11, 18, tzinfo=UTC)))
make()
child = os.fork()
os.write(1, f"{make()}\\n".encode())
if child:
    os.waitpid(child, 0)
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(made) == len(set(made)) == 2
