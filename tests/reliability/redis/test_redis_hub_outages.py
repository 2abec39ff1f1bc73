"""Lost connections, dead peers, refused logins: what subscribers are told, and that they are told."""

import asyncio
import os
import signal
import time
from datetime import timedelta

import pytest
from redis_tools import free_port, kill, payloads, publish, take, until

from betcore_async.config import RedisSettings
from betcore_async.errors import RedisAuthError, RedisCommandError, RedisTimeoutError, RedisUnavailableError
from betcore_async.redis import Message, PubSubHub, Reconnected, RedisClient


@pytest.fixture
async def client(settings):
    async with RedisClient(settings.model_copy(update={"timeout": 20 * settings.timeout})) as client:
        yield client


@pytest.fixture
async def hub(client):
    async with PubSubHub(client) as hub:
        yield hub


async def kill_subscribers(client):
    await client.execute("CLIENT", "KILL", "TYPE", "pubsub", repeatable=True)


async def test_after_a_restart_every_subscriber_is_told_and_hears_again(server, client, hub):
    async with (
        hub.subscribe("a", "p:*", policy="block") as first,
        hub.subscribe("a") as second,
        hub.subscribe("b", policy="latest") as third,
    ):
        await publish(client, "a", [1])
        assert payloads(await take(first, 1) + await take(second, 1)) == [1, 1]
        await kill(server)
        await until(lambda: not hub.stats().connected)
        await server.start()
        events = await take(first, 1) + await take(second, 1) + await take(third, 1)
        assert all(isinstance(event, Reconnected) and 0 < event.outage < 10 for event in events)
        assert await client.publish("a", 2) == 1
        assert await client.publish("p:x", 3) == 1
        assert await client.publish("b", 4) == 1
        assert payloads(await take(first, 2) + await take(second, 1) + await take(third, 1)) == [2, 3, 2, 4]
        assert hub.stats().reconnects == 1


async def test_between_two_tellings_of_a_lost_connection_nothing_is_missing(client, hub):
    """Numbers rise by one, except right after a Reconnected: no loss goes untold."""
    stop = asyncio.Event()

    async def publish_on():
        number = 0
        while not stop.is_set():
            await publish(client, "a", range(number, number + 5))
            number += 5
            await asyncio.sleep(0)

    async def kill_on():
        for number in range(15):
            await until(lambda number=number: hub.stats().reconnects == number and hub.stats().connected)
            await asyncio.sleep(0.03)
            await kill_subscribers(client)
        await until(lambda: hub.stats().reconnects == 15)
        stop.set()

    async with hub.subscribe("a", *(f"other-{number}" for number in range(200)), policy="block") as stream:
        work = asyncio.gather(publish_on(), kill_on())
        seen, told, gap_allowed, last = 0, 0, True, -1
        while not work.done():
            try:
                async with asyncio.timeout(0.2):
                    event = await anext(stream)
            except TimeoutError:
                continue
            if isinstance(event, Reconnected):
                told, gap_allowed = told + 1, True
                continue
            number = int(event.payload)
            assert number == last + 1 or (gap_allowed and number > last)
            seen, last, gap_allowed = seen + 1, number, False
        await work
    assert told == 15
    assert seen > 15


async def test_a_subscriber_that_comes_during_an_outage_waits_for_the_server(server, client, hub):
    async with hub.subscribe("a"):
        await kill(server)
        await until(lambda: not hub.stats().connected)
        coming = hub.subscribe("b")
        entering = asyncio.create_task(coming.__aenter__())
        await asyncio.sleep(0.05)
        assert not entering.done()
        await server.start()
        stream = await entering
        assert await client.publish("b", 1) == 1
        assert payloads(await take(stream, 1)) == [1]  # and no Reconnected: it never was connected before
        await coming.__aexit__(None, None, None)


async def test_a_server_that_falls_silent_is_noticed_by_its_missing_pong(server, settings):
    async with (
        RedisClient(settings) as client,
        PubSubHub(client, heartbeat=timedelta(milliseconds=50)) as hub,
        hub.subscribe("a") as stream,
    ):
        await asyncio.sleep(0.2)  # several heartbeats, all answered
        assert hub.stats().reconnects == 0
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await until(lambda: not hub.stats().connected)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert isinstance((await take(stream, 1))[0], Reconnected)
        await until(lambda: client.transport.is_open)
        await hub.publish("a", 1)
        assert payloads(await take(stream, 1)) == [1]


async def test_a_reader_that_blocks_for_long_is_not_taken_for_a_dead_server(settings):
    async with (
        RedisClient(settings.model_copy(update={"timeout": timedelta(milliseconds=300)})) as client,
        PubSubHub(client, heartbeat=timedelta(milliseconds=60)) as hub,
        hub.subscribe("a", policy="block", maxsize=1) as stream,
    ):
        await publish(client, "a", range(5))
        await asyncio.sleep(0.9)
        assert payloads(await take(stream, 5)) == list(range(5))
        assert hub.stats().reconnects == 0


async def test_subscribing_without_a_server_fails_in_time_and_by_name(settings):
    settings = settings.model_copy(update={"addr": f"127.0.0.1:{free_port()}"})
    client = RedisClient(settings)
    client.transport.open()
    async with PubSubHub(client) as hub:
        started = time.monotonic()
        async with asyncio.timeout(30):
            with pytest.raises(RedisUnavailableError, match=settings.addr.partition(":")[2]):
                await hub.subscribe("a").__aenter__()
        assert time.monotonic() - started > 0.5
    await client.close()


async def test_subscribing_at_a_frozen_server_times_out(server, settings):
    async with RedisClient(settings) as client, PubSubHub(client) as hub, hub.subscribe("a"):
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(RedisTimeoutError, match="acknowledge"):
                await hub.subscribe("b").__aenter__()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        async with hub.subscribe("b") as stream:
            await hub.publish("b", 1)
            assert payloads(await take(stream, 1)) == [1]


async def test_a_refused_login_is_told_at_once_to_newcomers_and_waited_out_by_the_others(server, client, hub):
    async with hub.subscribe("a", policy="block") as stream:
        await client.execute("CONFIG", "SET", "requirepass", "secret")
        await kill_subscribers(client)
        await until(lambda: not hub.stats().connected)
        async with asyncio.timeout(30):
            with pytest.raises(RedisAuthError):
                await hub.subscribe("b").__aenter__()
        async with RedisClient(RedisSettings.from_url(server.url, password="secret")) as admin:
            await admin.execute("CONFIG", "SET", "requirepass", "")
        assert isinstance((await take(stream, 1))[0], Reconnected)


async def test_a_channel_the_server_refuses_is_an_error_for_who_asked_and_nobody_else(server, client):
    await client.execute("ACL", "SETUSER", "guest", "on", ">pass", "~*", "&public*", "+@all")
    settings = RedisSettings.from_url(server.url, username="guest", password="pass")
    async with RedisClient(settings) as guest, PubSubHub(guest) as hub, hub.subscribe("public") as stream:
        with pytest.raises(RedisCommandError, match="SUBSCRIBE"):
            await hub.subscribe("private").__aenter__()
        events = await take(stream, 1)
        assert isinstance(events[0], Reconnected)  # the connection was begun afresh, for a clean state
        await client.publish("public", 1)
        assert payloads(await take(stream, 1)) == [1]


async def test_a_storm_of_subscribers_that_are_cancelled_leaves_the_steady_ones_whole(client, hub):
    async def visit(number):
        async with hub.subscribe(f"c{number % 5}", f"p{number % 3}*", policy="block", maxsize=4) as stream:
            async for event in stream:
                assert isinstance(event, Message)
                assert event.channel == f"c{number % 5}" or event.pattern == f"p{number % 3}*"

    async with hub.subscribe("c0", policy="block", maxsize=8) as steady:
        visitors = []
        for number in range(300):
            visitors.append(asyncio.create_task(visit(number)))
            if number % 4 == 0:
                visitors[number // 2].cancel()
            await client.publish("c0", number)
            await client.publish(f"p{number % 3}", number)
        for visitor in visitors:
            visitor.cancel()
        ended = await asyncio.gather(*visitors, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in ended)
        assert payloads(await take(steady, 300)) == list(range(300))
        stats = hub.stats()
        assert (stats.subscriptions, stats.reconnects) == (1, 0)
        await until(lambda: hub.stats().topics == 1)


async def test_closing_during_an_outage_leaves_nothing(server, client):
    for steps in range(8):
        async with PubSubHub(client) as hub, hub.subscribe("a") as stream:
            await kill_subscribers(client)
            for _ in range(steps):
                await asyncio.sleep(0.002)
            await hub.close()
            assert [event async for event in stream if not isinstance(event, Reconnected)] == []
