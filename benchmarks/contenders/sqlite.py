"""The libraries that `sqlite_pool.py` sets side by side, each used the way it is fastest through its public interface.

Every contender answers the same four questions over one file in WAL mode with foreign keys off, synchronous as asked:
one row by key, one INSERT, one transaction (an UPDATE and an INSERT, all or nothing), ten thousand rows.
"""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Protocol

ROWS = 10_000
CHECKPOINT = "PRAGMA wal_autocheckpoint = 8000"  # as our pool sets it, so that nobody has an advantage of it
POINT = "SELECT id, name, balance, created_at, note FROM accounts WHERE id = ?"
SCAN = "SELECT id, name, balance, created_at, note FROM accounts"
DEBIT = "UPDATE accounts SET balance = balance - 1 WHERE id = ?"
ENTRY = "INSERT INTO entries (account, amount) VALUES (?, -1)"
LOG = "INSERT INTO log (account) VALUES (?)"


class Contender(Protocol):
    async def open(self, path: str, synchronous: str) -> None: ...
    async def point(self, key: int) -> Any: ...
    async def insert(self, key: int) -> None: ...
    async def transaction(self, key: int) -> None: ...
    async def scan(self) -> Any: ...
    async def close(self) -> None: ...


def plain_connection(path: str, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30, cached_statements=256)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(CHECKPOINT)
    return connection


def both(connection: Any, key: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(DEBIT, (key,))
    connection.execute(ENTRY, (key,))
    connection.execute("COMMIT")


class Sqlite3:
    """Plain sqlite3 on the loop's own thread: no hop, and nothing else runs meanwhile. The limit of one by one."""

    async def open(self, path: str, synchronous: str) -> None:
        self.connection = plain_connection(path, synchronous)

    async def point(self, key: int) -> Any:
        return self.connection.execute(POINT, (key,)).fetchone()

    async def insert(self, key: int) -> None:
        self.connection.execute(LOG, (key,))

    async def transaction(self, key: int) -> None:
        both(self.connection, key)

    async def scan(self) -> Any:
        return self.connection.execute(SCAN).fetchall()

    async def close(self) -> None:
        self.connection.close()


class ToThread(Sqlite3):
    """sqlite3 behind one thread of an executor."""

    async def open(self, path: str, synchronous: str) -> None:
        await super().open(path, synchronous)
        self.executor = ThreadPoolExecutor(1)
        self.loop = asyncio.get_running_loop()

    async def point(self, key: int) -> Any:
        return await self.loop.run_in_executor(self.executor, lambda: self.connection.execute(POINT, (key,)).fetchone())

    async def insert(self, key: int) -> None:
        await self.loop.run_in_executor(self.executor, self.connection.execute, LOG, (key,))

    async def transaction(self, key: int) -> None:
        await self.loop.run_in_executor(self.executor, both, self.connection, key)

    async def scan(self) -> Any:
        return await self.loop.run_in_executor(self.executor, lambda: self.connection.execute(SCAN).fetchall())

    async def close(self) -> None:
        self.executor.shutdown()
        await super().close()


class Aiosqlite:
    """One aiosqlite connection; reads in one hop each, transactions behind a lock, the fewest hops its API allows."""

    options: ClassVar[dict[str, Any]] = {}

    async def open(self, path: str, synchronous: str) -> None:
        import aiosqlite

        self.connection = await aiosqlite.connect(path, timeout=30, cached_statements=256, **self.options)
        await self.connection.execute("PRAGMA journal_mode = WAL")
        await self.connection.execute(f"PRAGMA synchronous = {synchronous}")
        await self.connection.execute(CHECKPOINT)
        self.lock = asyncio.Lock()

    async def point(self, key: int) -> Any:
        return await self.connection.execute_fetchall(POINT, (key,))

    async def insert(self, key: int) -> None:
        async with self.lock:
            await self.connection.execute(LOG, (key,))
            await self.connection.commit()

    async def transaction(self, key: int) -> None:
        async with self.lock:
            await self.connection.execute(DEBIT, (key,))
            await self.connection.execute(ENTRY, (key,))
            await self.connection.commit()

    async def scan(self) -> Any:
        return await self.connection.execute_fetchall(SCAN)

    async def close(self) -> None:
        await self.connection.close()


class AiosqliteInAutocommit(Aiosqlite):
    """The same without Python's implicit transactions: a lone INSERT needs one hop, a transaction needs four."""

    options: ClassVar[dict[str, Any]] = {"isolation_level": None}

    async def insert(self, key: int) -> None:
        await self.connection.execute_insert(LOG, (key,))

    async def transaction(self, key: int) -> None:
        async with self.lock:
            for sql, parameters in (("BEGIN IMMEDIATE", ()), (DEBIT, (key,)), (ENTRY, (key,)), ("COMMIT", ())):
                await self.connection.execute(sql, parameters)


class Aiosqlitepool:
    async def open(self, path: str, synchronous: str) -> None:
        import aiosqlite
        from aiosqlitepool import SQLiteConnectionPool

        async def connect() -> Any:
            connection = await aiosqlite.connect(path, timeout=30, cached_statements=256)
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute(f"PRAGMA synchronous = {synchronous}")
            await connection.execute(CHECKPOINT)
            return connection

        self.pool = SQLiteConnectionPool(connect, pool_size=5)

    async def point(self, key: int) -> Any:
        async with self.pool.connection() as connection:
            return await connection.execute_fetchall(POINT, (key,))

    async def insert(self, key: int) -> None:
        async with self.pool.connection() as connection:
            await connection.execute(LOG, (key,))
            await connection.commit()

    async def transaction(self, key: int) -> None:
        async with self.pool.connection() as connection:
            await connection.execute("BEGIN IMMEDIATE")
            await connection.execute(DEBIT, (key,))
            await connection.execute(ENTRY, (key,))
            await connection.commit()

    async def scan(self) -> Any:
        async with self.pool.connection() as connection:
            return await connection.execute_fetchall(SCAN)

    async def close(self) -> None:
        await self.pool.close()


class SQLAlchemy:
    async def open(self, path: str, synchronous: str) -> None:
        from sqlalchemy import event, text
        from sqlalchemy.ext.asyncio import create_async_engine

        self.engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=5, connect_args={"timeout": 30})

        @event.listens_for(self.engine.sync_engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute(CHECKPOINT)

        @event.listens_for(self.engine.sync_engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.get("writes") else "BEGIN")

        names = {sql: text(sql.replace("?", ":key")) for sql in (POINT, SCAN, DEBIT, ENTRY, LOG)}
        self.text = names

    async def point(self, key: int) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.execute(self.text[POINT], {"key": key})).fetchone()

    async def _write(self, key: int, *statements: str) -> None:
        async with self.engine.connect() as connection:
            connection.sync_connection.info["writes"] = True
            async with connection.begin():
                for statement in statements:
                    await connection.execute(self.text[statement], {"key": key})
            connection.sync_connection.info["writes"] = False

    async def insert(self, key: int) -> None:
        await self._write(key, LOG)

    async def transaction(self, key: int) -> None:
        await self._write(key, DEBIT, ENTRY)

    async def scan(self) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.execute(self.text[SCAN])).fetchall()

    async def close(self) -> None:
        await self.engine.dispose()


class Apsw:
    """apsw's own asyncio mode, a whole function in one hop. Brings a newer SQLite with it."""

    async def open(self, path: str, synchronous: str) -> None:
        import apsw

        self.connection = await apsw.Connection.as_async(path, statementcachesize=256)
        await self._run(lambda raw: raw.execute("PRAGMA journal_mode = WAL").fetchall())
        await self._run(lambda raw: raw.execute(f"PRAGMA synchronous = {synchronous}").fetchall())
        await self._run(lambda raw: raw.execute(CHECKPOINT).fetchall())

    async def _run(self, function: Any) -> Any:
        return await self.connection.async_run(function, self.connection)

    async def point(self, key: int) -> Any:
        return await self._run(lambda raw: raw.execute(POINT, (key,)).fetchone())

    async def insert(self, key: int) -> None:
        await self._run(lambda raw: raw.execute(LOG, (key,)))

    async def transaction(self, key: int) -> None:
        await self._run(lambda raw: both(raw, key))

    async def scan(self) -> Any:
        return await self._run(lambda raw: raw.execute(SCAN).fetchall())

    async def close(self) -> None:
        await self.connection.aclose()


class Betcore:
    async def open(self, path: str, synchronous: str) -> None:
        from betcore_async.config import DatabaseSettings, Durability
        from betcore_async.sqlite import SQLitePool

        self.pool = SQLitePool(path, DatabaseSettings(synchronous=Durability(synchronous)))
        await self.pool.open()

    async def point(self, key: int) -> Any:
        return await self.pool.fetch_one(POINT, (key,))

    async def insert(self, key: int) -> None:
        await self.pool.execute(LOG, (key,))

    async def transaction(self, key: int) -> None:
        def both_rows(raw: Any) -> None:
            raw.execute(DEBIT, (key,))
            raw.execute(ENTRY, (key,))

        await self.pool.write(both_rows)

    async def scan(self) -> Any:
        return await self.pool.fetch_all(SCAN)

    async def close(self) -> None:
        await self.pool.close()


CONTENDERS: dict[str, type[Contender]] = {
    "betcore_async": Betcore,
    "sqlite3, one thread": Sqlite3,
    "sqlite3, executor": ToThread,
    "aiosqlite": Aiosqlite,
    "aiosqlite, autocommit": AiosqliteInAutocommit,
    "aiosqlitepool": Aiosqlitepool,
    "SQLAlchemy async": SQLAlchemy,
    "apsw async_run": Apsw,
}
