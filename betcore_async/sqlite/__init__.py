"""SQLite through aiosqlite: a pool with one group-committing writer and N readers, and migrations."""

from betcore_async.sqlite.pool import SQLitePool
from betcore_async.sqlite.rows import ExecuteResult, Row
from betcore_async.sqlite.stats import PoolHealth, PoolStats
from betcore_async.sqlite.transaction import Outcome, Transaction

__all__ = ["ExecuteResult", "Outcome", "PoolHealth", "PoolStats", "Row", "SQLitePool", "Transaction"]
