"""What a database file says about itself: whose it is, and which migrations were applied to it.

`application_id` marks the files of this library, `schema_migrations` holds a row per migration, and `user_version`
repeats the newest of them, so that other tools see it. A `no-transaction` script that was begun has a row in
`schema_migrations_unfinished`, a table that exists only meanwhile.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from traceback import clear_frames

from betcore_async.clock import from_microseconds, to_microseconds
from betcore_async.errors import MigrationError, NotBetcoreDatabaseError
from betcore_async.sqlite.migration_files import Migration
from betcore_async.sqlite.migration_plan import (
    AppliedMigration,
    History,
    HistoryRow,
    Step,
    UnfinishedMigration,
    check_history,
    head_of,
)
from betcore_async.sqlite.retry import error_code

APPLICATION_ID = 0x42657443
"""`BetC`, in the header of every database file that this library made."""

BOOKKEEPING = ("schema_migrations", "schema_migrations_unfinished")
"""The tables kept here, which are no part of anybody's schema."""

_COLUMNS = ["version", "name", "checksum", "applied_at", "duration_ms"]
_CREATE_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version     INTEGER PRIMARY KEY CHECK (version >= 1),
    name        TEXT    NOT NULL,
    checksum    TEXT    NOT NULL,
    applied_at  INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL
) STRICT"""
_SELECT_HISTORY = """
SELECT version, name, checksum, applied_at, duration_ms
FROM schema_migrations
ORDER BY version"""
_UPSERT_ROW = """
INSERT INTO schema_migrations (version, name, checksum, applied_at, duration_ms)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (version) DO UPDATE SET name = excluded.name, checksum = excluded.checksum"""
_CREATE_UNFINISHED = """
CREATE TABLE IF NOT EXISTS schema_migrations_unfinished (
    version         INTEGER PRIMARY KEY,
    direction       TEXT    NOT NULL CHECK (direction IN ('up', 'down')),
    statements_done INTEGER NOT NULL,
    checksum        TEXT    NOT NULL,
    started_at      INTEGER NOT NULL
) STRICT"""
_SELECT_UNFINISHED = """
SELECT version, direction, statements_done, checksum, started_at
FROM schema_migrations_unfinished"""
_UPSERT_UNFINISHED = """
INSERT INTO schema_migrations_unfinished (version, direction, statements_done, checksum, started_at)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (version) DO UPDATE SET statements_done = excluded.statements_done, checksum = excluded.checksum"""
_TABLES = r"SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\'"


def read_history(connection: sqlite3.Connection) -> History:
    """Return what was applied to the database; an empty file has an empty history.

    Raises NotBetcoreDatabaseError for a database of something else, MigrationError for one whose records disagree.
    """
    with _snapshot(connection):
        owner, tables = _pragma(connection, "application_id"), _tables(connection)
        ours = owner == APPLICATION_ID or (owner == 0 and (not tables or _has_history(connection)))
        if not ours:
            raise _not_ours(connection, owner)
        history = _history(connection, tables)
        marked = _pragma(connection, "user_version")
        if marked != history.version:
            raise MigrationError(
                f"{file_of(connection)} contradicts itself: user_version is {marked}, schema_migrations ends at "
                f"{history.version}; find out who changed it, then set it right with a baseline",
                path=file_of(connection),
                user_version=marked,
                version=history.version,
            )
        return history


def mark_as_ours(connection: sqlite3.Connection) -> None:
    """Put the mark of this library on the file and make the table of its history, inside a transaction."""
    connection.execute(_CREATE_HISTORY)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def record_step(connection: sqlite3.Connection, step: Step, at: datetime, duration_ms: int) -> AppliedMigration:
    """Write down, inside the step's transaction, that it was taken."""
    migration = step.migration
    if step.direction == "up":
        row = (migration.version, migration.name, migration.checksum, to_microseconds(at), duration_ms)
        connection.execute(_UPSERT_ROW, row)
        version = migration.version
    else:
        connection.execute("DELETE FROM schema_migrations WHERE version = ?", (migration.version,))
        version = migration.version - 1
    connection.execute("DROP TABLE IF EXISTS schema_migrations_unfinished")
    connection.execute(f"PRAGMA user_version = {version}")
    return AppliedMigration(migration.version, migration.name, step.direction, step.script.path, at, duration_ms)


def record_progress(connection: sqlite3.Connection, step: Step, statements_done: int, started_at: datetime) -> None:
    """Write down how far a `no-transaction` script has come."""
    connection.execute(_CREATE_UNFINISHED)
    checksum = step.script.checksum_of(statements_done)
    row = (step.migration.version, step.direction, statements_done, checksum, to_microseconds(started_at))
    connection.execute(_UPSERT_UNFINISHED, row)


def check_baseline(connection: sqlite3.Connection, migrations: tuple[Migration, ...], version: int) -> None:
    """Raise what keeps a baseline of `version` from being recorded, if anything does. Changes nothing."""
    check_history(History(), migrations)
    if not 1 <= version <= head_of(migrations):
        raise MigrationError(
            f"there is no version {version}; versions go from 1 to {head_of(migrations)}", version=version
        )
    with _snapshot(connection):
        owner, tables = _pragma(connection, "application_id"), _tables(connection)
        if owner not in {0, APPLICATION_ID} or (BOOKKEEPING[0] in tables and not _has_history(connection)):
            raise _not_ours(connection, owner)
        history = _history(connection, tables)
    if history.rows and history.version != version:
        raise MigrationError(
            f"{file_of(connection)} has a history up to version {history.version}; migrate it instead",
            path=file_of(connection),
            version=history.version,
        )


def record_baseline(
    connection: sqlite3.Connection, migrations: tuple[Migration, ...], version: int, at: datetime
) -> bool:
    """Write down, inside a transaction, that migrations 1 to `version` are in the schema; False if that is known."""
    check_baseline(connection, migrations, version)
    known = [(row.version, row.name, row.checksum) for row in _history(connection, _tables(connection)).rows]
    marks = (_pragma(connection, "application_id"), _pragma(connection, "user_version"))
    wanted = [(migration.version, migration.name, migration.checksum) for migration in migrations[:version]]
    if (known, marks) == (wanted, (APPLICATION_ID, version)):
        return False
    mark_as_ours(connection)
    for migration in migrations[:version]:
        row = (migration.version, migration.name, migration.checksum, to_microseconds(at), 0)
        connection.execute(_UPSERT_ROW, row)
    connection.execute(f"PRAGMA user_version = {version}")
    return True


def file_of(connection: sqlite3.Connection) -> str:
    """Return the path of the main database, or a word for one in memory."""
    return str(connection.execute("PRAGMA database_list").fetchone()[2]) or "the in-memory database"


def insist(connection: sqlite3.Connection, sql: str) -> None:
    """Execute what must happen although the caller was cancelled: the interrupt that stopped its work may hit this."""
    while True:
        try:
            connection.execute(sql)
        except sqlite3.OperationalError as exc:
            if error_code(exc) != sqlite3.SQLITE_INTERRUPT:
                raise
            _close_cursors_behind(exc)
        else:
            return


def _close_cursors_behind(error: BaseException) -> None:
    # SQLite goes on interrupting for as long as any statement of the connection is open, and the tracebacks of what
    # stopped the work hold its cursors.
    stopped: BaseException | None = error
    while stopped is not None:
        clear_frames(stopped.__traceback__)
        stopped = stopped.__context__


def _history(connection: sqlite3.Connection, tables: set[str]) -> History:
    rows = connection.execute(_SELECT_HISTORY) if BOOKKEEPING[0] in tables else ()
    cut = connection.execute(_SELECT_UNFINISHED).fetchone() if BOOKKEEPING[1] in tables else None
    return History(
        tuple(
            HistoryRow(version, name, checksum, from_microseconds(at), duration)
            for version, name, checksum, at, duration in rows
        ),
        None if cut is None else UnfinishedMigration(cut[0], cut[1], cut[2], cut[3], from_microseconds(cut[4])),
        file_of(connection),
    )


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute(_TABLES)}


def _has_history(connection: sqlite3.Connection) -> bool:
    # Other tools have a table of this name, too. Ours, without the mark, is what is left after a dump and a restore.
    return [row[1] for row in connection.execute(f"PRAGMA table_info({BOOKKEEPING[0]})")] == _COLUMNS


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _not_ours(connection: sqlite3.Connection, owner: int) -> NotBetcoreDatabaseError:
    return NotBetcoreDatabaseError(
        f"{file_of(connection)} belongs to something else (application_id {owner}, and tables of its own); "
        "nothing was changed",
        path=file_of(connection),
        application_id=owner,
    )


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    # Several SELECTs must see one state of the file: between two of them a rival may commit.
    own = not connection.in_transaction
    if own:
        connection.execute("BEGIN")
    try:
        yield
    finally:
        if own and connection.in_transaction:
            insist(connection, "ROLLBACK")
