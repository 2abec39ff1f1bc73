"""Migrations run on one `sqlite3.Connection`, synchronously.

A step and its row in `schema_migrations` are one BEGIN IMMEDIATE transaction, and the history is read again inside it.
So any number of processes may run this at once, and a killed one leaves neither a lock nor a half-done step. A
`no-transaction` script is a transaction for each statement instead, which writes down its progress; whoever comes next
goes on behind the last statement that was done.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from betcore_async.clock import Clock, system_clock
from betcore_async.errors import (
    CommitOutcomeUnknownError,
    MigrationError,
    MigrationStatementError,
)
from betcore_async.sqlite.migration_files import Migration, Script
from betcore_async.sqlite.migration_history import (
    insist,
    mark_as_ours,
    read_history,
    record_baseline,
    record_progress,
    record_step,
)
from betcore_async.sqlite.migration_plan import AppliedMigration, Direction, Step, head_of, plan_steps
from betcore_async.sqlite.retry import error_code

_PRIMARY = 0xFF  # an extended result code carries its primary code in the low byte
_NOT_THE_STATEMENT = {  # errors that say nothing about the SQL
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_CORRUPT,
}
_OUTSIDE_TRANSACTION = {"VACUUM", "PRAGMA"}  # one refuses to run inside of one, the other may silently do nothing

NextStep = Callable[[], Step | None]


def migrate_connection(
    connection: sqlite3.Connection,
    migrations: tuple[Migration, ...],
    target: int | None = None,
    *,
    clock: Clock = system_clock,
) -> list[AppliedMigration]:
    """Bring the database of `connection` up to version `target` (default: head) and return the steps that were taken.

    For code that already stands on a connection's thread, such as one that makes a new file at head. Works in every
    journal mode; with `journal_mode = OFF` a failed step cannot be rolled back, so throw such a file away on any error.
    Raises what `take_step` raises, SQLite's BUSY included: wait outside and call it again.
    """
    goal = head_of(migrations) if target is None else target
    taken = []
    while (applied := take_step(connection, migrations, goal, "up", clock=clock)) is not None:
        taken.append(applied)
    return taken


def take_step(
    connection: sqlite3.Connection,
    migrations: tuple[Migration, ...],
    target: int,
    direction: Direction,
    *,
    clock: Clock = system_clock,
) -> AppliedMigration | None:
    """Take the next step towards `target` and return it; None when there is none left in this `direction`.

    Raises what `read_history` and `plan_steps` raise; MigrationStatementError for a statement that failed;
    CommitOutcomeUnknownError; sqlite3.OperationalError for BUSY, after which it may be called again; other sqlite3
    errors (disk full, I/O) as they are.
    """
    if connection.in_transaction:
        raise MigrationError("migrations need a connection that is not inside a transaction")

    def next_step() -> Step | None:
        # With the direction, `up` never turns into `down` because a rival went past its target.
        steps = plan_steps(read_history(connection), migrations, target, direction)
        return steps[0] if steps else None

    while (step := next_step()) is not None:
        run = _run_whole if step.script.transaction else _run_piecewise
        applied = run(connection, step, next_step, clock)
        if applied is not None:  # else a rival took this step
            return applied
    return None


def take_baseline(
    connection: sqlite3.Connection, migrations: tuple[Migration, ...], version: int, *, clock: Clock = system_clock
) -> int | None:
    """Record migrations 1 to `version` as applied without running them; None when that is on record already.

    Raises what `check_baseline` raises.
    """
    with _transaction(connection, "the baseline"):
        return version if record_baseline(connection, migrations, version, clock()) else None


def _run_whole(
    connection: sqlite3.Connection, step: Step, next_step: NextStep, clock: Clock
) -> AppliedMigration | None:
    script = step.script
    with _foreign_keys(connection, script), _transaction(connection, script.path):
        if next_step() != step:
            return None
        mark_as_ours(connection)
        started = monotonic()
        for index in range(len(script.statements)):
            _execute(connection, script, index)
        if not script.foreign_keys:
            _check_foreign_keys(connection, script)
        _check_records(step, next_step)
        return record_step(connection, step, clock(), round((monotonic() - started) * 1000))


def _run_piecewise(
    connection: sqlite3.Connection, step: Step, next_step: NextStep, clock: Clock
) -> AppliedMigration | None:
    script = step.script
    if not _advance(connection, step, -1, next_step, clock):  # the mark that it was begun
        return None
    for index, statement in enumerate(script.statements):
        if statement.keyword in _OUTSIDE_TRANSACTION:
            # Run again by whoever resumes: harmless, and the settings of a connection went with it.
            _execute(connection, script, index)
        if not _advance(connection, step, index, next_step, clock):
            return None
    with _transaction(connection, script.path):
        cut = read_history(connection).unfinished
        if next_step() != step or cut is None:
            return None
        now = clock()
        return record_step(connection, step, now, max(0, round((now - cut.started_at).total_seconds() * 1000)))


def _advance(connection: sqlite3.Connection, step: Step, index: int, next_step: NextStep, clock: Clock) -> bool:
    """Take statement `index` and write that down, in one transaction, unless a rival did; False when all is over."""
    with _transaction(connection, step.script.path):
        if next_step() != step:
            return False
        mark_as_ours(connection)
        cut = read_history(connection).unfinished
        done = cut.statements_done if cut else -1
        if done < index:  # rivals finished it, took it back and began anew
            return False
        if done == index:
            if index >= 0 and step.script.statements[index].keyword not in _OUTSIDE_TRANSACTION:
                _execute(connection, step.script, index)
                _check_records(step, next_step)
            record_progress(connection, step, index + 1, cut.started_at if cut else clock())
        return True


def _execute(connection: sqlite3.Connection, script: Script, index: int) -> None:
    try:
        deque(connection.execute(script.statements[index].sql), maxlen=0)  # rows of a SELECT are run through, not kept
    except (sqlite3.Error, sqlite3.Warning) as exc:
        if error_code(exc) & _PRIMARY in _NOT_THE_STATEMENT:
            raise
        raise _failed(script, index, str(exc)) from exc
    if script.transaction and not connection.in_transaction:
        raise _failed(script, index, "it ended the transaction (OR ROLLBACK)")


def _failed(script: Script, index: int, reason: str) -> MigrationStatementError:
    line = script.statements[index].line
    return MigrationStatementError(
        f"{script.path}:{line}: statement {index + 1} failed: {reason}",
        path=script.path,
        statement=index + 1,
        line=line,
    )


def _check_records(step: Step, next_step: NextStep) -> None:
    if next_step() != step:
        raise MigrationStatementError(
            f"{step.script.path} changes the records of what was applied; they are the runner's own",
            path=step.script.path,
            statement=None,
            line=None,
        )


def _check_foreign_keys(connection: sqlite3.Connection, script: Script) -> None:
    broken = connection.execute("PRAGMA foreign_key_check").fetchmany(10)
    if broken:
        rows = "; ".join(f"{table} row {rowid} refers to nothing in {parent}" for table, rowid, parent, _ in broken)
        raise MigrationStatementError(
            f"{script.path} would leave rows without their parents: {rows}",
            path=script.path,
            statement=len(script.statements),
            line=script.statements[-1].line,
        )


@contextmanager
def _transaction(connection: sqlite3.Connection, path: str) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        _commit(connection, path)
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself after some errors
            insist(connection, "ROLLBACK")
        raise


def _commit(connection: sqlite3.Connection, path: str) -> None:
    try:
        connection.execute("COMMIT")
    except sqlite3.IntegrityError as exc:
        raise MigrationStatementError(
            f"{path}: COMMIT was refused: {exc}", path=path, statement=None, line=None
        ) from exc
    except sqlite3.Error as exc:
        if error_code(exc) & _PRIMARY == sqlite3.SQLITE_IOERR:
            raise CommitOutcomeUnknownError(
                f"{path}: COMMIT failed ({exc}) and may or may not have taken place; look at the status", path=path
            ) from exc
        raise


@contextmanager
def _foreign_keys(connection: sqlite3.Connection, script: Script) -> Iterator[None]:
    if script.foreign_keys:
        yield
        return
    # Inside a transaction this pragma is silently ignored, hence around it.
    (before,) = connection.execute("PRAGMA foreign_keys").fetchone()
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        insist(connection, f"PRAGMA foreign_keys = {before}")
