"""The Redis client: typed calls with one deadline each, repeated only where that is harmless."""

import warnings
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import redis.asyncio as redis_asyncio

from betcore_async.config import RedisSettings
from betcore_async.errors import RedisClosedError
from betcore_async.redis.commands import Value, waiting_time
from betcore_async.redis.failures import command_error
from betcore_async.redis.health import RedisHealth, health_of
from betcore_async.redis.hub import PubSubHub
from betcore_async.redis.lock import Lock
from betcore_async.redis.pipeline import TTL, Key, Pipeline, set_command
from betcore_async.redis.raw import raw_client
from betcore_async.redis.subscription import Subscription
from betcore_async.redis.transport import Transport
from betcore_async.tasks import finish


@dataclass(frozen=True, slots=True)
class RedisStats:
    """Counts since `open`, and the connections at this moment. Those of `raw` and of subscriptions are not counted."""

    calls: int
    """Calls made; a pipeline is one."""
    commands: int
    """Commands in these calls."""
    retries: int
    """Attempts that were made again after a lost or refused connection."""
    timeouts: int
    """Calls that reached their deadline."""
    errors: int
    """Calls that ended with an error of this library, timeouts included; error replies of the server not."""
    connects: int
    """Connections opened."""
    connections_in_use: int
    """Connections on which an answer is awaited."""
    connections_idle: int
    waiting: int
    """Calls that were not sent yet."""


class RedisClient:
    """Talks to Redis: `async with RedisClient(settings) as client: await client.get("key")`.

    What concurrent tasks ask for in one turn of the event loop goes out in one write on one shared connection, and is
    answered in order; so many tasks cost little more than one. Further connections, up to `pool_size`, are for calls
    that need one for themselves, and for when a large value holds the first one up. Calls made by one task one after
    another take effect in that order; calls made at the same time, in any order: use `pipeline()` where it matters.

    Every call ends within `settings.timeout`, waiting for a connection included, and raises:

    - RedisUnavailableError: no server answers; the call surely had no effect. RedisAuthError when it refuses us.
    - RedisTimeoutError: no answer in time, but the call is safe to repeat.
    - RedisOutcomeUnknownError: no answer, and the call may have been applied.
    - RedisCommandError: the server answered with an error.
    - RedisClosedError: the client is not open.

    `get`, plain `set`, `delete` and `ping` are repeated until the deadline when the connection breaks; other calls
    only as long as they surely were not sent.
    """

    def __init__(self, settings: RedisSettings | None = None) -> None:
        self._settings = settings or RedisSettings()
        self.transport = Transport(self._settings)
        self._raw: redis_asyncio.Redis | None = None

    async def open(self) -> None:
        """Connect `min_idle_conns` connections and PING; raises as every call does."""
        self.transport.open()
        try:
            await self.ping()
            await self.transport.route.warm(self._settings.min_idle_conns)
        except BaseException:
            await finish(self.close())
            raise

    async def close(self) -> None:
        """Let running calls end within their deadlines, then close all connections; may be called again."""
        raw, self._raw = self._raw, None
        await finish(self._close(raw))

    async def get(self, key: Key) -> bytes | None:
        return await self.execute("GET", key)  # type: ignore[no-any-return]

    async def set(self, key: Key, value: Value, ttl: TTL | None = None) -> None:
        """Store `value`, for `ttl` (timedelta or seconds) if given."""
        await self.execute(*set_command(key, value, ttl))

    async def setnx(self, key: Key, value: Value, ttl: TTL | None = None) -> bool:
        """Store `value` unless the key exists; return whether it was stored."""
        return await self.execute(*set_command(key, value, ttl, only_new=True)) is not None

    async def delete(self, *keys: Key) -> int:
        """Remove keys and return how many there were (0 as well when a repeated call had removed them already).

        On a cluster keys of different slots are removed by different commands: one by one, not all at once.
        """
        if not keys:
            return 0
        pipeline = self.pipeline()
        for group in self.transport.route.together(keys):
            pipeline.add("DEL", *group)
        return sum(await pipeline.execute())

    async def publish(self, channel: str, message: Value) -> int:
        """Send `message` to whoever subscribed to `channel` just now; return the number of receiving connections."""
        return await self.execute(self.transport.publishing, channel, message)  # type: ignore[no-any-return]

    async def ping(self) -> None:
        await self.execute("PING")

    async def execute(self, *command: Value, repeatable: bool | None = None) -> Any:
        """Run any one command and return its reply as the protocol has it (bytes, int, list, None).

        `repeatable` says whether running it twice is harmless; the default knows the common reads. A command that
        waits at the server (BLPOP, XREAD BLOCK, WAIT …) has a connection for itself, and its deadline begins after
        the time it may wait; at most `pool_size - 1` of them run at once. Raises ModelError for one that would wait
        for ever, and for one that changes the connection (SELECT, WATCH, SUBSCRIBE …): those are for `raw`.
        """
        wait = waiting_time(command)
        (reply,) = await self.transport.run(
            [command], repeatable=repeatable, alone=wait is not None, patience=wait or 0.0
        )
        if isinstance(reply, Exception):
            raise command_error(reply, str(command[0]).upper()) from reply
        return reply

    def pipeline(self, *, transaction: bool = False) -> Pipeline:
        """Return a collector of commands that go out in one round trip (or one MULTI … EXEC)."""
        return Pipeline(self.transport, transaction=transaction)

    def lock(self, name: str, ttl: TTL = 10.0, wait: TTL | None = None) -> Lock:
        """Return a lock for `async with`: held at most `ttl`, waited for at most `wait` (default: without limit)."""
        return Lock(self.transport, name, ttl, wait)

    @asynccontextmanager
    async def subscribe(self, *channels: str, maxsize: int = 1000) -> AsyncGenerator[Subscription, None]:
        """Subscribe on a connection of its own; names with `*` are patterns. For many subscribers use PubSubHub."""
        async with PubSubHub(self) as hub, hub.subscribe(*channels, maxsize=maxsize) as subscription:
            yield subscription

    @property
    def raw(self) -> redis_asyncio.Redis:
        """The redis.asyncio client for what is not here, with connections of its own and redis-py's errors.

        Nothing is retried, and no answer is waited for longer than `settings.timeout`. On a cluster it is a
        redis.asyncio.RedisCluster, which has the same commands.
        """
        if not self.transport.is_open:
            raise RedisClosedError("the Redis client is not open: use it inside `async with RedisClient(…)`")
        if self._raw is None:
            self._raw = raw_client(self._settings)
        return self._raw

    async def health(self) -> RedisHealth:
        """Ask the server how it is; never raises a RedisError, but tells it."""
        return await health_of(self.transport)

    def stats(self) -> RedisStats:
        line = self.transport
        boards = line.route.boards()
        return RedisStats(
            calls=line.calls,
            commands=line.commands,
            retries=line.route.retries + sum(board.refused for board in boards),
            timeouts=line.timeouts,
            errors=line.errors,
            connects=sum(board.connects for board in boards),
            connections_in_use=sum(board.in_use for board in boards),
            connections_idle=sum(board.idle for board in boards),
            waiting=sum(board.waiting for board in boards),
        )

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "transport", None) is not None and self.transport.is_open:
            _warn(f"RedisClient for {self.transport.address} was not closed", ResourceWarning, source=self)

    async def _close(self, raw: redis_asyncio.Redis | None) -> None:
        await self.transport.close()
        if raw is not None:
            await raw.aclose()
