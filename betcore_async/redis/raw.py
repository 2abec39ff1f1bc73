"""The redis.asyncio client itself, for what is not offered here: connections of its own, and no repeats."""

from typing import Any, cast

import redis.asyncio as redis_asyncio
from redis.asyncio import cluster as redis_cluster
from redis.asyncio import connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from betcore_async.config import RedisSettings
from betcore_async.redis.sentinel import dial_master


def raw_client(settings: RedisSettings) -> redis_asyncio.Redis:
    """Return redis-py's client for `settings`; it opens its connections, at most `pool_size`, as they are needed."""
    # Connections of its own: a WATCH, SELECT or SUBSCRIBE left on one must not reach the typed calls.
    options: dict[str, Any] = {
        "max_connections": settings.pool_size,
        "username": settings.username,
        "password": settings.password.get_secret_value() if settings.password else None,
        "socket_connect_timeout": settings.connect_timeout.total_seconds(),
        "socket_timeout": settings.timeout.total_seconds(),
        # redis-py repeats every command by default: one INCR was applied four times when replies got lost.
        "retry": Retry(NoBackoff(), 0),
        # With RESP3, redis-py 8.1 skips the check for replies that an earlier user of the connection left unread.
        "protocol": 2,
    }
    if settings.place.kind == "cluster":
        nodes = [redis_cluster.ClusterNode(node.host, node.port) for node in settings.place.nodes]
        # The same commands under another class, which is no subclass.
        return cast("redis_asyncio.Redis", redis_asyncio.RedisCluster(startup_nodes=nodes, ssl=settings.tls, **options))
    pool = redis_asyncio.BlockingConnectionPool(
        timeout=settings.timeout.total_seconds(),
        connection_class=_connection_class(settings),
        db=settings.db,
        **options,
        **_place(settings),
    )
    return redis_asyncio.Redis.from_pool(pool)


def _connection_class(settings: RedisSettings) -> type[redis_connection.AbstractConnection]:
    place = settings.place
    if not place.nodes[0].port:
        return redis_connection.UnixDomainSocketConnection
    connection = redis_connection.SSLConnection if settings.tls else redis_connection.Connection
    return _to_master(connection, settings) if place.kind == "sentinel" else connection


def _to_master(kind: type[redis_connection.Connection], settings: RedisSettings) -> type[redis_connection.Connection]:
    """Return a class of connections that find the master anew each time they connect."""

    class MasterConnection(kind):  # type: ignore[valid-type, misc]
        async def _connect(self) -> None:
            wire = await dial_master(settings, lambda _: None)
            self.host, self.port = wire.peer
            wire.abort()
            await super()._connect()

    return MasterConnection


def _place(settings: RedisSettings) -> dict[str, Any]:
    node = settings.place.nodes[0]
    return {"host": node.host, "port": node.port} if node.port else {"path": node.host}
