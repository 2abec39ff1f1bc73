"""The core of this layer on every kind of server at hand: the embedded Valkey, and an installed Redis or Valkey."""

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from redis_tools import payloads, take

from betcore_async.config import RedisSettings
from betcore_async.errors import RedisCommandError
from betcore_async.redis import EmbeddedRedis, PriceCache, PubSubHub, Reconnected, RedisClient

INSTALLED = [program for name in ("redis-server", "valkey-server") if (program := shutil.which(name))]


@pytest.fixture(params=[None, *INSTALLED], ids=lambda program: program or "embedded")
async def client(request):
    async with (
        EmbeddedRedis(binary=request.param) as server,
        RedisClient(RedisSettings.from_url(server.url, pool_size=4)) as client,
    ):
        yield client


async def test_it_says_which_server_it_is(client, request):
    health = await client.health()
    kind, version = health.server.split()
    assert health.role == "master"
    if "embedded" in request.node.callspec.id:
        assert kind == "valkey"
    if "redis-server" in request.node.callspec.id:
        assert int(version.split(".")[0]) >= 6


async def test_calls_of_many_tasks_pipelines_transactions_and_waits_are_each_answered_right(client):
    async def ask(number):
        await client.set(f"key-{number}", number, ttl=60)
        replies = await client.pipeline(transaction=number % 2 == 0).get(f"key-{number}").add("INCR", "sum").execute()
        return int(replies[0])

    waiting = asyncio.create_task(client.execute("BLPOP", "list", 5))
    assert await asyncio.gather(*map(ask, range(64))) == list(range(64))
    assert await client.get("sum") == b"64"
    await client.execute("RPUSH", "list", "x")
    assert await waiting == [b"list", b"x"]
    with pytest.raises(RedisCommandError, match="WRONGTYPE"):
        await client.execute("LPUSH", "sum", 1)
    async with client.lock("lock", ttl=5):
        assert await client.setnx("lock", "x") is False


async def test_messages_reach_channels_and_patterns_and_the_history_gives_what_an_outage_took(client):
    async with PubSubHub(client) as hub, hub.subscribe("a:1") as by_name, hub.subscribe("a:*") as by_pattern:
        await hub.publish("a:1", 0, durable=True)
        await hub.publish("a:1", 1)
        assert payloads(await take(by_name, 2)) == payloads(await take(by_pattern, 2)) == [0, 1]
        await client.execute("CLIENT", "KILL", "TYPE", "pubsub", repeatable=True)
        for number in range(2, 5):
            await hub.publish("a:1", number, durable=True)
            await hub.publish(f"a:{number}", number, durable=True)
        heard = [event for event in await take(by_name, 4) if not isinstance(event, Reconnected)]
        assert payloads(heard) == [2, 3, 4]
        heard = [event for event in await take(by_pattern, 7) if not isinstance(event, Reconnected)]
        assert sorted(payloads(heard)) == [2, 2, 3, 3, 4, 4]
        async with hub.subscribe("a:1", replay_from="start") as late:
            assert payloads(await take(late, 4)) == [0, 2, 3, 4]


async def test_prices_are_exact_pruned_streamed_and_late_ticks_do_not_win(client):
    now = datetime.now(UTC)
    prices = PriceCache(client)
    async with prices.stream("BTC-USD", policy="block") as stream:
        written = [("BTC-USD", f"{100 + number}.10", now - timedelta(seconds=10 - number)) for number in range(10)]
        assert await prices.set_prices([*written, ("BTC-USD", "99.9", now - timedelta(seconds=30))]) == 11
        assert [event.price for event in await take(stream, 10)] == [Decimal(price) for _, price, _ in written]
    latest = await prices.get_latest_prices(["BTC-USD", "ETH-USD"])
    assert {symbol: str(point.price) for symbol, point in latest.items()} == {"BTC-USD": "109.10"}
    history = await prices.get_price_history("BTC-USD", now - timedelta(minutes=1), now)
    assert [str(point.price) for point in history] == ["99.9", *(price for _, price, _ in written)]
    candles = await prices.candles("BTC-USD", now - timedelta(minutes=1), now, timedelta(hours=1))
    assert max(candle.high for candle in candles) == Decimal("109.10")


async def test_a_server_that_is_out_of_memory_refuses_writes_whole_and_goes_on_afterwards(client):
    prices, hub = PriceCache(client), PubSubHub(client)
    await prices.set_price("BTC-USD", 1)  # the server knows the scripts now
    await hub.publish("a", 1, durable=True)
    keys = await client.execute("DBSIZE")
    await client.execute("CONFIG", "SET", "maxmemory", 1)
    for write in (client.set("key", "x"), prices.set_price("ETH-USD", 2), hub.publish("b", 2, durable=True)):
        with pytest.raises(RedisCommandError, match="OOM"):
            await write
    await client.execute("CONFIG", "SET", "maxmemory", 0)
    assert await client.execute("DBSIZE") == keys
    async with PubSubHub(client) as reader, reader.subscribe("a", replay_from="start") as stream:
        assert payloads(await take(stream, 1)) == [1]
        assert stream.pending == 0
