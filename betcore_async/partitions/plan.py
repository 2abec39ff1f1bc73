"""Which weekly files a time range reaches, and what part of each. Pure."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from betcore_async.clock import to_microseconds
from betcore_async.errors import ModelError, PartitionArchivedError, PartitionMissingError
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.week import Week

Catalog = Mapping[Week, Partition]
"""The weekly files that are known."""


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
    """Weeks in the range that cannot be read."""


def plan(partitions: Catalog, start: datetime, end: datetime, *, allow_partial: bool) -> Plan:
    """Return the files that [start, end) reaches, each clipped to its own week.

    Clipping is what makes a carried-over bet show once: its copy lies outside the window of the file that holds it.
    Raises PartitionMissingError naming the missing weeks unless `allow_partial`; ModelError for a range that is none.
    """
    try:
        first, last = to_microseconds(start), to_microseconds(end)
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"a range is from one aware datetime to another: {error}", field="start") from None
    if last < first:
        raise ModelError(f"the range ends ({end}) before it starts ({start})", field="end")
    known = timeline(partitions)
    spans = known.spans[bisect_right(known.ends, first) : bisect_left(known.starts, last)]
    if spans and spans[0].start < first:
        spans = (replace(spans[0], start=first), *spans[1:])
    if spans and spans[-1].end > last:
        spans = (*spans[:-1], replace(spans[-1], end=last))
    # What was before the oldest week that is known of is lost with it.
    missing = tuple(
        week
        for week in known.missing
        if week.ends_at > first and (week.starts_at < last or (week == known.before_all and last > first))
    )
    if missing and not allow_partial:
        raise missing_error(partitions, missing)
    return Plan(spans, missing)


def missing_error(
    partitions: Catalog, weeks: tuple[Week, ...], *, optional: bool = True
) -> PartitionMissingError | PartitionArchivedError:
    """Return the error that names weeks which cannot be read, and says why where that is known.

    `optional` says that the caller could do without them.
    """
    without = ", or pass allow_partial=True to do without" if optional else ""
    names = ", ".join(week.name for week in weeks)
    copies = [entry.archived for week in weeks if (entry := partitions.get(week)) and entry.archived]
    if len(copies) == len(weeks):
        location = ", ".join(sorted({copy.location for copy in copies}))
        return PartitionArchivedError(
            f"archived to {location}: {names}; restore what is needed{without}",
            weeks=weeks,
            location=location,
        )
    problems = "".join(f" ({entry.problem})" for week in weeks if (entry := partitions.get(week)) and entry.problem)
    return PartitionMissingError(f"no readable file for {names}{problems}; bring it back{without}", weeks=weeks)


@dataclass(frozen=True, slots=True)
class Timeline:
    """What follows from a catalog for every question; worked out once."""

    readable: tuple[Partition, ...]
    """The files that can be read, oldest first."""
    live: tuple[Partition, ...]
    """That of the live week."""
    place: Mapping[str, int]
    """Where each of them stands, by the name of its week."""
    spans: tuple[Span, ...]
    """All of each of them."""
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    missing: tuple[Week, ...]
    before_all: Week | None
    """The week before the oldest one that is known."""


_timelines: deque[tuple[Catalog, Timeline]] = deque(maxlen=8)
"""Of the catalogs that were asked about last. A catalog is replaced as a whole and never changed."""


def timeline(partitions: Catalog) -> Timeline:
    for catalog, known in tuple(_timelines):
        if catalog is partitions:
            return known
    chain = _chain(partitions)
    files = tuple(entry for entry in chain if entry.state is not PartitionState.ARCHIVED)
    place = {entry.week.name: number for number, entry in enumerate(files)}
    spans = tuple(Span(entry, entry.week.starts_at, entry.week.ends_at) for entry in files)
    found = Timeline(
        files,
        tuple(entry for entry in files if entry.state is PartitionState.LIVE),
        place,
        spans,
        tuple(span.start for span in spans),
        tuple(span.end for span in spans),
        tuple(_missing(chain)),
        chain[0].predecessor if chain else None,
    )
    _timelines.append((partitions, found))
    return found


def _chain(partitions: Catalog) -> list[Partition]:
    """Return the weeks that say what came before and after them, archived ones included, oldest first."""
    entries = (entry for entry in partitions.values() if entry.state is not PartitionState.DAMAGED)
    return sorted(entries, key=lambda entry: entry.week)


def readable(partitions: Catalog) -> list[Partition]:
    """Return the files that can be read, oldest first."""
    return list(timeline(partitions).readable)


def live_week(partitions: Catalog) -> Week:
    return next(week for week, entry in partitions.items() if entry.state is PartitionState.LIVE)


def known_missing(partitions: Catalog) -> list[Week]:
    """Return the weeks, oldest first, that the chain of files says there were, and that cannot be read here.

    Where several in a row are gone, the weeks between the first and the last of them may have had files, too, and are
    named with them.
    """
    return list(timeline(partitions).missing)


def _missing(entries: Sequence[Partition]) -> list[Week]:
    missing = [entries[0].predecessor] if entries and entries[0].predecessor else []
    missing += [entry.week for entry in entries if entry.state is PartitionState.ARCHIVED]
    for before, after in pairwise(entries):
        if before.successor is not None and before.successor != after.week:
            missing += _between(before.successor, after)
    return sorted(missing)


def _between(first: Week, after: Partition) -> Iterator[Week]:
    last, week = after.predecessor or first, first
    while week < after.week:
        yield week
        if week >= last:
            return
        week = week.next()
