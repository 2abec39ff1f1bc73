"""Durations written as Go writes them: `250ms`, `10s`, `1h30m`. Nothing looser: `90` is an error, not a guess."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "us": timedelta(microseconds=1),
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|h|m|s)")


def parse_duration(value: object) -> timedelta:
    """Return the timedelta of a text such as `1h30m`; a timedelta passes through unless it is negative.

    Raises ValueError for anything else, a bare number included: it does not say its unit.
    """
    if isinstance(value, timedelta):
        if value < timedelta(0):
            raise ValueError("a duration cannot be negative")
        return value
    text = str(value)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text[:40]!r} is not a duration; write it like 250ms, 10s or 1h30m")
    try:
        return sum((float(number) * _UNITS[unit] for number, unit in parts), timedelta())
    except OverflowError:
        raise ValueError(f"{text[:40]!r} is too long a duration") from None


def format_duration(value: timedelta) -> str:
    """Return the shortest text that `parse_duration` reads back: `1h30m`, `0s`."""
    left = value // timedelta(microseconds=1)
    text = ""
    for unit, size in _UNITS.items():
        count, left = divmod(left, size // timedelta(microseconds=1))
        text += f"{count}{unit}" if count else ""
    return text or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
]
"""A timedelta in code, a text such as `10s` in the environment and in JSON."""
