"""The libraries that `ledger.py` sets side by side: each places a bet whole, in one transaction, and returns its model.

All of them run our own statements on our own schema, with the pragmas of our own writer, and end each transaction with
the link of the hash chain. They differ in how a statement reaches SQLite's thread, and in who waits for whom.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import aiosqlite
import orjson

from betcore_async.clock import system_clock, to_microseconds
from betcore_async.config import DatabaseSettings, Durability
from betcore_async.ids import IdGenerator
from betcore_async.models import Bet
from betcore_async.partitions import PartitionManager, chain
from betcore_async.sqlite.connection import COMMON_PRAGMAS, WRITER_PRAGMAS
from betcore_async.stores import BetStore, SQLiteLedger, sqlite_commands
from betcore_async.stores.commands import PlaceBet
from betcore_async.stores.sqlite_commands import Books, place_bet

CELL, AMOUNT, PPM = "cell", 100, 1_900_000
PATIENCE = 60.0  # seconds that a connection or a write lock is waited for

Run = Callable[[str, Sequence[Any] | dict[str, Any]], Awaitable[Any]]
"""Run one statement, rows or none."""


class Contender(Protocol):
    async def open(self, family: Path, synchronous: str) -> None: ...
    async def place(self, user: str) -> Bet: ...
    async def close(self) -> None: ...


class Betcore:
    async def open(self, family: Path, synchronous: str) -> None:
        settings = DatabaseSettings(path=family, synchronous=Durability(synchronous))
        self.partitions = PartitionManager(settings)
        await self.partitions.open()
        self.bets = BetStore(SQLiteLedger(self.partitions))

    async def place(self, user: str) -> Bet:
        return await self.bets.place(user, CELL, AMOUNT, PPM / 1_000_000)

    async def close(self) -> None:
        await self.partitions.close()


class Aiosqlite:
    """What its README shows: the statements one by one, each awaited, rows through a cursor; behind a lock."""

    async def open(self, family: Path, synchronous: str) -> None:
        self.connection = await connected(family, synchronous)
        self.new_id, self.lock = IdGenerator(), asyncio.Lock()

    async def place(self, user: str) -> Bet:
        async with self.lock:
            await self.connection.execute("BEGIN IMMEDIATE")
            bet = await placed(self._query, self.connection.execute, user, self.new_id)
            await self.connection.commit()
        return bet

    async def _query(self, sql: str, parameters: Any) -> Any:
        async with self.connection.execute(sql, parameters) as cursor:
            return await cursor.fetchall()

    async def close(self) -> None:
        await self.connection.close()


class AiosqliteInOneHop(Aiosqlite):
    """The whole transaction as one function on the connection's thread: more than its public interface allows."""

    async def place(self, user: str) -> Bet:
        return await self.connection._execute(self._transaction, PlaceBet(self.new_id(), user, CELL, AMOUNT, PPM))

    def _transaction(self, command: PlaceBet) -> Bet:
        raw = self.connection._conn
        raw.execute("BEGIN IMMEDIATE")
        try:
            bet = place_bet(Books(raw, to_microseconds(system_clock()), self.new_id), command)
            chain.extend(raw)
        except BaseException:
            raw.execute("ROLLBACK")
            raise
        raw.execute("COMMIT")
        return bet


class Aiosqlitepool:
    """The statements one by one, rows in one hop each; its connections wait for the write lock in SQLite itself."""

    async def open(self, family: Path, synchronous: str) -> None:
        from aiosqlitepool import SQLiteConnectionPool

        connect = partial(connected, family, synchronous)
        self.pool = SQLiteConnectionPool(connect, pool_size=5, acquisition_timeout=PATIENCE)
        self.new_id = IdGenerator()

    async def place(self, user: str) -> Bet:
        async with self.pool.connection() as connection:
            await connection.execute("BEGIN IMMEDIATE")
            bet = await placed(connection.execute_fetchall, connection.execute, user, self.new_id)
            await connection.commit()
        return bet

    async def close(self) -> None:
        await self.pool.close()


class SQLAlchemy:
    """An AsyncEngine whose transactions begin with the write lock, as its documentation of SQLite shows.

    With one connection: as SQLite has one writer, more of them are slower.
    """

    async def open(self, family: Path, synchronous: str) -> None:
        from sqlalchemy import event
        from sqlalchemy.ext.asyncio import create_async_engine

        self.engine = create_async_engine(
            f"sqlite+aiosqlite:///{week_of(family)}",
            pool_size=1,
            max_overflow=0,
            pool_timeout=PATIENCE,
            connect_args={"timeout": PATIENCE, "cached_statements": 256},
        )
        self.new_id = IdGenerator()

        @event.listens_for(self.engine.sync_engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            connection.isolation_level = None
            for pragma in pragmas(synchronous):
                connection.execute(pragma)

        @event.listens_for(self.engine.sync_engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    async def place(self, user: str) -> Bet:
        async with self.engine.begin() as connection:

            async def query(sql: str, parameters: Any) -> Any:
                return (await connection.exec_driver_sql(sql, parameters)).fetchall()

            return await placed(query, connection.exec_driver_sql, user, self.new_id)

    async def close(self) -> None:
        await self.engine.dispose()


def week_of(family: Path) -> Path:
    (path,) = family.parent.glob(f"{family.stem}-*.db")
    return path


def pragmas(synchronous: str) -> list[str]:
    settings = ("journal_mode", "WAL"), ("synchronous", synchronous), *COMMON_PRAGMAS, *WRITER_PRAGMAS
    return [f"PRAGMA {name} = {value}" for name, value in settings]


async def connected(family: Path, synchronous: str) -> aiosqlite.Connection:
    options = {"isolation_level": None, "timeout": PATIENCE, "cached_statements": 256}
    connection = await aiosqlite.connect(week_of(family), **options)
    for pragma in pragmas(synchronous):
        await connection.execute(pragma)
    return connection


async def placed(query: Run, run: Run, user: str, new_id: Callable[[], str]) -> Bet:
    """What `place_bet` and `chain.extend` do where nothing is amiss, statement by statement in an open transaction."""
    identifier, now = new_id(), to_microseconds(system_clock())
    ((balance, version),) = await query(sqlite_commands._STAKE, (-AMOUNT, now, user, identifier, CELL))
    entry = (new_id(), user, version, -AMOUNT, balance, "stake", identifier, None, now)
    await run(sqlite_commands.INSERT_ENTRY, entry)
    row = (identifier, user, CELL, AMOUNT, PPM, "pending", now, None)
    await run(sqlite_commands._INSERT_BET, row)
    seq, upto, last = next(iter(await query(chain._HEAD.format(schema="main"), ())), (0, 0, bytes(32)))
    rows = [tuple(unchained) for unchained in await query(chain._UNCHAINED, (upto,))]
    await run(chain._APPEND, (seq + 1, rows[-1][0], hashlib.sha256(last + orjson.dumps(rows)).digest()))
    return Bet.from_rows([(*row, None)])[0]


CONTENDERS: dict[str, type[Contender]] = {
    "betcore_async": Betcore,
    "aiosqlite, one hop": AiosqliteInOneHop,
    "aiosqlite, README style": Aiosqlite,
    "aiosqlitepool": Aiosqlitepool,
    "SQLAlchemy async": SQLAlchemy,
}
