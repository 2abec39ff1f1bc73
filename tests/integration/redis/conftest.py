"""A client on the session's server, and names of one's own on it."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from betcore_async.config import RedisSettings
from betcore_async.redis import PubSubHub, RedisClient


@pytest.fixture
def redis_settings(redis_url: str) -> RedisSettings:
    return RedisSettings.from_url(redis_url, pool_size=4)


@pytest.fixture
async def client(redis_settings: RedisSettings) -> AsyncIterator[RedisClient]:
    async with RedisClient(redis_settings) as client:
        yield client


@pytest.fixture
async def hub(client: RedisClient) -> AsyncIterator[PubSubHub]:
    async with PubSubHub(client) as hub:
        yield hub


@pytest.fixture
def unique() -> str:
    """Prefix of keys and channels that no other test uses."""
    return f"test-{uuid4().hex}"
