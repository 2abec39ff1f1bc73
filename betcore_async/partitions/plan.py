"""Which weekly files a time range reaches, and what part of each. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from betcore_async.clock import to_microseconds
from betcore_async.errors import ModelError, PartitionMissingError
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.week import Week


@dataclass(frozen=True, slots=True)
class Span:
    """The part of one week's file that a query reads: [start, end) in microseconds, within the week."""

    partition: Partition
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Plan:
    spans: tuple[Span, ...]
    """Oldest first."""
    missing: tuple[Week, ...]
    """Weeks in the range that are known to exist, and whose file is not there."""


def plan(partitions: Mapping[Week, Partition], start: datetime, end: datetime, *, allow_partial: bool) -> Plan:
    """Return the files that [start, end) reaches, each clipped to its own week.

    Clipping is what makes a carried-over bet show once: its copy lies outside the window of the file that holds it.
    Raises PartitionMissingError naming the missing weeks unless `allow_partial`; ModelError for a range that is none.
    """
    try:
        first, last = to_microseconds(start), to_microseconds(end)
    except ValueError as error:
        raise ModelError(str(error), field="start") from None
    if last < first:
        raise ModelError(f"the range ends ({end}) before it starts ({start})", field="end")
    readable = [entry for entry in partitions.values() if entry.state is not PartitionState.DAMAGED]
    spans = tuple(
        Span(entry, max(first, entry.week.starts_at), min(last, entry.week.ends_at))
        for entry in sorted(readable, key=lambda entry: entry.week)
        if entry.week.starts_at < last and entry.week.ends_at > first
    )
    missing = tuple(week for week in known_missing(partitions) if week.starts_at < last and week.ends_at > first)
    if missing and not allow_partial:
        names = ", ".join(week.name for week in missing)
        raise PartitionMissingError(
            f"no readable file for {names}; bring it back, or pass allow_partial=True to do without", weeks=missing
        )
    return Plan(spans, missing)


def known_missing(partitions: Mapping[Week, Partition]) -> list[Week]:
    """Return the weeks that the files speak of but that cannot be read: a neighbour that is gone, a damaged file."""
    readable = {week for week, entry in partitions.items() if entry.state is not PartitionState.DAMAGED}
    named = {week for entry in partitions.values() for week in (entry.predecessor, entry.successor) if week}
    return sorted((named | set(partitions)) - readable)


def holders(partitions: Mapping[Week, Partition], week: Week) -> list[Partition]:
    """Return the files after `week`, oldest first: where a bet that was open at its end may have gone."""
    return [
        entry
        for entry in sorted(partitions.values(), key=lambda entry: entry.week)
        if entry.week > week and entry.state is not PartitionState.DAMAGED
    ]
