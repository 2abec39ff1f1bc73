"""A group commit: many write functions, one BEGIN IMMEDIATE … COMMIT, each undone alone when it fails.

Everything here runs on the writer's thread and speaks to sqlite3 directly.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from betcore_async.config import DatabaseSettings, Durability
from betcore_async.errors import CommitOutcomeUnknownError, DatabaseError, StorageFullError
from betcore_async.sqlite.retry import error_code, is_busy
from betcore_async.sqlite.stats import Counters
from betcore_async.sqlite.waiting import Job, Line

# The remark makes these texts ours in the statement cache: a write function's own COMMIT is always prepared anew,
# and so always meets the authorizer.
_BEGIN = "BEGIN IMMEDIATE /* group */"
_COMMIT = "COMMIT /* group */"
_ROLLBACK = "ROLLBACK /* group */"
_SAVEPOINT = "SAVEPOINT betcore_member"
_RELEASE = "RELEASE betcore_member"
_UNDO = "ROLLBACK TO betcore_member"

_UNKNOWN_AFTER = {sqlite3.SQLITE_IOERR}  # primary codes after which a COMMIT may or may not be on disk


class _UndoError(Exception):
    """Raised inside a member whose caller was cancelled."""


@dataclass(slots=True)
class GroupResult:
    """What became of one group."""

    done: list[tuple[Job, Any, BaseException | None]] = field(default_factory=list)
    """Each member with its result or its error, to be told after the commit."""
    again: list[Job] = field(default_factory=list)
    """Members to run again, each alone, because the group fell as a whole."""
    busy: BaseException | None = None
    """Set when another process held the lock: nothing was run."""
    broken: BaseException | None = None
    """Set when the connection has to be replaced."""
    committed: int = 0


class GroupCommit:
    """Takes write functions from the line and commits them together."""

    def __init__(self, raw: sqlite3.Connection, settings: DatabaseSettings, counters: Counters) -> None:
        self._raw = raw
        self._settings = settings
        self._counters = counters
        self._synchronous = settings.synchronous
        self._ours = False  # True while the transaction statements being prepared are our own
        raw.set_authorizer(self._authorize)

    def _authorize(self, action: int, *_: str | None) -> int:
        # A member that ended the transaction would commit its neighbours half-way; one that attached a file would make
        # BEGIN IMMEDIATE lock that file too.
        if action == sqlite3.SQLITE_ATTACH or (action == sqlite3.SQLITE_TRANSACTION and not self._ours):
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def control(self, sql: str) -> None:
        """Execute a transaction statement of our own."""
        self._ours = True
        try:
            self._raw.execute(sql)
        finally:
            self._ours = False

    def begin(self, durability: Durability) -> None:
        """Begin a write transaction that will commit with `durability`. Raises sqlite3's BUSY at once."""
        if durability is not self._synchronous:
            # Cannot be changed inside a transaction; costs microseconds outside of one.
            self._raw.execute(f"PRAGMA synchronous = {durability.value}")
            self._synchronous = durability
        self.control(_BEGIN)

    def commit(self) -> None:
        """Commit; raises CommitOutcomeUnknownError where nobody can say whether it took place."""
        try:
            self.control(_COMMIT)
        except sqlite3.Error as error:
            if error_code(error) & 0xFF in _UNKNOWN_AFTER:
                raise CommitOutcomeUnknownError(
                    f"COMMIT failed ({error}) and may or may not have taken place; look before you repeat it"
                ) from error
            raise

    def rollback(self) -> None:
        """Roll back what is open; does nothing where SQLite has done so already."""
        if self._raw.in_transaction:
            self.control(_ROLLBACK)

    def run(self, line: Line) -> GroupResult | None:
        """Run one group from the head of the line; None when no job stands there."""
        head = line.head()
        if not isinstance(head, Job):
            return None
        durability, alone = head.durability, head.alone
        result = GroupResult()
        try:
            self.begin(durability)
        except sqlite3.Error as error:
            return self._refused(error, line, result)
        self._members(line, result, lambda job: job.durability is durability and job.alone is alone)
        self._end(result)
        return result

    def _refused(self, error: sqlite3.Error, line: Line, result: GroupResult) -> GroupResult:
        if is_busy(error):
            result.busy = error
        elif (job := line.take_job(lambda _: True)) is not None:
            result.broken = error
            result.done.append((job, None, translated(error)))
        return result

    def _members(self, line: Line, result: GroupResult, fits: Callable[[Job], bool]) -> None:
        ends = monotonic() + self._settings.group_max_time.total_seconds()
        while (job := line.take_job(fits)) is not None:
            result.done.append(self._member(job))
            fell = not self._raw.in_transaction
            if fell or job.alone or len(result.done) >= self._settings.group_max_writes or monotonic() >= ends:
                return

    def _member(self, job: Job) -> tuple[Job, Any, BaseException | None]:
        raw = self._raw
        raw.execute(_SAVEPOINT)
        try:
            value = job.function(raw)
            if job.cancelled:
                raise _UndoError
            raw.execute(_RELEASE)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the caller
            if raw.in_transaction:
                raw.execute(_UNDO)
                raw.execute(_RELEASE)
            return job, None, translated(error)
        return job, value, None

    def _end(self, result: GroupResult) -> None:
        members, failed = result.done, [error for _, _, error in result.done if error is not None]
        try:
            if not self._raw.in_transaction:
                self._split(result)
            elif len(failed) == len(members):
                self.rollback()
            else:
                self.commit()
                result.committed = len(members) - len(failed)
        except CommitOutcomeUnknownError as error:
            result.broken = error
            result.done = [(job, None, own or error) for job, _, own in members]
        except sqlite3.Error as error:
            self.rollback()
            self._failed_at_commit(result, error)

    def _split(self, result: GroupResult) -> None:
        """Blame the last member for a transaction that is gone (INSERT OR ROLLBACK, an interrupt)."""
        *innocent, (job, _, error) = result.done
        self._again(result, [member for member in innocent if member[2] is None])
        result.done = [member for member in innocent if member[2] is not None]
        result.done.append((job, None, error or DatabaseError("the write function ended its transaction")))

    def _failed_at_commit(self, result: GroupResult, error: sqlite3.Error) -> None:
        """Find who made COMMIT fail (a deferred foreign key, a full disk): everybody again, alone."""
        succeeded = [member for member in result.done if member[2] is None]
        result.done = [member for member in result.done if member[2] is not None]
        if len(succeeded) == 1 and not is_busy(error):
            result.done.append((succeeded[0][0], None, translated(error)))
        else:
            self._again(result, succeeded)

    def _again(self, result: GroupResult, members: list[tuple[Job, Any, BaseException | None]]) -> None:
        result.again = [job for job, _, _ in members]
        for job in result.again:
            job.alone = True
        self._counters.groups_split += bool(result.again)


def translated(error: BaseException) -> BaseException:
    """Return the error a caller should see for one that came out of SQLite; others pass as they are."""
    code = error_code(error) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        full = StorageFullError("the disk is full, nothing was written; make room and repeat")
        full.__cause__ = error
        return full
    if code == sqlite3.SQLITE_AUTH:
        refused = DatabaseError(
            "a write function must leave the transaction to the pool: no BEGIN, COMMIT, ROLLBACK or ATTACH "
            "(use pool.transaction() for a transaction of your own)"
        )
        refused.__cause__ = error
        return refused
    return error
