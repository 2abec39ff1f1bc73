"""Durable messages over outages: none lost, none twice, in order."""

import asyncio
import os
import signal
from datetime import timedelta

import pytest
from redis_tools import free_port, kill, payloads, take, until

from betcore_async.config import RedisSettings
from betcore_async.errors import RedisOutcomeUnknownError, RedisUnavailableError
from betcore_async.redis import Gap, PubSubHub, Reconnected, RedisClient, topics
from betcore_async.redis.embedded import _find_binary


@pytest.fixture
async def client(settings):
    async with RedisClient(settings.model_copy(update={"timeout": 20 * settings.timeout})) as client:
        yield client


async def kill_subscribers(client):
    return await client.execute("CLIENT", "KILL", "TYPE", "pubsub", repeatable=True)


async def kill_some(client, number):
    """Kill the hub's connection, as soon as it has one that is subscribed, at one of a hundred messages."""
    if number % 100 == 50:
        await until(lambda: kill_subscribers(client))


async def test_killed_connections_lose_nothing_and_double_nothing(client):
    total = 1200

    async def follow(policy, channels, maxsize):
        numbers = []
        async with hub.subscribe(*channels, policy=policy, maxsize=maxsize) as stream:
            ready.release()
            while len(numbers) < total // 3 * len(channels):
                numbers += payloads([event for event in await take(stream, 1) if not isinstance(event, Reconnected)])
        return numbers

    ready = asyncio.Semaphore(0)
    async with PubSubHub(client) as hub, PubSubHub(client) as publisher:
        followers = [
            asyncio.create_task(follow(policy, channels, maxsize))
            for policy, maxsize in (("block", 5), ("drop_oldest", 2000), ("disconnect", 2000))
            for channels in (["channel-0"], ["channel-1", "channel-2"], ["channel-0", "channel-1", "channel-2"])
        ]
        for _ in followers:
            await ready.acquire()
        for number in range(total):
            await kill_some(client, number)
            await publisher.publish(f"channel-{number % 3}", number, durable=True)
        async with asyncio.timeout(60):
            results = await asyncio.gather(*followers)
        assert hub.stats().refilled > 0
    for numbers in results:
        assert len(set(numbers)) == len(numbers), "none twice"
        for channel in range(3):
            mine = [number for number in numbers if number % 3 == channel]
            assert mine in ([], list(range(channel, total, 3))), "none lost, in order"


async def test_a_pattern_loses_nothing_and_doubles_nothing_while_channels_come_and_connections_go(client):
    total = 900

    async def follow(policy, maxsize):
        messages = []
        async with hub.subscribe("round-*", policy=policy, maxsize=maxsize) as stream:
            ready.release()
            while len(messages) < total:
                messages += [event for event in await take(stream, 1) if not isinstance(event, Reconnected)]
        return messages

    ready = asyncio.Semaphore(0)
    async with PubSubHub(client) as hub, PubSubHub(client) as publisher:
        await publisher.publish("round-0", "before anybody listened", durable=True)
        followers = [asyncio.create_task(follow(*how)) for how in (("block", 5), ("drop_oldest", 2000))]
        for _ in followers:
            await ready.acquire()
        for number in range(total):
            await kill_some(client, number)
            await publisher.publish(f"round-{number // 30 + number % 3}", number, durable=True)
        async with asyncio.timeout(60):
            results = await asyncio.gather(*followers)
        assert hub.stats().refilled > 0
    for messages in results:
        assert {message.pattern for message in messages} == {"round-*"}
        assert sorted(payloads(messages)) == list(range(total)), "none lost, none twice"
        for channel in {message.channel for message in messages}:
            mine = payloads([message for message in messages if message.channel == channel])
            assert mine == sorted(mine), "in order"


class Outage:
    """Keeps a hub out for as long as the block lasts, while others go on."""

    def __init__(self, hub, client, other):
        self._hub, self._client, self._other = hub, client, other

    async def __aenter__(self):
        await self._client.execute("CONFIG", "SET", "requirepass", "secret")
        await kill_subscribers(self._client)
        await until(lambda: not self._hub.stats().connected)

    async def __aexit__(self, *_):
        await self._other.execute("CONFIG", "SET", "requirepass", "")


async def test_after_an_outage_a_pattern_gets_what_channels_old_and_new_missed_and_gaps_tell_what_is_gone(
    server, client
):
    async with (
        RedisClient(RedisSettings.from_url(server.url)) as other,
        PubSubHub(other, history=3) as publisher,
        PubSubHub(client) as hub,
    ):
        await publisher.publish("a:old", -1, durable=True)
        async with hub.subscribe("a:*") as early, hub.subscribe("a:*", "b") as both:
            await publisher.publish("a:known", 0, durable=True)
            assert payloads(await take(early, 1) + await take(both, 1)) == [0, 0]
            async with Outage(hub, client, other):
                for number in range(1, 3):
                    await publisher.publish("a:known", number, durable=True)
                await publisher.publish("a:old", 3, durable=True)
                await publisher.publish("b", 4, durable=True)
                for number in range(5, 10):
                    await publisher.publish("a:new", number, durable=True)
                await publisher.publish("c:other", 99, durable=True)
            events = await take(early, 8)
            assert isinstance(events[0], Reconnected)
            assert {event.channel for event in events if not isinstance(event, Reconnected | Gap)} == {
                "a:known",
                "a:old",
                "a:new",
            }
            assert sorted(payloads([event for event in events[1:] if event != Gap(2)])) == [1, 2, 3, 7, 8, 9]
            assert events[events.index(Gap(2)) + 1].payload == b"7", "where the messages are missing"
            assert sorted(payloads([e for e in (await take(both, 9))[1:] if e != Gap(2)])) == [1, 2, 3, 4, 7, 8, 9]
            async with hub.subscribe("a:*") as late:
                await publisher.publish("a:new", 10, durable=True)
                assert payloads(await take(early, 1) + await take(both, 1) + await take(late, 1)) == [10, 10, 10]
            async with Outage(hub, client, other):
                await publisher.publish("a:new", 11, durable=True)
            assert payloads((await take(early, 2))[1:]) == [11]


async def test_a_history_that_expired_in_its_time_is_no_gap_for_a_pattern(server, client):
    async with (
        RedisClient(RedisSettings.from_url(server.url)) as other,
        PubSubHub(other, history_life=timedelta(milliseconds=50)) as publisher,
        PubSubHub(client) as hub,
    ):
        await PubSubHub(other).publish("a:1", 1, durable=True)
        async with hub.subscribe("a:*") as stream:
            await publisher.publish("a:2", 2, durable=True)
            assert payloads(await take(stream, 1)) == [2]
            await until(gone(other, "history:{a:2}"))
            async with Outage(hub, client, other):
                await PubSubHub(other).publish("a:3", 3, durable=True)
            events = await take(stream, 2)
            assert isinstance(events[0], Reconnected)
            assert payloads(events[1:]) == [3]


def gone(client, key):
    async def is_gone():
        return await client.execute("EXISTS", key) == 0

    return is_gone


async def test_a_pattern_is_told_of_a_server_that_lost_its_memory_and_goes_on(server, client):
    async with PubSubHub(client) as hub, hub.subscribe("a:*") as stream:
        await hub.publish("a:1", 1, durable=True)
        await take(stream, 1)
        await kill(server)
        await until(lambda: not hub.stats().connected)
        await server.start()
        assert isinstance((await take(stream, 1))[0], Reconnected)
        assert await take(stream, 1) == [Gap(0)]
        await hub.publish("a:1", 2, durable=True)
        assert payloads(await take(stream, 1)) == [2]


async def test_of_channels_beyond_what_a_pattern_remembers_nobody_knows_but_nothing_is_doubled(
    server, client, monkeypatch
):
    monkeypatch.setattr(topics, "_MOST_CHANNELS", 2)
    async with (
        RedisClient(RedisSettings.from_url(server.url)) as other,
        PubSubHub(other) as publisher,
        PubSubHub(client) as hub,
        hub.subscribe("a:*") as stream,
    ):
        for number in range(3):
            await publisher.publish(f"a:{number}", number, durable=True)
        await take(stream, 3)
        async with Outage(hub, client, other):
            for number in range(4):  # the first two were forgotten, the last is new
                await publisher.publish(f"a:{number}", 10 + number, durable=True)
        events = await stream.batch()
        assert isinstance(events[0], Reconnected)
        assert Gap(0) in events
        assert sorted(payloads([event for event in events[1:] if event != Gap(0)])) == [12, 13]


async def test_a_pattern_whose_histories_may_not_be_read_is_told_that_nobody_knows(server, client):
    rules = ("on", ">secret", "~none", "&*", "+@all")
    await client.execute("ACL", "SETUSER", "limited", *rules)
    limited = RedisSettings.from_url(server.url, username="limited", password="secret")
    async with RedisClient(limited) as reader, PubSubHub(reader) as hub, hub.subscribe("a:*") as stream:
        await PubSubHub(client).publish("a:1", 1, durable=True)
        assert payloads(await take(stream, 1)) == [1]
        await kill_subscribers(client)
        events = await take(stream, 2)
        assert isinstance(events[0], Reconnected)
        assert events[1] == Gap(0)


async def test_what_was_published_during_an_outage_follows_the_reconnected_event(server, client):
    async with (
        RedisClient(RedisSettings.from_url(server.url)) as other,
        PubSubHub(other) as publisher,
        PubSubHub(client) as hub,
        hub.subscribe("a") as stream,
        hub.subscribe("a", "b") as both,
    ):
        await publisher.publish("a", 0, durable=True)
        assert payloads(await take(stream, 1) + await take(both, 1)) == [0, 0]
        await client.execute("CONFIG", "SET", "requirepass", "secret")  # keeps the hub out
        await kill_subscribers(client)
        await until(lambda: not hub.stats().connected)
        for number in range(1, 4):
            await publisher.publish("a", number, durable=True)
            await publisher.publish("a", 100 + number)
        await publisher.publish("b", 10, durable=True)
        await other.execute("CONFIG", "SET", "requirepass", "")
        events = await take(stream, 4)
        assert isinstance(events[0], Reconnected)
        assert payloads(events[1:]) == [1, 2, 3]
        events = await take(both, 5)
        assert isinstance(events[0], Reconnected)
        assert payloads(events[1:]) == [1, 2, 3, 10]
        await publisher.publish("a", 4, durable=True)
        assert payloads(await take(stream, 1) + await take(both, 1)) == [4, 4]


async def test_who_subscribes_during_an_outage_to_a_channel_that_others_had_is_live_only_afterwards(server, client):
    async with PubSubHub(client) as hub, hub.subscribe("a"):
        await kill(server)
        await until(lambda: not hub.stats().connected)
        coming = hub.subscribe("a")
        entering = asyncio.create_task(coming.__aenter__())
        await asyncio.sleep(0.05)
        assert not entering.done()
        await server.start()
        stream = await entering
        await client.publish("a", 1)
        assert payloads(await take(stream, 1)) == [1]
        await coming.__aexit__(None, None, None)


async def test_a_server_that_lost_its_memory_is_told_as_a_gap(server, client):
    async with PubSubHub(client) as hub, hub.subscribe("a") as stream:
        for number in range(3):
            await hub.publish("a", number, durable=True)
        await take(stream, 3)
        await kill(server)
        await until(lambda: not hub.stats().connected)
        await server.start()
        events = await take(stream, 2)
        assert isinstance(events[0], Reconnected)
        assert events[1] == Gap(0)
        await hub.publish("a", 3, durable=True)
        assert payloads(await take(stream, 1)) == [3]


class PersistentServer:
    """A server whose data outlive it."""

    def __init__(self, folder):
        self.port = free_port()
        self._folder = folder

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            str(_find_binary(None)),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "always"),
            stdout=asyncio.subprocess.DEVNULL,
        )

    async def kill(self):
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


async def test_a_killed_and_restarted_server_that_keeps_its_data_loses_nothing(tmp_path):
    """Every message reported as published arrives once, in order; one in doubt may arrive, once."""
    server = PersistentServer(tmp_path)
    await server.start()
    settings = RedisSettings(addr=f"127.0.0.1:{server.port}", timeout="10s", connect_timeout="1s")
    certain, doubtful = [], []
    try:
        async with (
            RedisClient(settings) as client,
            PubSubHub(client) as hub,
            hub.subscribe("a", maxsize=999) as stream,
        ):

            async def publish_on():
                for number in range(600):
                    try:
                        await hub.publish("a", number, durable=True)
                        certain.append(number)
                    except RedisOutcomeUnknownError:
                        doubtful.append(number)

            publishing = asyncio.create_task(publish_on())
            for kills, reached in enumerate((150, 300, 450), start=1):
                await until(lambda reached=reached: len(certain) + len(doubtful) >= reached)
                await server.kill()
                await server.start()
                await until(lambda kills=kills: hub.stats().reconnects == kills)  # else one covers two kills
            await publishing
            numbers = []
            while not numbers or numbers[-1] < max(certain):
                numbers += payloads([event for event in await take(stream, 1) if not isinstance(event, Reconnected)])
            assert numbers == sorted(set(numbers))
            assert set(certain) <= set(numbers) <= {*certain, *doubtful}
            assert hub.stats().reconnects == 3
    finally:
        await server.kill()


async def test_a_history_that_cannot_be_read_in_time_is_waited_for(server, settings):
    async with RedisClient(settings) as client, PubSubHub(client) as hub, hub.subscribe("a") as stream:
        await hub.publish("a", 1, durable=True)
        await take(stream, 1)
        await kill_subscribers(client)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(1)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert isinstance((await take(stream, 1))[0], Reconnected)
        await hub.publish("a", 2, durable=True)
        assert payloads(await take(stream, 1)) == [2]


async def test_publishing_durably_without_a_server_says_that_nothing_was_published(settings):
    client = RedisClient(settings.model_copy(update={"addr": f"127.0.0.1:{free_port()}"}))
    client.transport.open()
    async with PubSubHub(client) as hub:
        with pytest.raises(RedisUnavailableError):
            await hub.publish("a", 1, durable=True)
    await client.close()


async def test_a_history_that_ends_before_what_was_seen_is_told(client):
    """As after a failover to a replica that had not got the last messages."""
    async with PubSubHub(client) as hub, hub.subscribe("news") as stream:
        for number in range(3):
            await hub.publish("news", number, durable=True)
        *_, last = await take(stream, 3)
        await client.execute("XDEL", "history:{news}", last.offset)
        await kill_subscribers(client)
        told, gap = await take(stream, 2)
        await hub.publish("news", 3, durable=True)
        assert isinstance(told, Reconnected)
        assert gap == Gap(0)
        assert payloads(await take(stream, 1)) == [3]
