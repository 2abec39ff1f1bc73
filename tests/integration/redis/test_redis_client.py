import asyncio
from datetime import timedelta

import pytest
import redis.exceptions
from redis_tools import until

from betcore_async.config import RedisSettings
from betcore_async.errors import ModelError, RedisClosedError, RedisCommandError
from betcore_async.redis import RedisClient


async def test_values_come_back_as_the_bytes_that_were_stored(client, unique):
    for value, stored in [("é", "é".encode()), (b"\x00\xff\r\n", b"\x00\xff\r\n"), (7, b"7"), (0.1, b"0.1"), ("", b"")]:
        await client.set(unique, value)
        assert await client.get(unique) == stored
    assert await client.get(f"{unique}-missing") is None


@pytest.mark.parametrize("ttl", [timedelta(milliseconds=500), 0.5])
async def test_a_key_with_a_ttl_goes_away(client, unique, ttl):
    await client.set(unique, 1, ttl=ttl)
    assert 0 < await client.execute("PTTL", unique) <= 500

    async def is_gone():
        return await client.get(unique) is None

    await until(is_gone)


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), timedelta(0), True])
async def test_a_ttl_that_is_no_time_ahead_is_refused(client, unique, ttl):
    with pytest.raises(ModelError) as error:
        await client.set(unique, 1, ttl=ttl)
    assert error.value.field == "ttl"


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, object()])
async def test_a_value_that_cannot_be_sent_is_refused_before_anything_is_sent(client, unique, value):
    with pytest.raises(ModelError):
        await client.set(unique, value)
    assert await client.get(unique) is None


async def test_setnx_stores_only_once(client, unique):
    assert await client.setnx(unique, "first", ttl=60) is True
    assert await client.setnx(unique, "second") is False
    assert await client.get(unique) == b"first"
    assert 0 < await client.execute("TTL", unique) <= 60


async def test_delete_counts_the_keys_that_were_there(client, unique):
    await client.set(f"{unique}-a", 1)
    await client.set(f"{unique}-b", 1)
    assert await client.delete(f"{unique}-a", f"{unique}-b", f"{unique}-c") == 2
    assert await client.delete() == 0


async def test_an_error_reply_names_the_command_and_leaves_the_connection_usable(client, unique):
    await client.set(unique, "text")
    with pytest.raises(RedisCommandError, match="INCR") as error:
        await client.execute("INCR", unique)
    assert error.value.command == "INCR"
    assert isinstance(error.value.__cause__, redis.exceptions.ResponseError)
    connects = client.stats().connects
    assert await client.get(unique) == b"text"
    assert client.stats().connects == connects


async def test_a_pipeline_answers_in_order(client, unique):
    pipeline = client.pipeline().set(unique, 1, ttl=60).get(unique).add("INCR", unique).setnx(unique, 5).delete(unique)
    assert len(pipeline) == 5
    assert await pipeline.execute() == [b"OK", b"1", 2, None, 1]
    assert await pipeline.execute() == []


async def test_a_failed_command_in_a_pipeline_tells_all_replies(client, unique):
    with pytest.raises(RedisCommandError) as error:
        await client.pipeline().set(unique, "a").add("INCR", unique).get(unique).execute()
    assert error.value.command == "INCR"
    assert error.value.replies[0] == b"OK"
    assert error.value.replies[2] == b"a"


async def test_a_transaction_runs_whole_or_not_at_all(client, unique):
    assert await client.pipeline(transaction=True).set(unique, 1).add("INCR", unique).execute() == [b"OK", 2]
    with pytest.raises(RedisCommandError):
        await client.pipeline(transaction=True).set(unique, 9).add("NOSUCHCOMMAND").execute()
    assert await client.get(unique) == b"2"
    with pytest.raises(RedisCommandError) as error:
        await client.pipeline(transaction=True).set(unique, "a").add("INCR", unique).execute()
    assert error.value.command == "INCR"


async def test_health_tells_server_role_and_latency(client):
    health = await client.health()
    assert health.ok
    assert health.error is None
    assert 0 < health.latency < 3
    assert health.role == "master"
    kind, version = health.server.split()
    assert kind in {"redis", "valkey"}
    assert version[0].isdigit()


async def test_the_minimum_of_connections_is_open_from_the_start_and_the_maximum_is_kept(redis_settings, unique):
    settings = redis_settings.model_copy(update={"pool_size": 3, "min_idle_conns": 2})
    async with RedisClient(settings) as client:
        assert client.stats().connections_idle == 2
        waits = [asyncio.create_task(client.execute("BLPOP", f"{unique}-{number}", 20)) for number in range(5)]
        await until(lambda: client.stats().connections_in_use == 2)
        await asyncio.gather(*(client.execute("RPUSH", f"{unique}-{number}", number) for number in range(5)))
        assert await asyncio.gather(*waits) == [[f"{unique}-{n}".encode(), b"%d" % n] for n in range(5)]
        stats = client.stats()
        assert stats.connects == stats.connections_idle == 3
        assert stats.connections_in_use == stats.waiting == 0
        assert stats.commands == stats.calls == 11
        assert stats.retries == stats.errors == stats.timeouts == 0


async def test_raw_is_the_redis_py_client_on_connections_of_its_own(client, unique):
    await client.set(unique, 1)
    assert await client.raw.incr(unique) == 2
    await client.raw.select(1)  # would misdirect the typed calls, were the connection shared
    assert await client.get(unique) == b"2"


async def test_a_client_that_is_not_open_says_so(redis_settings):
    client = RedisClient(redis_settings)
    for _ in range(2):
        with pytest.raises(RedisClosedError, match="async with"):
            await client.get("key")
        with pytest.raises(RedisClosedError):
            _ = client.raw
        await client.open()
        await client.ping()
        await client.close()
        await client.close()


async def test_opening_twice_is_opening_once(client, unique):
    connects = client.stats().connects
    await client.open()
    await client.set(unique, 1)
    assert client.stats().connects == connects


async def test_a_forgotten_client_warns(redis_settings):
    client = RedisClient(redis_settings)
    await client.open()
    with pytest.warns(ResourceWarning, match="was not closed"):
        client.__del__()
    await client.close()


async def test_close_lets_running_calls_end(redis_settings, unique):
    client = RedisClient(redis_settings.model_copy(update={"pool_size": 1, "min_idle_conns": 0}))
    await client.open()
    calls = [asyncio.create_task(client.set(f"{unique}-{number}", number)) for number in range(20)]
    await asyncio.sleep(0)
    await client.close()
    await asyncio.gather(*calls)


async def test_the_password_shows_nowhere(redis_url):
    settings = RedisSettings.from_url(redis_url, password="open-sesame-7", timeout="500ms")
    client = RedisClient(settings)
    # A server without a password refuses to be given one: that, too, is a failed login.
    with pytest.raises(Exception) as error:
        await client.open()
    seen = [repr(client), str(error.value), repr(error.value), repr(settings)]
    cause = error.value
    while cause is not None:
        seen.append(repr(cause))
        cause = cause.__cause__ or cause.__context__
    assert not any("open-sesame-7" in text for text in seen)
