"""A server of one's own, to be killed, stopped and restarted."""

from collections.abc import AsyncIterator

import pytest
from redis_tools import free_port

from betcore_async.config import RedisSettings
from betcore_async.redis import EmbeddedRedis


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedRedis]:
    """On a fixed port, so that it can be started again at the same address."""
    async with EmbeddedRedis(port=free_port()) as server:
        yield server


@pytest.fixture
def settings(server: EmbeddedRedis) -> RedisSettings:
    return RedisSettings.from_url(server.url, pool_size=4, timeout="600ms", connect_timeout="600ms")
