"""Every fault has its stated outcome: within the deadline, nothing applied twice, nobody given another's reply."""

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from redis_tools import FaultyProxy, free_port, payloads, take, until

from betcore_async.config import RedisSettings
from betcore_async.errors import (
    RedisCommandError,
    RedisOutcomeUnknownError,
    RedisTimeoutError,
)
from betcore_async.redis import EmbeddedRedis, PriceCache, PubSubHub, Reconnected, RedisClient

SLACK = 20.0  # seconds: the machine is shared, and what hangs hangs for longer


def at(port, **options):
    return RedisSettings.from_url(
        f"redis://127.0.0.1:{port}", **{"timeout": "600ms", "connect_timeout": "600ms"} | options
    )


@asynccontextmanager
async def faulty(**options):
    async with (
        EmbeddedRedis() as server,
        FaultyProxy(server.url.removeprefix("unix://")).running() as proxy,
        RedisClient(at(proxy.port, **options)) as client,
        RedisClient(RedisSettings.from_url(server.url)) as direct,
    ):
        yield proxy, client, direct


@asynccontextmanager
async def scripted(replies):
    """A server that answers each command with what `replies(command)` returns."""
    tasks = set()

    async def accept(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                writer.write(replies(words))
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)  # the transports end in the next turn


async def test_delay_costs_time_and_nothing_else():
    async with faulty(timeout="10s") as (proxy, client, _):
        proxy.delay = 0.02

        async def ask(number):
            assert await client.execute("ECHO", number) == b"%d" % number

        tasks = [asyncio.create_task(ask(number)) for number in range(200)]
        await asyncio.sleep(0.01)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.gather(*map(ask, range(1000, 1100)))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError | None) for result in results)
        assert client.stats().errors == 0


async def test_a_connection_that_is_slow_to_come_is_not_lost_while_late_calls_are_looked_for():
    async with faulty(min_idle_conns=1, connect_timeout="5s") as (proxy, client, direct):
        proxy.delay = 0.2  # several looks, which come every twentieth of 600 ms
        waiting = asyncio.create_task(client.execute("BLPOP", "list", 5))
        await until(lambda: client.stats().connections_in_use)
        await direct.execute("RPUSH", "list", "x")
        assert await waiting == [b"list", b"x"]
        stats = client.stats()
        assert stats.connects == stats.connections_idle + stats.connections_in_use == 2


async def test_a_reset_is_repaired_for_what_may_be_repeated_and_told_for_the_rest():
    async with faulty(timeout="10s") as (proxy, client, direct):
        await direct.set("a", 7)
        outcomes = Counter()

        async def write():
            for _ in range(150):
                try:
                    await client.execute("INCR", "counter")
                    outcomes["done"] += 1
                except RedisOutcomeUnknownError:
                    outcomes["unknown"] += 1

        async def read():
            for _ in range(150):
                assert await client.get("a") == b"7"

        async def reset():
            for _ in range(8):
                await asyncio.sleep(0.02)
                proxy.reset_all()

        await asyncio.gather(*(write() for _ in range(4)), *(read() for _ in range(4)), reset())
        assert outcomes["done"] + outcomes["unknown"] == 600
        assert outcomes["done"] <= int(await direct.get("counter")) <= 600


async def test_a_cut_inside_a_reply_gives_nobody_a_part_of_it():
    async with faulty(timeout="10s") as (proxy, client, direct):
        value = bytes(range(256)) * 400
        await direct.set("large", value)
        for cut in (1, 3, 9, 5000, 102_405):
            proxy.cut_after = cut
            reads = [client.get("large") for _ in range(3)]
            echoes = [client.execute("ECHO", number) for number in range(3)]
            results = await asyncio.gather(*reads, *echoes)
            assert results == [value] * 3 + [b"0", b"1", b"2"]
        assert proxy.cuts == 5
        proxy.cut_after = 2
        with pytest.raises(RedisOutcomeUnknownError):
            await client.execute("INCR", "counter")
        assert await direct.get("counter") == b"1"


@pytest.mark.parametrize("channel", ["a:1", "a:*"])
async def test_a_cut_inside_a_message_loses_nothing_durable_and_gives_nobody_a_part(channel):
    async with (
        faulty(timeout="10s") as (proxy, client, direct),
        PubSubHub(client) as hub,
        PubSubHub(direct) as publisher,
        hub.subscribe(channel) as stream,
    ):
        for number, cut in enumerate((1, 7, 40, 60)):
            proxy.cut_after = cut
            await publisher.publish("a:1", number, durable=True)
            await until(lambda cuts=number + 1: proxy.cuts == cuts)
            events = await take(stream, 2)
            assert isinstance(events[0], Reconnected)
            assert payloads(events[1:]) == [number]
        await publisher.publish("a:1", 4, durable=True)
        assert payloads(await take(stream, 1)) == [4]


async def test_a_half_open_connection_costs_one_deadline_and_is_not_used_again():
    async with faulty() as (proxy, client, direct):
        await client.set("a", 1)
        proxy.is_silent = True
        started = time.monotonic()
        results = await asyncio.gather(client.get("a"), client.execute("INCR", "counter"), return_exceptions=True)
        assert [type(result) for result in results] == [RedisTimeoutError, RedisOutcomeUnknownError]
        assert 0.55 < time.monotonic() - started < 0.6 + SLACK
        proxy.is_silent = False
        assert await client.get("a") == b"1"
        assert await direct.get("counter") is None


async def test_callers_that_give_up_early_do_not_keep_a_dead_connection_alive():
    async with faulty(min_idle_conns=0) as (proxy, client, _):
        await client.set("a", 1)
        proxy.is_silent = True
        impatient = [asyncio.create_task(client.get("a")) for _ in range(20)]
        await asyncio.sleep(0.02)
        for task in impatient:
            task.cancel()
        await asyncio.wait(impatient)
        assert client.stats().connections_in_use == 1
        await asyncio.sleep(0.7)  # nobody waits for an answer; the deadline of the calls has passed all the same
        proxy.is_silent = False
        assert await client.get("a") == b"1"
        assert client.stats().connects == 2


async def test_a_paused_server_is_waited_for_within_the_deadline_and_not_beyond(server, settings):
    async with RedisClient(settings.model_copy(update={"timeout": 10 * settings.timeout})) as patient:
        await patient.execute("CLIENT", "PAUSE", 300, "ALL")
        started = time.monotonic()
        assert await patient.execute("INCR", "a") == 1
        assert time.monotonic() - started > 0.2
        async with RedisClient(settings) as hasty:
            await patient.execute("CLIENT", "PAUSE", 900, "ALL")
            started = time.monotonic()
            results = await asyncio.gather(hasty.get("a"), hasty.execute("INCR", "b"), return_exceptions=True)
            assert [type(result) for result in results] == [RedisTimeoutError, RedisOutcomeUnknownError]
            assert time.monotonic() - started < 0.6 + SLACK
            assert await patient.get("a") == b"1"
            assert await patient.get("b") in {None, b"1"}


async def test_a_loading_server_is_waited_for():
    def replies(words):
        nonlocal left
        left -= 1
        return b"-LOADING Redis is loading the dataset in memory\r\n" if left >= 0 else b":5\r\n"

    left = 3
    async with scripted(replies) as port, RedisClient(at(port, min_idle_conns=0)) as client:
        left = 2  # the same on a connection that is there already: refused, therefore surely not applied
        assert await client.execute("INCR", "a") == 5
        left = 2
        assert await client.pipeline().add("INCR", "a").add("INCR", "b").execute() == [5, 5]
        left = 10**9
        started = time.monotonic()
        with pytest.raises(RedisCommandError, match="LOADING"):
            await client.execute("INCR", "a")
        assert time.monotonic() - started < 0.6 + SLACK


async def test_a_server_that_keeps_loading_is_a_command_error_when_opening():
    async with scripted(lambda _: b"-LOADING Redis is loading the dataset in memory\r\n") as port:
        with pytest.raises(RedisCommandError, match="LOADING"):
            await RedisClient(at(port)).open()


async def test_a_reply_to_no_command_ends_the_connection_rather_than_reach_somebody():
    def replies(words):
        return b"+PONG\r\n" if words == [b"PING"] else b"$1\r\na\r\n$1\r\nb\r\n"

    async with scripted(replies) as port, RedisClient(at(port, min_idle_conns=1)) as client:
        for number in range(3):
            assert await client.get(f"key-{number}") == b"a"
            await until(lambda: client.stats().connections_idle == 0)
        assert client.stats().connects == 3


async def test_writes_that_the_server_refuses_are_command_errors_and_leave_nothing(server, settings):
    async with RedisClient(settings) as client, PubSubHub(client) as hub:
        prices = PriceCache(client)
        await client.execute("CONFIG", "SET", "maxmemory", "1")
        for write in (
            lambda: prices.set_price("BTC", 1),
            lambda: prices.set_prices([("BTC", 1), ("ETH", 2)]),
            lambda: hub.publish("a", 1, durable=True),
            lambda: client.pipeline(transaction=True).set("a", 1).execute(),
        ):
            with pytest.raises(RedisCommandError, match=r"OOM|maxmemory|EXECABORT|memory"):
                await write()
        await client.execute("CONFIG", "SET", "maxmemory", "0")
        assert await client.execute("DBSIZE") == 0
        await client.execute("REPLICAOF", "127.0.0.1", str(free_port()))
        for write in (lambda: prices.set_price("BTC", 1), lambda: hub.publish("a", 1, durable=True)):
            with pytest.raises(RedisCommandError, match=r"(?i)read.?only|replica"):
                await write()
        assert (await client.health()).role == "slave"
        await client.execute("REPLICAOF", "NO", "ONE")
        await prices.set_price("BTC", 1)


async def test_a_hub_behind_a_half_open_connection_notices_and_goes_on():
    async with (
        faulty() as (proxy, client, direct),
        PubSubHub(client, heartbeat=timedelta(milliseconds=50)) as hub,
        PubSubHub(direct) as publisher,
        hub.subscribe("a") as stream,
    ):
        await publisher.publish("a", 1, durable=True)
        assert payloads(await take(stream, 1)) == [1]
        proxy.is_silent = True
        await publisher.publish("a", 2, durable=True)
        await until(lambda: not hub.stats().connected)
        proxy.is_silent = False
        events = await take(stream, 2)
        assert isinstance(events[0], Reconnected)
        assert payloads(events[1:]) == [2]
