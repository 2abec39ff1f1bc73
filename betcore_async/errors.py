"""Every error this library raises on purpose, in one tree.

    BetcoreError
    ├── ConfigError
    ├── ModelError                          (also a ValueError)
    ├── FeedError
    ├── DatabaseError
    │   ├── BusyTimeoutError                another process held the lock for the whole budget
    │   ├── WriteTimeoutError               a write function ran away and was stopped
    │   ├── PoolTimeoutError                no connection came free in time
    │   ├── TooManyWaitersError             the waiting line is full
    │   ├── PoolClosedError                 not opened yet, closed, or used from another loop or process
    │   ├── CommitOutcomeUnknownError       the COMMIT may or may not have happened
    │   ├── StorageFullError
    │   └── WalUnavailableError
    ├── MigrationError
    │   ├── MigrationGapError               a number is missing between two files
    │   ├── DuplicateMigrationError         two files claim one number
    │   ├── MigrationEditedError            the file changed after it was applied
    │   ├── MigrationMissingError           applied, but no longer on disk
    │   ├── MigrationDownMissingError       there is no .down.sql to go back with
    │   ├── MigrationFileError              a file that cannot be run as a migration
    │   ├── MigrationStatementError         a statement failed
    │   ├── SchemaTooNewError               the database is newer than this code
    │   ├── SchemaDriftError                the schema was changed by hand
    │   └── NotBetcoreDatabaseError         the file belongs to something else
    ├── PartitionError
    │   ├── PartitionMissingError
    │   ├── PartitionArchivedError
    │   ├── PartitionDamagedError
    │   ├── PartitionSealedError            the library follows by itself; seen by raw SQL only
    │   ├── ArchiveError                    the archive refuses, cannot be reached, or belongs to others
    │   │   └── ArchiveDamagedError         it does not hold what was put into it
    │   └── RotationError
    ├── LedgerError
    │   ├── InsufficientFundsError
    │   ├── UserNotFoundError
    │   ├── UserExistsError
    │   ├── BetNotFoundError
    │   ├── InvalidTransitionError
    │   ├── CellClosedError
    │   ├── BalanceLimitError               a balance cannot grow beyond 2^63 - 1
    │   ├── IdempotencyConflictError
    │   └── ConcurrentUpdateError
    └── RedisError
        ├── RedisUnavailableError
        │   └── RedisAuthError
        ├── RedisTimeoutError
        ├── RedisOutcomeUnknownError
        ├── RedisCommandError               the server answered with an error
        │   └── RedisCrossSlotError         keys on different servers of a cluster, where they have to be on one
        ├── RedisClosedError                not opened yet, or closed
        ├── RedisLockError                  a lock was not had in time, or was lost
        └── SlowSubscriberError             a subscription was ended because its reader fell behind

The text says what went wrong and what to do; the attributes carry the facts, so that no caller parses a text.
Errors of aiosqlite, sqlite3 and redis are translated once, where they enter, with the original as `__cause__`. Those
of a caller's own SQL pass as they are: a constraint that a statement breaks is a `sqlite3.IntegrityError`.
"""

from typing import Any

_SHOWN = 100
"""Characters of a value that an error tells; more of them say no more."""


def shown(value: object) -> str:
    """Return how an error tells of a value that it refuses: the beginning of its repr."""
    try:
        return repr(value)[:_SHOWN]
    except ValueError:  # an int of more digits than Python writes out
        return f"one {type(value).__name__} of very many digits"


class BetcoreError(Exception):
    """Root of every error of this library. `facts` holds its attributes by name."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __getattr__(self, name: str) -> Any:
        # Looked up only when normal attribute access failed; `facts` itself may be missing while unpickling.
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.facts))


def _rebuild(kind: type[BetcoreError], message: str, facts: dict[str, Any]) -> BetcoreError:
    return kind(message, **facts)


class ConfigError(BetcoreError):
    """Settings that cannot be used. `problems` maps each variable name to what is wrong with it."""


class ModelError(BetcoreError, ValueError):
    """A value outside what a model or a command allows. `field` names it."""


class FeedError(BetcoreError):
    """A price feed that cannot be read. `source` and `line` say where."""


class DatabaseError(BetcoreError):
    """SQLite could not do what was asked."""


class BusyTimeoutError(DatabaseError):
    """Another connection held the lock for the whole busy budget. `waited` (seconds), `attempts`."""


class WriteTimeoutError(DatabaseError):
    """A write function ran longer than DB_WRITE_TIMEOUT; it was stopped and undone. `ran`, `limit` (seconds)."""


class PoolTimeoutError(DatabaseError):
    """No connection came free in time. `waited` (seconds)."""


class TooManyWaitersError(DatabaseError):
    """The bounded waiting line of the pool is full. `limit`."""


class PoolClosedError(DatabaseError):
    """The pool is not open, or is used from a loop or a process it was not opened in."""


class CommitOutcomeUnknownError(DatabaseError):
    """COMMIT failed in a way that leaves open whether it took place: look before you repeat."""


class StorageFullError(DatabaseError):
    """The disk (or the file's page limit) is full; nothing of the transaction was kept."""


class WalUnavailableError(DatabaseError):
    """The file or its file system refuses WAL mode. `path`, `journal_mode`."""


class MigrationError(BetcoreError):
    """A migration cannot run. `path` or `version` say which."""


class MigrationGapError(MigrationError):
    """A number is missing between two migration files."""


class DuplicateMigrationError(MigrationError):
    """Two migration files claim one number."""


class MigrationEditedError(MigrationError):
    """A migration file changed after it was applied."""


class MigrationMissingError(MigrationError):
    """A migration that was applied is not on disk any more."""


class MigrationDownMissingError(MigrationError):
    """There is no `.down.sql` to go back with."""


class MigrationFileError(MigrationError):
    """A file that cannot be run as a migration."""


class MigrationStatementError(MigrationError):
    """A statement failed. `path`, `statement` (its number, from 1), `line`."""


class SchemaTooNewError(MigrationError):
    """The database was migrated by a newer version of this library."""


class SchemaDriftError(MigrationError):
    """The schema is not what its migrations make. `path`; `missing`, `unexpected`, `changed`: lists of objects."""


class NotBetcoreDatabaseError(MigrationError):
    """The file is not one of ours (its application_id differs). `path`."""


class PartitionError(BetcoreError):
    """A weekly file cannot be used. `week`, `path`."""


class PartitionMissingError(PartitionError):
    """A query reaches weeks whose file is not there. `weeks`."""


class PartitionArchivedError(PartitionError):
    """A query reaches weeks that were archived. `weeks`, `location`."""


class PartitionDamagedError(PartitionError):
    """A weekly file is not what its name says or cannot be read. `path`, `reason`."""


class PartitionSealedError(PartitionError):
    """The file was sealed by a rotation; writes go to `successor`."""


class ArchiveError(PartitionError):
    """The archive cannot be used: unreachable, full, refused, or it belongs to another database. `location`."""


class ArchiveDamagedError(ArchiveError):
    """The archive does not hold what was put into it; nothing of it was used. `location`."""


class RotationError(PartitionError):
    """A rotation was refused or failed before its commit point; the old week stays live."""


class LedgerError(BetcoreError):
    """The domain says no; nothing was changed."""


class InsufficientFundsError(LedgerError):
    """The balance is too low. `user_id`, `amount`; of a withdrawal or transfer `balance`, of a bet `bet`, its row."""


class UserNotFoundError(LedgerError):
    """There is no such user. `user_id` or `wallet_address`."""


class UserExistsError(LedgerError):
    """The wallet address or the id is taken. `wallet_address`."""


class BetNotFoundError(LedgerError):
    """There is no such bet. `bet_id`."""


class InvalidTransitionError(LedgerError):
    """A status change the state machine does not allow. `bet_id`, `status`, `wanted`."""


class CellClosedError(LedgerError):
    """The cell was settled: it takes no more bets, and cannot be settled the other way. `cell_id`, `won`."""


class BalanceLimitError(LedgerError):
    """A balance would grow beyond 2^63 - 1. `user_id`, `amount`.

    Of a payout or a refund also `bet_id`, the bet that stays open; of a cell `bet_ids`, the bets that stay open, and
    `settled`, what became of all others.
    """


class IdempotencyConflictError(LedgerError):
    """The id was used before with other terms. `id`."""


class ConcurrentUpdateError(LedgerError):
    """The user changed since they were read. `user_id`, `expected`, `version`: the one asked for, the one there is."""


class RedisError(BetcoreError):
    """Redis could not do what was asked."""


class RedisUnavailableError(RedisError):
    """No server answered at `address`; the command was surely not applied."""


class RedisAuthError(RedisUnavailableError):
    """The server refused the user name or password. The password is never part of the error."""


class RedisTimeoutError(RedisError):
    """A command that is safe to repeat did not answer within its deadline. `waited` (seconds)."""


class RedisOutcomeUnknownError(RedisError):
    """The connection broke after the command was sent: it may or may not have been applied. `command`."""


class RedisCommandError(RedisError):
    """The server answered with an error: wrong type, out of memory, read-only replica, loading … `command`."""


class RedisCrossSlotError(RedisCommandError):
    """Keys that have to be on one server of a cluster are not: a part in common, in braces, brings them together.

    Nothing was applied. `command`.
    """


class RedisClosedError(RedisError):
    """The client, hub or pipeline is not open: use it inside its `async with` block."""


class RedisLockError(RedisError):
    """A lock was not had in time, or expired before its holder was done. `name`."""


class SlowSubscriberError(RedisError):
    """A subscription was ended because its reader fell too far behind. `channels`, `policy`."""
