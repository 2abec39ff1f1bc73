"""What a weekly file says of itself: the one row of `partition_meta`."""

import sqlite3
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from betcore_async.errors import PartitionDamagedError
from betcore_async.partitions.week import Week


class PartitionState(StrEnum):
    LIVE = "live"
    """Takes writes (once its predecessor is sealed)."""
    SEALED = "sealed"
    """Read-only for good."""
    ARCHIVED = "archived"
    """Not here any more: its file was moved to the archive, a record of it stayed."""
    DAMAGED = "damaged"
    """Cannot be read, or is not what its name says; left alone and reported."""


@dataclass(frozen=True, slots=True)
class PartitionMeta:
    week: Week
    state: PartitionState
    predecessor: Week | None
    successor: Week | None


_READ = "SELECT week, state, predecessor, successor FROM {schema}.partition_meta WHERE id = 1"

_WRITE = """
INSERT INTO partition_meta (id, week, starts_at, ends_at, state, predecessor, created_at)
VALUES (1, ?, ?, ?, 'live', ?, ?)
"""

SEAL = "UPDATE partition_meta SET state = 'sealed', successor = ?, sealed_at = ? WHERE id = 1"


def read_meta(raw: sqlite3.Connection, path: Path, schema: str = "main") -> PartitionMeta:
    """Return what the file says. Raises PartitionDamagedError where it says nothing that makes sense."""
    try:
        row = raw.execute(_READ.format(schema=schema)).fetchone()
    except sqlite3.OperationalError as error:
        if not str(error).startswith(("no such table", "no such column")):
            raise
        row = None
    if row is None:
        raise PartitionDamagedError(f"{path} does not say which week it holds", path=path, reason="no partition_meta")
    week, state, predecessor, successor = row
    try:
        if state not in {PartitionState.LIVE, PartitionState.SEALED}:
            raise ValueError(f"the state {state!r}")
        meta = PartitionMeta(
            Week(week),
            PartitionState(state),
            Week(predecessor) if predecessor else None,
            Week(successor) if successor else None,
        )
        _insist_on_sense(meta)
        return meta
    except (ValueError, TypeError) as error:
        reason = "partition_meta makes no sense"
        raise PartitionDamagedError(
            f"{path} says of itself what cannot be: {error}", path=path, reason=reason
        ) from error


def _insist_on_sense(meta: PartitionMeta) -> None:
    """Raise ValueError where only one of state and successor says that it is sealed, or weeks are not in order."""
    if (meta.successor is not None) is not (meta.state is PartitionState.SEALED):
        raise ValueError(f"{meta.state}, successor {meta.successor}")
    if (meta.predecessor and meta.predecessor >= meta.week) or (meta.successor and meta.successor <= meta.week):
        raise ValueError(f"predecessor {meta.predecessor}, successor {meta.successor}")


def write_meta(raw: sqlite3.Connection, week: Week, predecessor: Week | None, now: int) -> None:
    """Write the row of a new file; `now` is in microseconds."""
    raw.execute(_WRITE, (week.name, week.starts_at, week.ends_at, predecessor and predecessor.name, now))
