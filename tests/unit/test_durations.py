"""Durations as Go writes them, read exactly and written back."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10s", timedelta(seconds=10)),
        ("1h", timedelta(hours=1)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("1.5h", timedelta(minutes=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("500us", timedelta(microseconds=500)),
        ("0s", timedelta(0)),
        ("1m1ms", timedelta(minutes=1, milliseconds=1)),
    ],
)
def test_go_durations_are_read(text, expected):
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "90",
        "1d",
        "1H",
        "10 s",
        " 10s",
        "10s ",
        "s",
        "1h-5m",
        "-1s",
        "+1s",
        "1_0s",
        "٣s",
        "1e3s",
        "10s\n",
        "1.s",
        None,
        5,
        1.5,
        True,
    ],
)
def test_anything_looser_is_refused_and_the_form_is_named(text):
    with pytest.raises(ValueError, match="is not a duration; write it like 250ms, 10s or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["99999999999999h", "9" * 400 + "s"])
def test_a_duration_beyond_what_can_be_kept_is_refused(text):
    with pytest.raises(ValueError, match="too long"):
        parse_duration(text)


def test_a_negative_duration_is_refused():
    with pytest.raises(ValueError, match="negative"):
        parse_duration(timedelta(seconds=-1))


@given(st.timedeltas(min_value=timedelta(0)))
def test_what_is_written_reads_back_the_same(value):
    assert parse_duration(format_duration(value)) == value
