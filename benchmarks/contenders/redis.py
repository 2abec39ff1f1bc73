"""The libraries `redis_layer.py` sets side by side, each used the way it is fastest through its public interface.

Imported by interpreters that may have only one of them: everything is imported where it is used.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit


class Ears:
    """What all subscribers call with each payload. It does next to nothing, so that not it is what is measured."""

    def __init__(self) -> None:
        self.payloads: list[bytes | str] = []
        self.heard: Callable[[bytes | str], None] = self.payloads.append


"""Told of every message by each subscriber, as the library has it."""

Point = tuple[str, str, int]
"""Symbol, price, and milliseconds since the epoch."""


class Contender:
    """What a library does not offer, it does not override."""

    async def open(self, url: str) -> None:
        raise NotImplementedError

    async def get(self, key: str) -> Any:
        raise NotImplementedError

    async def write_prices(self, points: list[Point]) -> None:
        """Keep each point as the latest of its symbol, and in the symbol's history."""
        raise NotImplementedError

    async def subscribe(self, channel: str, subscribers: int, ears: Ears) -> None:
        """Return once all of them listen."""
        raise NotImplementedError

    async def close(self) -> None:
        for task in getattr(self, "tasks", ()):
            task.cancel()
        await asyncio.gather(*getattr(self, "tasks", ()), return_exceptions=True)


def start_all(contender: Any, subscribers: int, follow: Callable[[asyncio.Semaphore], Any]) -> asyncio.Semaphore:
    ready = asyncio.Semaphore(0)
    contender.tasks = [asyncio.create_task(follow(ready)) for _ in range(subscribers)]
    return ready


async def all_ready(ready: asyncio.Semaphore, subscribers: int) -> None:
    for _ in range(subscribers):
        await ready.acquire()


class Ours(Contender):
    async def open(self, url: str) -> None:
        from betcore_async.config import RedisSettings
        from betcore_async.redis import PriceCache, PubSubHub, RedisClient

        self.stack = AsyncExitStack()
        self.client = await self.stack.enter_async_context(RedisClient(RedisSettings.from_url(url)))
        self.hub = await self.stack.enter_async_context(PubSubHub(self.client))
        self.prices = PriceCache(self.client)

    async def get(self, key: str) -> Any:
        return await self.client.get(key)

    async def write_prices(self, points: list[Point]) -> None:
        epoch, millisecond = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
        await self.prices.set_prices([(symbol, price, epoch + at * millisecond) for symbol, price, at in points])

    async def subscribe(self, channel: str, subscribers: int, ears: Ears) -> None:
        async def follow(ready: asyncio.Semaphore) -> None:
            async with self.hub.subscribe(channel, maxsize=10_000) as stream:
                ready.release()
                async for message in stream:
                    ears.heard(message.payload)

        await all_ready(start_all(self, subscribers, follow), subscribers)

    async def close(self) -> None:
        await super().close()
        await self.stack.aclose()


class RedisPy(Contender):
    async def open(self, url: str) -> None:
        import redis.asyncio as redis

        self.client = redis.Redis.from_url(url, max_connections=10_000)
        await self.client.ping()

    async def get(self, key: str) -> Any:
        return await self.client.get(key)

    async def write_prices(self, points: list[Point]) -> None:
        async with self.client.pipeline(transaction=False) as pipeline:
            for symbol, price, at in points:
                pipeline.set(f"latest:{symbol}", f"{at} {price}", px=3_600_000)
                pipeline.zadd(f"history:{symbol}", {f"{at}:{price}": at})
            await pipeline.execute()

    async def subscribe(self, channel: str, subscribers: int, ears: Ears) -> None:
        async def follow(pubsub: Any) -> None:
            async for message in pubsub.listen():
                if message["type"] == "message":
                    ears.heard(message["data"])

        self.tasks = []
        for _ in range(subscribers):  # one after another: thousands at once run into its timeouts
            pubsub = self.client.pubsub()
            await pubsub.subscribe(channel)
            self.tasks.append(asyncio.create_task(follow(pubsub)))

    async def close(self) -> None:
        await super().close()
        await self.client.aclose()


class Coredis(Contender):
    async def open(self, url: str) -> None:
        import coredis

        self.stack = AsyncExitStack()
        self.client = await self.stack.enter_async_context(coredis.Redis.from_url(url, max_connections=10_000))

    async def get(self, key: str) -> Any:
        return await self.client.get(key)

    async def write_prices(self, points: list[Point]) -> None:
        async with self.client.pipeline(transaction=False) as pipeline:
            for symbol, price, at in points:
                pipeline.set(f"latest:{symbol}", f"{at} {price}", px=3_600_000)
                pipeline.zadd(f"history:{symbol}", {f"{at}:{price}": float(at)})

    async def subscribe(self, channel: str, subscribers: int, ears: Ears) -> None:
        if subscribers > 1000:
            raise NotImplementedError  # takes minutes to open, and half a gigabyte

        async def follow(ready: asyncio.Semaphore) -> None:
            async with self.client.pubsub(channels=[channel]) as pubsub:
                async for message in pubsub:
                    if message["type"] == "message":
                        ears.heard(message["data"])
                    else:
                        ready.release()

        await all_ready(start_all(self, subscribers, follow), subscribers)


class Glide(Contender):
    """Subscriptions of valkey-glide are one client each, fixed when it is made; they are left out."""

    async def open(self, url: str) -> None:
        from glide import Batch, GlideClient, GlideClientConfiguration, NodeAddress

        place = urlsplit(url)
        self.batch = Batch
        self.client = await GlideClient.create(
            GlideClientConfiguration([NodeAddress(place.hostname or "localhost", place.port or 6379)])
        )

    async def get(self, key: str) -> Any:
        return await self.client.get(key)

    async def write_prices(self, points: list[Point]) -> None:
        batch = self.batch(is_atomic=False)
        for symbol, price, at in points:
            batch.set(f"latest:{symbol}", f"{at} {price}")
            batch.zadd(f"history:{symbol}", {f"{at}:{price}": float(at)})
        await self.client.exec(batch, raise_on_error=True)

    async def close(self) -> None:
        await self.client.close()


class Broadcaster(Contender):
    """Only fan-out. Delivers nothing on redis-py 8."""

    async def open(self, url: str) -> None:
        import redis
        from broadcaster import Broadcast

        if int(redis.__version__.partition(".")[0]) >= 8:
            raise ImportError(f"needs redis-py below 8; here is {redis.__version__}")
        self.broadcast = Broadcast(url)
        await self.broadcast.connect()

    async def subscribe(self, channel: str, subscribers: int, ears: Ears) -> None:
        async def follow(ready: asyncio.Semaphore) -> None:
            async with self.broadcast.subscribe(channel=channel) as events:
                ready.release()
                async for event in events:
                    ears.heard(event.message)

        await all_ready(start_all(self, subscribers, follow), subscribers)

    async def close(self) -> None:
        await super().close()
        await self.broadcast.disconnect()


CONTENDERS: dict[str, type[Contender]] = {
    "betcore_async": Ours,
    "redis-py": RedisPy,
    "coredis": Coredis,
    "valkey-glide": Glide,
    "broadcaster": Broadcaster,
}
