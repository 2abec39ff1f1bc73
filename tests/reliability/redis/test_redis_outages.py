"""Servers that are down, silent, locked, strangers, or die in the middle: each failure has its own error, in time."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

import pytest
from redis_tools import Proxy, free_port, kill, until

from betcore_async.config import RedisSettings
from betcore_async.errors import (
    RedisAuthError,
    RedisCommandError,
    RedisOutcomeUnknownError,
    RedisTimeoutError,
    RedisUnavailableError,
)
from betcore_async.redis import EmbeddedRedis, RedisClient

DEADLINE = 0.6
SLACK = 20.0  # seconds: the machine is shared, and what hangs hangs for longer


def at(port, **options):
    defaults = {"pool_size": 4, "timeout": "600ms", "connect_timeout": "600ms"}
    return RedisSettings.from_url(f"redis://127.0.0.1:{port}", **defaults | options)


@asynccontextmanager
async def within(seconds):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds + SLACK


@asynccontextmanager
async def stopped(server):
    """Freeze the server: it keeps its connections, and answers nothing."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@asynccontextmanager
async def listening(answer):
    """Listen, and run `answer(reader, writer)` for every connection."""
    tasks = set()

    async def accept(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            await answer(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


@asynccontextmanager
async def proxied():
    async with (
        EmbeddedRedis() as server,
        Proxy(server.url.removeprefix("unix://")).running() as proxy,
        RedisClient(at(proxy.port)) as client,
    ):
        yield proxy, client


async def silent(reader, _writer):
    while await reader.read(1000):
        pass


async def web(reader, writer):
    await reader.read(1000)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


async def test_a_server_that_is_down_is_unavailable_and_its_address_named():
    port = free_port()
    async with within(DEADLINE):
        with pytest.raises(RedisUnavailableError, match=str(port)) as error:
            await RedisClient(at(port)).open()
    assert type(error.value) is RedisUnavailableError
    assert error.value.address == f"127.0.0.1:{port}"


async def test_a_missing_socket_is_unavailable(tmp_path):
    settings = RedisSettings(addr=f"unix:{tmp_path}/none.sock", timeout="300ms")
    with pytest.raises(RedisUnavailableError, match="none"):
        await RedisClient(settings).open()


async def test_a_black_hole_is_a_timeout():
    async with listening(silent) as port, within(DEADLINE):
        with pytest.raises(RedisTimeoutError) as error:
            await RedisClient(at(port)).open()
    assert 0.5 < error.value.waited < DEADLINE + SLACK


async def test_a_stranger_at_the_port_is_told_as_such():
    async with listening(web) as port, within(DEADLINE):
        with pytest.raises(RedisUnavailableError, match="does not speak"):
            await RedisClient(at(port)).open()


async def test_a_wrong_or_missing_password_is_refused_at_once_and_shown_nowhere(server, settings):
    async with RedisClient(settings) as client:
        await client.execute("CONFIG", "SET", "requirepass", "right-password")
        for password in ("wrong-password", None):
            url = settings.model_copy(update={"password": None})
            wrong = RedisSettings.from_url(server.url, password=password, timeout="30s") if password else url
            async with within(0):
                with pytest.raises(RedisAuthError) as error:
                    await RedisClient(wrong).open()
            assert "wrong-password" not in repr(error.value) + str(error.value) + repr(error.value.__cause__)
        async with RedisClient(RedisSettings.from_url(server.url, password="right-password")) as allowed:
            await allowed.set("a", 1)


async def test_health_tells_an_outage_instead_of_raising(server, settings):
    async with RedisClient(settings) as client:
        async with stopped(server):
            health = await client.health()
        assert not health.ok
        assert "did not answer" in health.error
        assert (await client.health()).ok


async def test_a_frozen_server_costs_each_call_its_deadline_and_tells_what_is_known(server, settings):
    async with RedisClient(settings.model_copy(update={"min_idle_conns": 4})) as client:
        async with stopped(server), within(DEADLINE):
            results = await asyncio.gather(
                client.get("a"),
                client.set("a", 1),
                client.setnx("b", 1),
                client.publish("c", 1),
                client.pipeline().get("a").set("a", 2).execute(),
                client.pipeline().get("a").add("INCR", "a").execute(),
                return_exceptions=True,
            )
        kinds = [type(result) for result in results]
        assert kinds[:4] == [RedisTimeoutError, RedisTimeoutError, RedisOutcomeUnknownError, RedisOutcomeUnknownError]
        assert kinds[4:] == [RedisTimeoutError, RedisOutcomeUnknownError]
        assert results[2].command == "SET"
        assert client.stats().timeouts == client.stats().errors == 6
        await client.set("a", 7)
        assert await client.get("a") == b"7"
        assert client.stats().connections_in_use == client.stats().waiting == 0


async def test_a_server_that_comes_back_within_the_deadline_is_not_noticed(server, settings):
    async with RedisClient(settings.model_copy(update={"timeout": 20 * settings.timeout})) as client:
        await client.set("a", 1)
        await kill(server)
        calls = [asyncio.create_task(client.set(f"k{number}", number)) for number in range(10)]
        await asyncio.sleep(0.1)
        await server.start()
        await asyncio.gather(*calls)
        assert await client.get("k7") == b"7"
        assert client.stats().retries > 0
        assert client.stats().errors == 0


async def test_a_server_killed_under_load_never_makes_a_counter_lie(server, settings):
    """Every increment that was reported done is there; those in doubt, and no others, may be there as well."""
    async with RedisClient(settings.model_copy(update={"timeout": 20 * settings.timeout})) as client:
        outcomes = []

        async def count(name):
            for _ in range(200):
                try:
                    outcomes.append((name, await client.execute("INCR", name)))
                except RedisOutcomeUnknownError:
                    outcomes.append((name, None))

        async def kill():
            for _ in range(10):
                await client.raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await asyncio.sleep(0.01)

        names = [f"counter-{number}" for number in range(8)]
        await asyncio.gather(kill(), *map(count, names))
        for name in names:
            mine = [value for who, value in outcomes if who == name]
            done = [value for value in mine if value is not None]
            assert done == sorted(set(done)), "no increment was told twice"
            assert len(done) <= int(await client.get(name)) <= len(mine)
        assert client.stats().connections_in_use == 0


async def test_a_lost_reply_never_repeats_what_is_not_safe_to_repeat():
    async with proxied() as (proxy, client):
        proxy.losing = b"INCR"
        with pytest.raises(RedisOutcomeUnknownError, match="INCR"):
            await client.execute("INCR", "a")
        proxy.losing = b"PUBLISH"
        with pytest.raises(RedisOutcomeUnknownError, match="PUBLISH"):
            await client.publish("channel", "x")
        proxy.losing = None
        assert await client.get("a") == b"1"
        assert proxy.lost == 2


async def test_a_broken_connection_is_told_to_everybody_on_it_as_fits_their_call():
    async with proxied() as (proxy, client):
        await client.set("a", 5)
        proxy.losing = b"INCR"
        reads = [client.get("a") for _ in range(20)]
        writes = [client.execute("INCR", "counter") for _ in range(20)]
        results = await asyncio.gather(*reads, *writes, return_exceptions=True)
        assert results[:20] == [b"5"] * 20
        assert [type(result) for result in results[20:]] == [RedisOutcomeUnknownError] * 20
        assert proxy.lost == 1, "all of them went out in one write"
        proxy.losing = None
        assert await client.get("counter") == b"20"


async def test_a_lost_reply_of_a_harmless_call_is_asked_for_again():
    async with proxied() as (proxy, client):
        await client.set("a", 5)
        proxy.losing = b"GET"
        reading = asyncio.create_task(client.get("a"))
        await until(lambda: proxy.lost >= 3)
        proxy.losing = None
        assert await reading == b"5"
        assert client.stats().retries >= 3


async def test_killed_idle_connections_are_replaced_without_anybody_noticing(settings):
    async with RedisClient(settings) as client:
        for _ in range(20):
            await client.raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.01)  # the loop learns of it
            await client.execute("INCR", "a")
        assert await client.get("a") == b"20"
        assert client.stats().errors == 0


async def test_a_server_out_of_memory_or_read_only_is_a_command_error(server, settings):
    async with RedisClient(settings) as client:
        await client.execute("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(RedisCommandError, match="maxmemory"):
            await client.set("a", 1)
        await client.execute("CONFIG", "SET", "maxmemory", "0")
        await client.execute("REPLICAOF", "127.0.0.1", str(free_port()))
        with pytest.raises(RedisCommandError, match="read only replica"):
            await client.set("a", 1)


async def test_too_many_clients_is_unavailable(settings):
    async with RedisClient(settings) as client:
        await client.execute("CONFIG", "SET", "maxclients", "2")
        with pytest.raises(RedisUnavailableError):
            await RedisClient(settings).open()


async def test_a_caller_that_waits_too_long_for_a_connection_times_out_and_its_place_is_free_again(settings):
    async with RedisClient(settings.model_copy(update={"pool_size": 1, "min_idle_conns": 1})) as client:
        waiting = asyncio.create_task(client.execute("BLPOP", "queue", 20))
        await until(lambda: client.stats().connections_in_use)
        calls = [client.get("a"), client.execute("INCR", "a")]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [RedisTimeoutError] * 2  # neither was sent
        waiting.cancel()
        await asyncio.wait([waiting])
        assert await client.get("a") is None
        assert client.stats().waiting == 0


async def test_cancelled_callers_never_leave_their_reply_to_another(server, settings):
    """A storm of cancellations at every stage; each answer that arrives must be the caller's own."""
    async with RedisClient(settings.model_copy(update={"timeout": 20 * settings.timeout})) as client:
        for number in range(64):
            await client.set(f"key-{number}", number)

        async def ask(number):
            for round_number in range(1000):
                if round_number % 3:
                    assert await client.get(f"key-{number}") == str(number).encode()
                else:
                    pipeline = client.pipeline().get(f"key-{number}").add("ECHO", number).get(f"key-{number}")
                    assert await pipeline.execute() == [str(number).encode()] * 3

        ended = time.monotonic() + 1.5
        tasks = {asyncio.create_task(ask(number)): number for number in range(64)}
        victims = iter(range(10**9))
        while time.monotonic() < ended:
            for _ in range(3):
                task = list(tasks)[next(victims) * 7 % len(tasks)]
                number = tasks.pop(task)
                task.cancel()
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()
                tasks[asyncio.create_task(ask(number))] = number
            await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError | None) for result in results), results
        await until(lambda: client.stats().connections_in_use == 0)  # replies to the last that gave up still come
        assert client.stats().waiting == client.stats().errors == 0

        async def has_let_go():
            info = (await client.execute("INFO", "clients")).decode()
            return int(info.partition("connected_clients:")[2].split()[0]) <= settings.pool_size

        await until(has_let_go)


async def test_opening_cancelled_at_any_step_leaves_no_connection(server, settings):
    for steps in range(25):
        client = RedisClient(settings)
        task = asyncio.create_task(client.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await client.close()
        assert not client.transport.is_open


async def test_a_database_that_is_not_there_is_a_command_error(settings):
    with pytest.raises(RedisCommandError, match="DB index"):
        await RedisClient(settings.model_copy(update={"db": 4000})).open()


async def test_a_call_that_was_sent_once_and_refused_later_does_not_claim_to_have_had_no_effect():
    received = []

    async def take_and_vanish(reader, writer):
        while request := await reader.read(1000):
            if b"SET\r\n$1\r\na" in request:
                received.append(request)
                server.close()
                return
            writer.write(b"+OK\r\n" * request.count(b"*"))

    async def accept(reader, writer):
        await take_and_vanish(reader, writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with RedisClient(at(server.sockets[0].getsockname()[1], min_idle_conns=1)) as client:
        with pytest.raises(RedisTimeoutError):
            await client.set("a", 1)
    assert len(received) == 1


async def test_a_lock_whose_answer_was_lost_is_given_back():
    async with proxied() as (proxy, client):
        async with client.lock("lock", ttl=60) as lock:
            await lock.extend()  # the server knows all scripts now
        proxy.losing = b"EVALSHA"
        with pytest.raises(RedisTimeoutError):
            await client.lock("lock", ttl=60).__aenter__()
        proxy.losing = None
        assert proxy.lost > 1
        async with client.lock("lock", wait=20):
            pass
