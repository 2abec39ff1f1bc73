"""A cluster: commands find their server, also while slots and masters change."""

import asyncio
import os
import signal
import traceback
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from redis_servers import cluster
from redis_tools import payloads, take, until

from betcore_async.app import Betcore
from betcore_async.config import RedisSettings
from betcore_async.errors import (
    ModelError,
    RedisAuthError,
    RedisCommandError,
    RedisCrossSlotError,
    RedisError,
    RedisOutcomeUnknownError,
    RedisTimeoutError,
    RedisUnavailableError,
)
from betcore_async.redis import Message, PriceCache, PubSubHub, Reconnected, RedisClient
from betcore_async.redis.slots import slot_of_key

TIMEOUT = 5.0  # seconds


@pytest.fixture(scope="module")
def servers():
    """Three masters, one of which has a replica, all with a password."""
    with cluster(masters=3, replicas=1, password="cluster-pw") as group:
        yield group


def settings_of(servers, **others):
    return RedisSettings.from_url(servers.url, **({"timeout": f"{TIMEOUT}s", "pool_size": 4} | others))


@pytest.fixture
async def client(servers):
    async with RedisClient(settings_of(servers)) as client:
        yield client


@pytest.fixture
def unique():
    return f"test-{uuid4().hex}"


def calls_of(servers, command):
    """Return how many calls of a command the servers have answered."""
    total = 0
    for server in servers.servers:
        stats = server.ask("INFO", "commandstats").decode().splitlines()
        lines = [line for line in stats if line.startswith(f"cmdstat_{command}:")]
        total += sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)
    return total


async def test_each_command_goes_to_the_server_of_its_key(servers, client, unique):
    keys = [f"{unique}:{number}" for number in range(60)]
    await asyncio.gather(*(client.set(key, key) for key in keys))
    pipeline = client.pipeline()
    for key in keys:
        pipeline.get(key).add("APPEND", key, "!")
    replies = await pipeline.execute()
    assert replies[::2] == [key.encode() for key in keys]
    homes = {key: servers.master_of(slot_of_key(key)) for key in keys}
    assert len(set(homes.values())) == 3
    assert all(home.ask("GET", key) == f"{key}!".encode() for key, home in homes.items())
    assert await client.delete(*keys, f"{unique}:nothing") == 60
    assert await client.raw.exists(keys[0]) == 0


async def test_commands_know_where_their_first_key_stands(client, unique):
    tag = f"{{{unique}}}"
    await client.execute("EVAL", "redis.call('SET', KEYS[1], ARGV[1])", 1, f"{tag}:a", "1")
    await client.execute("MSET", f"{tag}:b", 2, f"{tag}:c", 3)
    assert await client.execute("MGET", f"{tag}:a", f"{tag}:b", f"{tag}:c") == [b"1", b"2", b"3"]
    assert await client.execute("BITOP", "NOT", f"{tag}:n", f"{tag}:a") == 1
    assert await client.execute("XADD", f"{tag}:x", "1-1", "f", "v") == b"1-1"
    assert await client.execute("XREAD", "COUNT", 1, "STREAMS", f"{tag}:x", 0)
    assert await client.execute("BLPOP", f"{tag}:list", 0.01) is None
    assert await client.execute("LMPOP", 1, f"{tag}:list", "LEFT") is None
    assert await client.execute("OBJECT", "ENCODING", f"{tag}:b") == b"int"
    transaction = client.pipeline(transaction=True).add("INCR", f"{tag}:b").get(f"{tag}:c")
    assert (await transaction.execute()) == [3, b"3"]


async def test_keys_on_different_servers_are_a_typed_error(client):
    with pytest.raises(RedisCrossSlotError, match="in braces"):
        await client.execute("MGET", "a", "b")
    transaction = client.pipeline(transaction=True).add("INCR", "a").add("INCR", "b")
    with pytest.raises(RedisCrossSlotError, match="in braces"):
        await transaction.execute()
    assert await client.get("a") is None
    with pytest.raises(ModelError, match="raw"):
        await client.execute("DBSIZE")


async def test_prices_and_locks_work(servers, client, unique):
    prices = PriceCache(client)
    for server in servers.current_masters():
        server.ask("SCRIPT", "FLUSH")
    symbols = [f"S-{number}" for number in range(30)]
    start = datetime.now(UTC) - timedelta(minutes=5)
    assert await prices.set_prices([(symbol, 7, start) for symbol in symbols] + [("S-0", 8)]) == 31
    assert {str(point.price) for point in (await prices.get_latest_prices(symbols)).values()} == {"7", "8"}
    points = await prices.get_price_history("S-0", start, start + timedelta(hours=1))
    assert [int(point.price) for point in points] == [7, 8]
    for number in range(6):
        async with client.lock(f"{unique}:{number}", wait=1):
            assert await client.setnx(f"{unique}:{number}", "other") is False


async def test_health_names_masters_and_replicas(servers, client):
    async def is_told_whole():  # servers tell of a replica once they heard of it
        health = await client.health()
        assert health.ok
        assert sum(node.role == "master" for node in health.nodes) == 3
        return {node.address for node in health.nodes} == {server.address for server in servers.servers}

    await until(is_told_whole)


async def test_counters_stay_exact_while_their_slot_moves(servers, client, unique):
    keys = [f"{{{unique}}}:{number}" for number in range(40)]
    slot = slot_of_key(keys[0])
    done = dict.fromkeys(keys, 0)
    moving = asyncio.Event()
    settled = asyncio.Event()

    async def count(number):
        while not settled.is_set() or number == 0:
            key = keys[number]
            match number % 4:
                case 0:
                    await client.execute("INCR", key)
                case 1:
                    await client.pipeline(transaction=True).add("INCR", key).execute()
                case 2:
                    await client.execute("EVAL", "return redis.call('INCR', KEYS[1])", 1, key)
                case _:
                    await client.pipeline().get(f"{unique}:{number}").add("INCR", key).execute()
            done[key] += 1
            if settled.is_set():
                return
            if all(done.values()):
                moving.set()

    async def move():
        await moving.wait()
        source = servers.master_of(slot)
        others = [server for server in servers.current_masters() if server is not source]
        await asyncio.to_thread(servers.move, slot, others[0], pausing=0.003)
        await asyncio.to_thread(servers.move, slot, others[1], pausing=0.003)
        settled.set()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(move())
        for number in range(40):
            group.create_task(count(number))
    assert [int(await client.get(key)) for key in keys] == list(done.values())


async def test_many_redirections_renew_the_map_once(servers, client, unique):
    key = f"{{{unique}}}"
    slot = slot_of_key(key)
    await client.ping()
    source = servers.master_of(slot)
    target = next(server for server in servers.current_masters() if server is not source)
    await asyncio.to_thread(servers.move, slot, target)
    before = calls_of(servers, "cluster|slots")
    await asyncio.gather(*(client.execute("INCR", key) for _ in range(300)))
    assert await client.execute("INCR", key) == 301
    await asyncio.sleep(0)
    assert calls_of(servers, "cluster|slots") - before <= 6  # at most three servers are asked at a time


async def test_messages_of_every_shard_arrive(servers, client, unique):
    channels = [f"{unique}:{number}" for number in range(30)] + [f"{{{unique}}}:tagged"]
    assert len({servers.master_of(slot_of_key(channel)).port for channel in channels}) == 3
    async with PubSubHub(client) as hub, AsyncExitStack() as stack:
        streams = {each: await stack.enter_async_context(hub.subscribe(each, f"{unique}:all")) for each in channels}
        for number, channel in enumerate(channels):
            await hub.publish(channel, number, durable=number % 2 == 0)
        await client.publish(f"{unique}:all", len(channels))
        for number, stream in enumerate(streams.values()):
            assert payloads(await take(stream, 2)) == [number, len(channels)]
        async with hub.subscribe(*channels, replay_from="start") as late:
            assert sorted(payloads(await take(late, 16))) == list(range(0, 31, 2))
        with pytest.raises(ModelError, match="patterns"):
            await stack.enter_async_context(hub.subscribe(f"{unique}:*"))


async def test_a_price_stream_begins_with_what_is_known_and_goes_on(client):
    async with PubSubHub(client) as hub:
        prices = PriceCache(client, hub=hub)
        await prices.set_price("AA-1", 1)
        async with prices.stream("AA-1", "BB-2", "CC-3") as stream:
            assert (await anext(stream)).price == 1
            await prices.set_prices([("BB-2", 2), ("CC-3", 3)])
            assert {(point.symbol, int(point.price)) for point in await take(stream, 2)} == {("BB-2", 2), ("CC-3", 3)}


async def test_a_subscription_follows_its_slot_and_misses_no_durable_message(servers, client, unique):
    total, slot = 400, slot_of_key(unique)
    source = servers.master_of(slot)
    target = next(server for server in servers.current_masters() if server is not source)
    async with (
        PubSubHub(client) as hub,
        hub.subscribe(unique, maxsize=total) as stream,
        hub.subscribe(unique, f"{unique}:other", maxsize=total) as wide,
    ):
        moving = asyncio.create_task(asyncio.to_thread(servers.move, slot, target, pausing=0.1))
        for number in range(total):
            await hub.publish(unique, number, durable=True)
        await moving
        for subscription in (stream, wide):
            events = await take(subscription, total)
            while payload_count(events) < total:
                events += await take(subscription, 1)
            numbers = [number for number in payloads(events) if not isinstance(number, Reconnected)]
            assert numbers == list(range(total))
        await until(lambda: hub.stats().reconnects and hub.stats().connected)


def payload_count(events):
    return sum(isinstance(event, Message) for event in events)


async def test_a_frozen_master_holds_up_nobody_else(servers, unique):
    keys = {servers.master_of(slot_of_key(f"{unique}:{number}")): f"{unique}:{number}" for number in range(60)}
    frozen, (key, *others) = next(iter(keys)), keys.values()
    async with RedisClient(settings_of(servers, timeout="600ms", connect_timeout="200ms")) as client:
        await asyncio.gather(*(client.set(each, 0) for each in keys.values()))
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            stuck = asyncio.create_task(client.execute("INCR", key))
            mixed = asyncio.create_task(client.pipeline().get(key).get(others[0]).execute())
            assert [await client.execute("INCR", each) for each in others] == [1, 1]
            assert not stuck.done()
            with pytest.raises(RedisOutcomeUnknownError):
                await stuck
            with pytest.raises(RedisTimeoutError):
                await mixed
            assert not (await client.health()).ok
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        servers.until_settled()


@pytest.fixture
def mortal(servers):
    """The server that has a replica; whatever a test does to it, the next one finds the cluster whole."""
    (replica,) = (server for server in servers.servers if server.ask("ROLE")[0] == b"slave")
    victim = next(server for server in servers.servers if server.port == replica.ask("ROLE")[2])
    yield victim, replica
    replica.ask("CONFIG", "SET", "cluster-replica-no-failover", "no")
    if not victim.is_running:
        victim.start()
    if replica.ask("ROLE")[0] == b"master":
        victim.eventually(lambda reply: reply[0] == b"slave" and reply[3] == b"connected", "ROLE")
    servers.until_settled()


async def test_after_a_master_was_killed_its_replica_serves(servers, client, mortal, unique):
    keys = [f"{unique}:{number}" for number in range(30)]
    victim, replica = mortal
    outcomes = {}
    is_killed = False
    resumed = set()

    async def write(key):
        number = 0
        while key not in resumed:
            number += 1
            try:
                outcomes[key, number] = await client.execute("RPUSH", key, number)
            except (RedisOutcomeUnknownError, RedisUnavailableError, RedisTimeoutError, RedisCommandError) as error:
                outcomes[key, number] = error
            if is_killed and not isinstance(outcomes[key, number], RedisError):
                resumed.add(key)
            assert homes[key] is victim or not isinstance(outcomes[key, number], RedisError)

    homes = {key: servers.master_of(slot_of_key(key)) for key in keys}
    struck = next(key for key, home in homes.items() if home is victim)
    spared = next(key for key, home in homes.items() if home is not victim)
    async with (
        PubSubHub(client) as hub,
        hub.subscribe(f"channel:{{{struck}}}") as mourning,
        hub.subscribe(f"channel:{{{spared}}}") as calm,
    ):
        async with asyncio.timeout(40), asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(write(key))
            await until(lambda: len(outcomes) > 100)
            replica.ask("CONFIG", "SET", "cluster-replica-no-failover", "yes")
            await asyncio.to_thread(victim.kill)
            is_killed = True
            (told,) = await take(calm, 1)
            await hub.publish(calm.channels[0], 1)
            assert payloads(await take(calm, 1)) == [1]
            assert isinstance(told, Reconnected)
            assert struck not in resumed  # told and served before the replica took over
            replica.ask("CONFIG", "SET", "cluster-replica-no-failover", "no")
        await hub.publish(mourning.channels[0], 2, durable=True)
        told, message = await take(mourning, 2)
        assert isinstance(told, Reconnected)
        assert payloads([message]) == [2]
    for key in keys:
        written = [int(number) for number in await client.execute("LRANGE", key, 0, -1)]
        assert len(written) == len(set(written))  # nothing twice
        sure = [number for (name, number), outcome in outcomes.items() if name == key and is_refused(outcome)]
        assert not set(sure) & set(written)  # what surely had no effect had none
    assert (await client.health()).ok


def is_refused(outcome):
    return isinstance(outcome, RedisUnavailableError | RedisTimeoutError | RedisCommandError)


async def test_an_address_that_is_no_cluster_is_told(redis_url):
    host = redis_url.removeprefix("redis://").removesuffix("/0")
    with pytest.raises(RedisError, match="cluster support disabled"):
        await RedisClient(RedisSettings.from_url(f"redis+cluster://{host}")).open()


async def test_the_whole_toolkit_runs_on_a_cluster_named_in_the_environment(servers, unique, tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_ADDR", servers.url.replace(":cluster-pw@", ""))
    monkeypatch.setenv("REDIS_PASSWORD", "cluster-pw")
    monkeypatch.setenv("DB_PATH", str(tmp_path / "bets.db"))
    monkeypatch.setenv("PRICES_KEY_PREFIX", unique)
    async with Betcore() as core, core.hub.subscribe(f"{unique}:results") as results:
        assert (await core.health()).ok
        await core.prices.set_prices([("BTC-USD", 46350), ("ETH-USD", 2500)])
        assert len(await core.prices.get_latest_prices(["BTC-USD", "ETH-USD"])) == 2
        await core.hub.publish(f"{unique}:results", 7, durable=True)
        assert payloads(await take(results, 1)) == [7]
        assert core.stats().hub.connected


async def test_a_wrong_password_is_told_at_once_and_not_shown(servers):
    wrong = uuid4().hex
    with pytest.raises(RedisAuthError, match="REDIS_PASSWORD") as caught:
        await RedisClient(settings_of(servers, password=wrong)).open()
    assert wrong not in "".join(traceback.format_exception(caught.value))
