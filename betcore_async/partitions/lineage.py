"""Whether a week is of the same database as the weeks beside it: one chain of the ledger runs through all of them."""

import contextlib
import sqlite3
from pathlib import Path

from betcore_async.errors import ArchiveDamagedError, ArchiveError, BetcoreError
from betcore_async.partitions.archive_manifest import Manifest, read_record
from betcore_async.partitions.catalog import ask, is_plain
from betcore_async.partitions.files import Family

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
    began, ended = ask(file, _ends)
    for week, here, end in ((manifest.predecessor, began, 1), (manifest.successor, ended, 0)):
        there = None if week is None else _end_of(family.path_of(week), end)
        if None not in {here, there} and here != there:
            text = f"{manifest.location} holds {manifest.week} of another database: {week}, which is here, does not fit"
            raise ArchiveError(text, week=manifest.week, location=manifest.location)


def _end_of(path: Path, end: int) -> bytes | None:
    with contextlib.suppress(sqlite3.DatabaseError, BetcoreError):  # what cannot be asked cannot tell
        return ask(path, _ends)[end] if is_plain(path) else None
    return None


def _ends(raw: sqlite3.Connection) -> tuple[bytes | None, bytes | None]:
    began, ended = raw.execute(_ENDS).fetchone()
    return began, ended
