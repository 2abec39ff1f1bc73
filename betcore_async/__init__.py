"""The asyncio data layer of a betting platform: SQLite by the week, prices and live messages in Redis.

async with Betcore() as core:
    user = await core.users.create("0xabc", opening_balance=10_000)
    bet = await core.bets.place(user.id, "BTC-USD:46300-46400", amount=500, reward_rate=1.9)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from betcore_async.app import Betcore
    from betcore_async.asgi import RequestContextMiddleware
    from betcore_async.clock import Clock, ManualClock, system_clock
    from betcore_async.config import (
        DatabaseSettings,
        Durability,
        EventSettings,
        LogSettings,
        PartitionSettings,
        PriceSettings,
        RedisSettings,
        Settings,
    )
    from betcore_async.errors import (
        ArchiveDamagedError,
        ArchiveError,
        BalanceLimitError,
        BetcoreError,
        BetNotFoundError,
        BusyTimeoutError,
        CellClosedError,
        CommitOutcomeUnknownError,
        ConcurrentUpdateError,
        ConfigError,
        DatabaseError,
        DuplicateMigrationError,
        FeedError,
        IdempotencyConflictError,
        InsufficientFundsError,
        InvalidTransitionError,
        LedgerError,
        MigrationDownMissingError,
        MigrationEditedError,
        MigrationError,
        MigrationFileError,
        MigrationGapError,
        MigrationMissingError,
        MigrationStatementError,
        ModelError,
        NotBetcoreDatabaseError,
        PartitionArchivedError,
        PartitionDamagedError,
        PartitionError,
        PartitionMissingError,
        PartitionSealedError,
        PoolClosedError,
        PoolTimeoutError,
        RedisAuthError,
        RedisClosedError,
        RedisCommandError,
        RedisCrossSlotError,
        RedisError,
        RedisLockError,
        RedisOutcomeUnknownError,
        RedisTimeoutError,
        RedisUnavailableError,
        RotationError,
        SchemaDriftError,
        SchemaTooNewError,
        SlowSubscriberError,
        StorageFullError,
        TooManyWaitersError,
        UserExistsError,
        UserNotFoundError,
        WalUnavailableError,
        WriteTimeoutError,
    )
    from betcore_async.health import Health, Stats
    from betcore_async.logs import bind_request_id, configure_logging, get_logger
    from betcore_async.models import Bet, BetStatus, Candle, LedgerEntry, PricePoint, User
    from betcore_async.partitions import (
        ArchiveInfo,
        ArchiveProgress,
        AutoRotation,
        BetCount,
        BetPage,
        BetTotals,
        Cursor,
        PartitionInfo,
        PartitionManager,
        PartitionRouter,
        QueryRows,
        RotationReport,
        VerifyReport,
        Week,
    )
    from betcore_async.redis import EmbeddedRedis, Gap, Message, PriceCache, PubSubHub, Reconnected, RedisClient
    from betcore_async.relay import OutboxRelay, RelayStats
    from betcore_async.sqlite import ExecuteResult, PoolHealth, PoolStats, Row, SQLitePool, Transaction
    from betcore_async.sqlite.migrations import Migrator
    from betcore_async.stores import (
        AuditReport,
        BetStore,
        CellSettlement,
        Event,
        EventKind,
        LedgerStore,
        NewBet,
        Unchecked,
        UserStore,
        Violation,
    )

__all__ = [
    "ArchiveDamagedError",
    "ArchiveError",
    "ArchiveInfo",
    "ArchiveProgress",
    "AuditReport",
    "AutoRotation",
    "BalanceLimitError",
    "Bet",
    "BetCount",
    "BetNotFoundError",
    "BetPage",
    "BetStatus",
    "BetStore",
    "BetTotals",
    "Betcore",
    "BetcoreError",
    "BusyTimeoutError",
    "Candle",
    "CellClosedError",
    "CellSettlement",
    "Clock",
    "CommitOutcomeUnknownError",
    "ConcurrentUpdateError",
    "ConfigError",
    "Cursor",
    "DatabaseError",
    "DatabaseSettings",
    "DuplicateMigrationError",
    "Durability",
    "EmbeddedRedis",
    "Event",
    "EventKind",
    "EventSettings",
    "ExecuteResult",
    "FeedError",
    "Gap",
    "Health",
    "IdempotencyConflictError",
    "InsufficientFundsError",
    "InvalidTransitionError",
    "LedgerEntry",
    "LedgerError",
    "LedgerStore",
    "LogSettings",
    "ManualClock",
    "Message",
    "MigrationDownMissingError",
    "MigrationEditedError",
    "MigrationError",
    "MigrationFileError",
    "MigrationGapError",
    "MigrationMissingError",
    "MigrationStatementError",
    "Migrator",
    "ModelError",
    "NewBet",
    "NotBetcoreDatabaseError",
    "OutboxRelay",
    "PartitionArchivedError",
    "PartitionDamagedError",
    "PartitionError",
    "PartitionInfo",
    "PartitionManager",
    "PartitionMissingError",
    "PartitionRouter",
    "PartitionSealedError",
    "PartitionSettings",
    "PoolClosedError",
    "PoolHealth",
    "PoolStats",
    "PoolTimeoutError",
    "PriceCache",
    "PricePoint",
    "PriceSettings",
    "PubSubHub",
    "QueryRows",
    "Reconnected",
    "RedisAuthError",
    "RedisClient",
    "RedisClosedError",
    "RedisCommandError",
    "RedisCrossSlotError",
    "RedisError",
    "RedisLockError",
    "RedisOutcomeUnknownError",
    "RedisSettings",
    "RedisTimeoutError",
    "RedisUnavailableError",
    "RelayStats",
    "RequestContextMiddleware",
    "RotationError",
    "RotationReport",
    "Row",
    "SQLitePool",
    "SchemaDriftError",
    "SchemaTooNewError",
    "Settings",
    "SlowSubscriberError",
    "Stats",
    "StorageFullError",
    "TooManyWaitersError",
    "Transaction",
    "Unchecked",
    "User",
    "UserExistsError",
    "UserNotFoundError",
    "UserStore",
    "VerifyReport",
    "Violation",
    "WalUnavailableError",
    "Week",
    "WriteTimeoutError",
    "bind_request_id",
    "configure_logging",
    "get_logger",
    "system_clock",
]

# Imported when first asked for, from the first of these that has the name: `betcore --help`, or a program that wants
# the pool alone, does not load the rest.
_MODULES = (
    *("errors", "clock", "config", "models", "sqlite", "sqlite.migrations", "redis", "partitions", "stores"),
    *("logs", "asgi", "relay", "health", "app"),
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            home = import_module(f"{__name__}.{module}")
            if hasattr(home, name):
                value = globals()[name] = getattr(home, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
