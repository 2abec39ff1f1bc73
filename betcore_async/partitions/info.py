"""What the manager tells its callers: values, nothing more."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from betcore_async.errors import PartitionDamagedError
from betcore_async.models import Bet
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.question import Cursor
from betcore_async.partitions.scanner import Scanner
from betcore_async.partitions.week import Week
from betcore_async.sqlite.failures import is_interrupt
from betcore_async.sqlite.retry import is_busy
from betcore_async.sqlite.rows import Row

COUNTS = """
SELECT
    (SELECT count(*) FROM {schema}.users) AS users,
    (SELECT count(*) FROM {schema}.bets) AS bets,
    (SELECT count(*) FROM {schema}.bets WHERE status IN ('pending', 'confirmed')) AS open_bets,
    (SELECT count(*) FROM {schema}.ledger_entries) AS entries
"""


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """One weekly file, as `partitions()` lists it."""

    week: Week
    path: Path
    state: PartitionState
    start: datetime
    end: datetime
    schema_version: int
    size: int
    """Bytes on disk, the write-ahead log included; of an archived week, bytes in the archive."""
    users: int
    bets: int
    """Rows, bets carried over from the week before included."""
    open_bets: int
    """Bets not decided in this file; in a sealed one they went on to its successor."""
    entries: int
    predecessor: Week | None
    successor: Week | None
    problem: str
    """Why the file is damaged; empty otherwise."""
    location: str = ""
    """Where the week was archived, if it is not here any more."""


@dataclass(frozen=True, slots=True)
class BetPage:
    """Bets of a query, and how to go on."""

    bets: list[Bet]
    next_cursor: Cursor | None
    """Pass it to the same query for the next page; None when there is none. Behind a full page it may be empty."""
    missing_weeks: tuple[Week, ...]
    """Weeks in the range that could not be read (only with `allow_partial=True`)."""


class BetCount(int):
    """How many bets: an int that also names what it was counted without."""

    missing_weeks: tuple[Week, ...]
    """Weeks that could not be read (only with `allow_partial=True`)."""

    def __new__(cls, count: int, missing_weeks: tuple[Week, ...] = ()) -> Self:
        made = super().__new__(cls, count)
        made.missing_weeks = missing_weeks
        return made


class QueryRows(list[Row]):
    """The rows of a query: a list that also names what they were read without."""

    def __init__(self, rows: Iterable[Row], missing_weeks: tuple[Week, ...] = ()) -> None:
        super().__init__(rows)
        self.missing_weeks = missing_weeks
        """Weeks that could not be read (only with `allow_partial=True`)."""


@dataclass(frozen=True, slots=True)
class RotationReport:
    """How a rotation went."""

    week: Week
    """The live week now."""
    previous: Week
    """The live week before."""
    performed: bool
    """False when there was nothing to do, or somebody else had done it."""
    users: int = 0
    open_bets: int = 0
    seconds: float = 0.0
    """Wall time of the whole rotation."""
    blocked_seconds: float = 0.0
    """How long of that writers had to wait: from the write lock on the old week until this process wrote to the new."""


def describe(scanner: Scanner, partition: Partition) -> PartitionInfo:
    """Return what there is to say of a file, its rows counted."""
    counts, state, problem = (0, 0, 0, 0), partition.state, partition.problem
    if (copy := partition.archived) is not None:
        counts = (copy.users, copy.bets, copy.open_bets, copy.entries)
    elif state is not PartitionState.DAMAGED:
        try:
            schema = scanner.attach(partition.week, partition.path)
            counts = tuple(scanner.link.raw.execute(COUNTS.format(schema=schema)).fetchone())
        except (sqlite3.DatabaseError, PartitionDamagedError) as error:
            if is_busy(error) or is_interrupt(error):
                raise
            state, problem = PartitionState.DAMAGED, str(error)
    return PartitionInfo(
        week=partition.week,
        path=partition.path,
        state=state,
        start=partition.week.start,
        end=partition.week.end,
        schema_version=partition.schema_version,
        size=copy.archived_size if copy else _size_on_disk(partition.path),
        users=counts[0],
        bets=counts[1],
        open_bets=counts[2],
        entries=counts[3],
        predecessor=partition.predecessor,
        successor=partition.successor,
        problem=problem,
        location=copy.location if copy else "",
    )


def _size_on_disk(path: Path) -> int:
    return _size(path) + _size(path.with_name(path.name + "-wal"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # gone, or a link that leads nowhere
        return 0
