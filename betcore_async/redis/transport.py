"""Sends commands and brings back replies: connections, one deadline per call, repeats where they are harmless."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count as count_up
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio import connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError
from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import RedisError as ServerError
from redis.exceptions import TimeoutError as ServerTimeoutError

from betcore_async.config import RedisSettings
from betcore_async.errors import ModelError, RedisClosedError, RedisError
from betcore_async.redis.failures import Command, backoff, is_repeatable, name_of, outcome_unknown, timed_out, translate
from betcore_async.tasks import finish

Connection = redis_connection.AbstractConnection

UNANSWERED = (ServerConnectionError, ServerTimeoutError)
"""What redis-py raises when a connection cannot be had or breaks."""

_FINAL = (AuthenticationError, AuthorizationError)  # another attempt would be refused, too


def connection_class(settings: RedisSettings) -> type[Connection]:
    if settings.addr.startswith("unix:"):
        return redis_connection.UnixDomainSocketConnection
    return redis_connection.SSLConnection if settings.tls else redis_connection.Connection


def connection_options(settings: RedisSettings) -> dict[str, Any]:
    """Return what redis-py needs to connect as `settings` say, its own repeats switched off."""
    options: dict[str, Any] = {
        "username": settings.username,
        "password": settings.password.get_secret_value() if settings.password else None,
        "db": settings.db,
        "socket_connect_timeout": settings.connect_timeout.total_seconds(),
        # The deadline of the call covers every read and write; a second one per read costs a third of the speed.
        "socket_timeout": None,
        # redis-py repeats every command by default: one INCR was applied four times when replies got lost.
        "retry": Retry(NoBackoff(), 0),
        # With RESP3, redis-py 8.1 skips the check for replies that an earlier user of the connection left unread.
        "protocol": 2,
    }
    if settings.addr.startswith("unix:"):
        return options | {"path": settings.addr.removeprefix("unix:")}
    host, _, port = settings.addr.rpartition(":")
    return options | {"host": host.strip("[]"), "port": int(port)}


class Transport:
    """At most `pool_size` connections, handed to callers in the order they came.

    The waiting line is a semaphore in front of redis-py's plain pool, which therefore never waits itself. Its blocking
    pool is not used: it waits on an asyncio.Condition, which before Python 3.13 loses the wake-up of a waiter that is
    cancelled just then, so that the next one sleeps beside a free connection.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self.address = settings.addr
        self.timeout = settings.timeout.total_seconds()
        self.calls = self.commands = self.retries = self.timeouts = self.errors = self.connects = 0
        self.waiting = self.in_use = 0
        self._known: set[Connection] = set()
        self._pool: redis_connection.ConnectionPool | None = None

    @property
    def is_open(self) -> bool:
        return self._pool is not None

    @staticmethod
    def now() -> float:
        """Return the running loop's time, in seconds."""
        return asyncio.get_running_loop().time()

    @property
    def idle(self) -> int:
        """Connections that are open and in nobody's hands."""
        return sum(bool(connection.is_connected) for connection in self._known) - self.in_use

    def open(self) -> None:
        if self.is_open:
            return
        self._turns = asyncio.Semaphore(self._settings.pool_size)
        self._pool = redis_connection.ConnectionPool(
            connection_class=connection_class(self._settings),
            max_connections=self._settings.pool_size,
            redis_connect_func=self._greet,
            **connection_options(self._settings),
        )

    async def close(self) -> None:
        """Refuse new calls, let the running ones end (their deadlines bound that), close the connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await finish(self._drain(pool))

    async def run(self, commands: Sequence[Command], *, repeatable: bool | None = None) -> list[Any]:
        """Send `commands` in one write and return their replies in order; an error reply stands there as a value.

        Repeated on a lost connection when `repeatable` (default: when all commands are), and always while nothing was
        sent yet; all within one deadline.
        """
        message = b"".join(map(packed, commands))
        may_repeat = all(map(is_repeatable, commands)) if repeatable is None else repeatable
        self.calls += 1
        self.commands += len(commands)
        try:
            return await self._attempts(name_of(commands), message, len(commands), may_repeat=may_repeat)
        except RedisError:
            self.errors += 1
            raise

    async def warm(self, count: int) -> None:
        """Have `count` connections open."""
        if count:
            async with self._lease():
                await self.warm(count - 1)

    async def connect_apart(self) -> Connection:
        """Return a new connection outside the pool, for the caller to read, write and disconnect."""
        kind: Any = connection_class(self._settings)
        connection: Connection = kind(**connection_options(self._settings), redis_connect_func=self._greet)
        started = self.now()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if not isinstance(error, ServerError):
                raise
            waited = self.now() - started
            raise translate(error, command="connect", address=self.address, waited=waited, in_doubt=False) from error
        return connection

    async def _attempts(self, name: str, message: bytes, count: int, *, may_repeat: bool) -> list[Any]:
        started, call = self.now(), _Progress()
        try:
            async with asyncio.timeout(self.timeout) as deadline:
                for attempt in count_up():
                    try:
                        return await self._attempt(message, count, call)
                    except ServerError as error:
                        call.failure = error
                        is_final = isinstance(error, _FINAL) or not isinstance(error, UNANSWERED)
                        if is_final or (call.sent and not may_repeat):
                            break
                    self.retries += 1
                    await asyncio.sleep(backoff(attempt))
        except TimeoutError:
            if not deadline.expired():
                raise
            self.timeouts += 1
        waited = self.now() - started
        in_doubt = call.sent and not may_repeat
        # Sent once and refused later is not "unavailable", which promises that nothing was applied.
        if call.failure is None or (call.ever_sent and not in_doubt and deadline.expired()):
            raise (outcome_unknown(name, self.address) if in_doubt else timed_out(name, self.address, waited)) from None
        failure = call.failure
        raise translate(failure, command=name, address=self.address, waited=waited, in_doubt=in_doubt) from failure

    async def _attempt(self, message: bytes, count: int, call: "_Progress") -> list[Any]:
        call.sent = False
        async with self._lease() as connection:
            call.sent = call.ever_sent = True
            await connection.send_packed_command(message, check_health=False)
            return [await _reply(connection) for _ in range(count)]

    @asynccontextmanager
    async def _lease(self) -> AsyncGenerator[Connection, None]:
        if self._pool is None:
            raise RedisClosedError("the Redis client is not open: use it inside `async with RedisClient(…)`")
        pool = self._pool
        self.waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self.waiting -= 1
        try:
            connection: Connection = await pool.get_connection()  # type: ignore[no-untyped-call]
            self._known.add(connection)
            self.in_use += 1
            try:
                yield connection
            except BaseException:
                # Clean or destroyed: a reply that was not read must never reach the next caller.
                await connection.disconnect(nowait=True)
                raise
            finally:
                self.in_use -= 1
                await pool.release(connection)  # does not suspend: nobody holds the pool's lock across an await
        finally:
            self._turns.release()

    async def _greet(self, connection: Connection) -> None:
        # redis-py bounds the TCP connect alone; a peer that accepts and then says nothing must not hold us longer.
        try:
            async with asyncio.timeout(self._settings.connect_timeout.total_seconds()):
                await connection.on_connect()
        except TimeoutError:
            await connection.disconnect(nowait=True)
            raise ServerTimeoutError("the server accepted the connection, but did not answer") from None
        self.connects += 1

    async def _drain(self, pool: redis_connection.ConnectionPool) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.timeout):
                for _ in range(self._settings.pool_size):
                    await self._turns.acquire()
        with suppress(ServerError):  # a peer that does not say goodbye in time is left all the same
            await pool.aclose()


class HasTransport(Protocol):
    """Whatever commands can be sent through; a RedisClient is one."""

    @property
    def transport(self) -> Transport: ...


class _Progress:
    """How far a call has come: what decides which error tells the truth."""

    def __init__(self) -> None:
        self.sent = False
        """Whether the present, or last, attempt reached the point of sending."""
        self.ever_sent = False
        self.failure: ServerError | None = None


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error


def packed(command: Command) -> bytes:
    """Return a command as it goes over the wire; raises ModelError for an argument that cannot."""
    try:
        message: bytes = hiredis.pack_command(cast("Any", command))
        return message
    except TypeError:
        raise ModelError(
            f"{command[0]!s} takes text, bytes and numbers; got "
            + ", ".join(type(part).__name__ for part in command[1:]),
            field="value",
        ) from None
