"""Whether a week is of the same database as the weeks beside it: one chain of the ledger runs through all of them."""

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from betcore_async.errors import ArchiveDamagedError, ArchiveError, BetcoreError, PartitionDamagedError
from betcore_async.partitions.archive_manifest import Manifest, read_record
from betcore_async.partitions.catalog import Partition, ask, is_plain
from betcore_async.partitions.files import Family
from betcore_async.partitions.week import Week

_ENDS = """
SELECT
    (SELECT hash FROM ledger_chain WHERE seq = 0),
    (SELECT hash FROM ledger_chain ORDER BY seq DESC LIMIT 1)
"""
"""The hash with which a week began, and its last one."""


def insist_in_line(family: Family, file: Path, manifest: Manifest) -> None:
    """Raise ArchiveError where a week beside it, which is here, shows that a file is another database's.

    For a week without a record; where there is one, that tells.
    """
    with contextlib.suppress(ArchiveDamagedError):
        read_record(family, manifest.week)
        return
    before = None if manifest.predecessor is None else family.path_of(manifest.predecessor)
    if misfit := _misfit(file, before, family.path_of(manifest.successor)):
        text = f"{manifest.location} holds {manifest.week} of another database: {misfit}, which is here, does not fit"
        raise ArchiveError(text, week=manifest.week, location=manifest.location)


def insist_on_same_database(entry: Partition, weeks: Mapping[Week, Partition]) -> None:
    """Raise PartitionDamagedError where one of the weeks, which are here, shows that a file is another database's."""
    before, after = (
        weeks[week].path if week is not None and week in weeks else None
        for week in (entry.predecessor, entry.successor)
    )
    if misfit := _misfit(entry.path, before, after):
        reason = "another database"
        text = f"{entry.path} cannot be attached: it is of another database, {misfit} does not fit"
        raise PartitionDamagedError(text, path=entry.path, reason=reason)


def _misfit(file: Path, before: Path | None, after: Path | None) -> Path | None:
    """Return which of the weeks before and after does not go on where a file began or ended; None for neither."""
    began, ended = ask(file, _ends)
    for here, path, end in ((began, before, 1), (ended, after, 0)):
        there = None if path is None else _end_of(path, end)
        if None not in {here, there} and here != there:
            return path
    return None


def _end_of(path: Path, end: int) -> bytes | None:
    with contextlib.suppress(sqlite3.DatabaseError, BetcoreError):  # what cannot be asked cannot tell
        return ask(path, _ends)[end] if is_plain(path) else None
    return None


def _ends(raw: sqlite3.Connection) -> tuple[bytes | None, bytes | None]:
    began, ended = raw.execute(_ENDS).fetchone()
    return began, ended
