"""The redis.asyncio client itself, for what is not offered here: connections of its own, and no repeats."""

from typing import Any

import redis.asyncio as redis_asyncio
from redis.asyncio import connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from betcore_async.config import RedisSettings


def raw_client(settings: RedisSettings) -> redis_asyncio.Redis:
    """Return redis-py's client for `settings`; it opens its connections, at most `pool_size`, as they are needed."""
    # Connections of its own: a WATCH, SELECT or SUBSCRIBE left on one must not reach the typed calls.
    timeout = settings.timeout.total_seconds()
    pool = redis_asyncio.BlockingConnectionPool(
        max_connections=settings.pool_size,
        timeout=timeout,
        connection_class=_connection_class(settings),
        username=settings.username,
        password=settings.password.get_secret_value() if settings.password else None,
        db=settings.db,
        socket_connect_timeout=settings.connect_timeout.total_seconds(),
        socket_timeout=timeout,
        # redis-py repeats every command by default: one INCR was applied four times when replies got lost.
        retry=Retry(NoBackoff(), 0),
        # With RESP3, redis-py 8.1 skips the check for replies that an earlier user of the connection left unread.
        protocol=2,
        **_place(settings),
    )
    return redis_asyncio.Redis.from_pool(pool)


def _connection_class(settings: RedisSettings) -> type[redis_connection.AbstractConnection]:
    if settings.addr.startswith("unix:"):
        return redis_connection.UnixDomainSocketConnection
    return redis_connection.SSLConnection if settings.tls else redis_connection.Connection


def _place(settings: RedisSettings) -> dict[str, Any]:
    if settings.addr.startswith("unix:"):
        return {"path": settings.addr.removeprefix("unix:")}
    host, _, port = settings.addr.rpartition(":")
    return {"host": host.strip("[]"), "port": int(port)}
