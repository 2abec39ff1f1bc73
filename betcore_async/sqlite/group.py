"""A group commit: many write functions, one BEGIN IMMEDIATE … COMMIT, each undone alone when it fails.

Everything here runs on the writer's thread and speaks to sqlite3 directly.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

from betcore_async.config import DatabaseSettings, Durability
from betcore_async.errors import CommitOutcomeUnknownError, DatabaseError, WriteTimeoutError
from betcore_async.sqlite.connection import Hooks
from betcore_async.sqlite.failures import plain, translated
from betcore_async.sqlite.raw import RawConnection
from betcore_async.sqlite.retry import error_code, is_busy
from betcore_async.sqlite.rows import Row
from betcore_async.sqlite.stats import Counters
from betcore_async.sqlite.waiting import Job, Line
from betcore_async.sqlite.watch import Watch

T = TypeVar("T")
Member = tuple[Job, Any, BaseException | None]

# The remark makes these texts ours in the statement cache: a write function's own COMMIT is always prepared anew,
# and so always meets the authorizer.
_BEGIN = "BEGIN IMMEDIATE /* group */"
_COMMIT = "COMMIT /* group */"
_ROLLBACK = "ROLLBACK /* group */"
_MEMBER = "betcore_member"
_SAVEPOINT = f"SAVEPOINT {_MEMBER} /* group */"
_RELEASE = f"RELEASE {_MEMBER} /* group */"
_UNDO = f"ROLLBACK TO {_MEMBER} /* group */"

CAREFUL_FOR = 32
"""Groups that run with savepoints after a member failed. Savepoints cost a third of the speed, and failures come in
swarms; as long as nobody fails, none are set."""

_UNKNOWN_AFTER = {sqlite3.SQLITE_IOERR}  # primary codes after which a COMMIT may or may not be on disk

_PRAGMAS_OF_THE_FILE = {"application_id", "defer_foreign_keys", "user_version"}
"""What a function may set: it is part of its transaction. Any other setting would outlive it."""
_PRAGMAS_THAT_ASK = {
    "foreign_key_check",
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
}
"""Their argument only says about what."""


class _UndoError(Exception):
    """Raised inside a member whose caller was cancelled."""


@dataclass(slots=True)
class GroupResult:
    """What became of one group."""

    done: list[Member] = field(default_factory=list)
    """Each member with its result or its error, to be told after the commit."""
    again: list[Job] = field(default_factory=list)
    """Members to run again because the group fell as a whole."""
    running: Job | None = None
    """The member that runs at the moment."""
    busy: BaseException | None = None
    """Set when another process was in the way: what is left is to be tried again after a pause."""
    broken: BaseException | None = None
    """Set when the connection has to be replaced."""
    committed: int = 0

    def succeeded(self) -> list[Member]:
        return [member for member in self.done if member[2] is None]

    def failed(self) -> list[Member]:
        return [member for member in self.done if member[2] is not None]


class GroupCommit:
    """Takes write functions from the line and commits them together."""

    def __init__(
        self,
        raw: RawConnection,
        settings: DatabaseSettings,
        counters: Counters,
        watch: Watch,
        hooks: Hooks,
    ) -> None:
        self._raw = raw
        self._watch = watch
        self._settings = settings
        self._counters = counters
        self._hooks = hooks
        self._synchronous = settings.synchronous
        self._theirs = False  # True while a function of the caller runs
        self._now = 0.0  # when the member that runs began, in monotonic seconds
        self._careful = 0  # groups that are still to be run with savepoints
        raw.set_authorizer(self._authorize)

    def _authorize(self, action: int, name: str | None, argument: str | None, *_: str | None) -> int:
        # A member that ended the transaction would commit its neighbours half-way; one that attached a file would make
        # BEGIN IMMEDIATE lock that file too; one that set something on the connection would set it for all.
        if not self._theirs:
            return sqlite3.SQLITE_OK
        refused = (
            action in {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_TRANSACTION}
            or (action == sqlite3.SQLITE_SAVEPOINT and argument == _MEMBER)
            or (action == sqlite3.SQLITE_PRAGMA and argument is not None and not _may_set(name))
        )
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    def control(self, sql: str) -> None:
        """Execute a statement of our own."""
        sqlite3.Connection.execute(self._raw, sql)

    def call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Return `function(connection)`, kept from ending the transaction and from leaving anything behind."""
        self._theirs = True
        try:
            return plain(function(self._raw))
        finally:
            self._theirs = False
            self._raw.row_factory = Row
            self._raw.text_factory = str

    def begin(self, durability: Durability) -> None:
        """Begin a write transaction that will commit with `durability`.

        Raises sqlite3's BUSY at once, and what `after_begin` raises; none is open then.
        """
        if durability is not self._synchronous:
            # Cannot be changed inside a transaction; costs microseconds outside of one.
            self.control(f"PRAGMA synchronous = {durability.value}")
            self._synchronous = durability
        self.control(_BEGIN)
        self._raw.held = True
        if self._hooks.after_begin is not None:
            try:
                self._hooks.after_begin(self._raw)
            except BaseException:
                self.rollback()
                raise

    def commit(self) -> None:
        """Commit; raises CommitOutcomeUnknownError where nobody can say whether it took place."""
        if self._hooks.before_commit is not None:
            self._hooks.before_commit(self._raw)
        self._raw.close_cursors()
        try:
            self.control(_COMMIT)
        except sqlite3.Error as error:
            if error_code(error) & 0xFF in _UNKNOWN_AFTER:
                raise CommitOutcomeUnknownError(
                    f"COMMIT failed ({error}) and may or may not have taken place; look before you repeat it"
                ) from error
            raise
        self._raw.held = False
        self._counters.commits += 1

    def rollback(self) -> None:
        """Roll back what is open; does nothing where SQLite has done so already."""
        self._raw.close_cursors()
        if self._raw.in_transaction:
            self.control(_ROLLBACK)
        self._raw.held = False

    def run(self, line: Line) -> GroupResult | None:
        """Run one group from the head of the line; None when no job stands there. Never raises."""
        head = line.head()
        if not isinstance(head, Job):
            return None
        result, started = GroupResult(), monotonic()
        try:
            self._run(line, head, result)
        except BaseException as error:  # noqa: BLE001 - the thread has nobody above it; the callers are told
            self._fallen(result, error)
        self._raw.tally.used += monotonic() - started
        return result

    def _run(self, line: Line, head: Job, result: GroupResult) -> None:
        try:
            self.begin(head.durability)
        except sqlite3.Error as error:
            if not is_busy(error):
                result.running = line.take_job()
                raise
            result.busy = error
            return
        except Exception as error:  # noqa: BLE001 - of `after_begin`; trying again would end the same
            while (job := line.take_job(head)) is not None:
                result.done.append((job, None, error))
            return
        self._members(line, result, head)
        self._end(result)

    def _members(self, line: Line, result: GroupResult, head: Job) -> None:
        self._now = monotonic()
        ends = self._now + self._settings.group_max_time.total_seconds()
        member = self._careful_member if self._careful else self._quick_member
        self._careful = max(self._careful - 1, 0)
        while (job := line.take_job(head)) is not None:
            result.running = job
            if not job.attempts:
                self._raw.tally.waited += self._now - job.enqueued_at
            member(job, result)
            result.running = None
            fell, self._now = not self._raw.in_transaction or result.again, monotonic()
            if fell or job.alone or len(result.done) >= self._settings.group_max_writes or self._now >= ends:
                return

    def _quick_member(self, job: Job, result: GroupResult) -> None:
        """Run a member without a savepoint; if it fails, everybody so far is run again with one each."""
        try:
            value = self._run_member(job)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the caller
            self._careful = CAREFUL_FOR
            if not result.done or _was_stopped(job, error):
                self.rollback()
                self._again(result, alone=False)
                result.done.append((job, None, translated(error)))
            else:
                result.done.append((job, None, None))
                self._again(result, alone=False)
        else:
            result.done.append((job, value, None))

    def _careful_member(self, job: Job, result: GroupResult) -> None:
        """Run a member under a savepoint, so that it can be undone alone."""
        self.control(_SAVEPOINT)
        try:
            value = self._run_member(job)
            self.control(_RELEASE)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the caller
            self._careful = CAREFUL_FOR
            self._raw.close_cursors()
            if self._raw.in_transaction:
                self.control(_UNDO)
                self.control(_RELEASE)
            result.done.append((job, None, translated(error)))
        else:
            result.done.append((job, value, None))

    def _run_member(self, job: Job) -> Any:
        self._watch.begin(self._raw, job, self._now)  # before the look at `cancelled`: see there
        try:
            if job.cancelled:
                raise _UndoError
            value = self.call(job.function)
        finally:
            self._watch.end()
        if job.cancelled:
            raise _UndoError
        self._raw.close_cursors()
        self._raw.check()
        return value

    def _end(self, result: GroupResult) -> None:
        try:
            if result.again:
                self.rollback()
            elif not self._raw.in_transaction:
                self._split(result)
            elif (succeeded := len(result.succeeded())) == 0:
                self.rollback()
            else:
                self.commit()
                result.committed = succeeded
        except CommitOutcomeUnknownError as error:
            result.broken = error
            result.done = [(job, None, own or error) for job, _, own in result.done]
        except sqlite3.Error as error:
            self.rollback()
            self._failed_at_commit(result, error)

    def _split(self, result: GroupResult) -> None:
        """Blame the last member for a transaction that is gone (INSERT OR ROLLBACK, an interrupt)."""
        self.rollback()
        if len(result.done) == 1 and result.failed():
            return
        job, _, error = result.done.pop()
        self._again(result, alone=not _was_stopped(job, error))
        result.done.append((job, None, error or DatabaseError("the write function ended its transaction")))

    def _failed_at_commit(self, result: GroupResult, error: sqlite3.Error) -> None:
        """Find who made COMMIT fail (a deferred foreign key, a full disk): everybody again, alone."""
        succeeded = result.succeeded()
        if is_busy(error):
            result.busy = error
            self._again(result)
        elif len(succeeded) == 1:
            result.done = [*result.failed(), (succeeded[0][0], None, translated(error))]
        else:
            self._again(result)

    def _again(self, result: GroupResult, *, alone: bool = True) -> None:
        """Let the members that did nothing wrong run again; each `alone` where nobody knows who is to blame."""
        result.again = [job for job, _, _ in result.succeeded()]
        result.done = result.failed()
        for job in result.again:
            job.alone = job.alone or alone
            job.attempts += 1
        self._counters.groups_split += bool(result.again)

    def _fallen(self, result: GroupResult, error: BaseException) -> None:
        """Give up the connection: whoever ran is told why, the others run again on the next one, but only once."""
        result.broken = error
        told = translated(error)
        members = [*result.done, *((job, None, None) for job in result.again if job is not result.running)]
        if result.running is not None:
            members.append((result.running, None, told))
        result.done = [(job, value, own or (told if job.alone else None)) for job, value, own in members]
        self._again(result)


def _was_stopped(job: Job, error: BaseException | None) -> bool:
    return job.cancelled or isinstance(error, WriteTimeoutError)


def _may_set(pragma: str | None) -> bool:
    return (pragma or "").lower() in _PRAGMAS_OF_THE_FILE or (pragma or "").lower() in _PRAGMAS_THAT_ASK
