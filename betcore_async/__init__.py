"""The asyncio data layer of a betting platform: SQLite by the week, prices and live messages in Redis.

async with Betcore() as core:
    user = await core.users.create("0xabc", opening_balance=10_000)
    bet = await core.bets.place(user.id, "BTC-USD:46300-46400", amount=500, reward_rate=1.9)
"""

from betcore_async.app import Betcore
from betcore_async.asgi import RequestContextMiddleware
from betcore_async.clock import Clock, ManualClock, system_clock
from betcore_async.config import (
    DatabaseSettings,
    Durability,
    LogSettings,
    PartitionsSettings,
    PricesSettings,
    RedisSettings,
    Settings,
)
from betcore_async.health import Health, Stats
from betcore_async.logs import bind_request_id, configure_logging, get_logger
from betcore_async.models import Bet, BetStatus, Candle, LedgerEntry, PricePoint, User
from betcore_async.partitions import BetPage, BetTotals, Cursor, PartitionInfo, PartitionManager, RotationReport, Week
from betcore_async.redis import EmbeddedRedis, Gap, Message, PriceCache, PubSubHub, Reconnected, RedisClient
from betcore_async.sqlite import ExecuteResult, PoolHealth, PoolStats, Row, SQLitePool, Transaction
from betcore_async.sqlite.migrations import Migrator
from betcore_async.stores import AuditReport, BetStore, LedgerStore, UserStore, Violation

__all__ = [
    "AuditReport",
    "Bet",
    "BetPage",
    "BetStatus",
    "BetStore",
    "BetTotals",
    "Betcore",
    "Candle",
    "Clock",
    "Cursor",
    "DatabaseSettings",
    "Durability",
    "EmbeddedRedis",
    "ExecuteResult",
    "Gap",
    "Health",
    "LedgerEntry",
    "LedgerStore",
    "LogSettings",
    "ManualClock",
    "Message",
    "Migrator",
    "PartitionInfo",
    "PartitionManager",
    "PartitionsSettings",
    "PoolHealth",
    "PoolStats",
    "PriceCache",
    "PricePoint",
    "PricesSettings",
    "PubSubHub",
    "Reconnected",
    "RedisClient",
    "RedisSettings",
    "RequestContextMiddleware",
    "RotationReport",
    "Row",
    "SQLitePool",
    "Settings",
    "Stats",
    "Transaction",
    "User",
    "UserStore",
    "Violation",
    "Week",
    "bind_request_id",
    "configure_logging",
    "get_logger",
    "system_clock",
]
