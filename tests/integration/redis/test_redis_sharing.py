"""Many tasks on one connection: one write a turn, replies in order, and none that reaches the wrong caller."""

import asyncio
from itertools import pairwise

import pytest
from redis_tools import until

from betcore_async.errors import ModelError, RedisCommandError, RedisError
from betcore_async.redis import RedisClient


@pytest.fixture
def written(monkeypatch):
    """The messages that went out, as they were written."""
    from betcore_async.redis.wire import Wire

    messages, write = [], Wire.write

    def watched(self, message):
        messages.append(message)
        write(self, message)

    monkeypatch.setattr(Wire, "write", watched)
    return messages


async def test_what_tasks_ask_for_in_one_turn_goes_out_in_one_write(client, unique, written):
    written.clear()
    await asyncio.gather(*(client.set(f"{unique}-{number}", number) for number in range(100)))
    assert len(written) == 1
    values = await asyncio.gather(*(client.get(f"{unique}-{number}") for number in range(100)))
    assert values == [b"%d" % number for number in range(100)]
    assert len(written) == 2
    assert client.stats().connects <= 2


async def test_a_call_cancelled_before_its_turn_came_is_never_sent(client, unique, written):
    calls = [asyncio.create_task(client.execute("INCR", unique)) for _ in range(10)]
    await asyncio.sleep(0)  # all of them have asked; nothing is written before the end of the turn
    for call in calls[::2]:
        call.cancel()
    await asyncio.wait(calls)
    assert sorted(call.result() for call in calls[1::2]) == [1, 2, 3, 4, 5]
    assert await client.get(unique) == b"5"


async def test_a_cancelled_caller_leaves_the_order_as_it_was(client, unique, written):
    for _ in range(50):
        sent = len(written)
        calls = [asyncio.create_task(client.execute("ECHO", number)) for number in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(written) == sent + 1
        for call in calls[::3]:
            call.cancel()
        after = [client.execute("ECHO", f"after-{number}") for number in range(5)]
        assert await asyncio.gather(*after) == [f"after-{number}".encode() for number in range(5)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        for number, result in enumerate(results):
            assert isinstance(result, asyncio.CancelledError) if number % 3 == 0 else result == b"%d" % number
    assert client.stats().connects <= 2
    assert client.stats().errors == 0


async def test_an_error_reply_concerns_its_own_caller_alone(client, unique):
    await client.set(unique, "text")
    calls = (client.execute("INCR", unique) if number % 2 else client.execute("ECHO", number) for number in range(40))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[::2] == [b"%d" % number for number in range(0, 40, 2)]
    assert all(isinstance(result, RedisCommandError) for result in results[1::2])


async def test_a_large_value_on_its_way_does_not_hold_up_the_others(client, unique):
    large = bytes(48 * 2**20)
    storing = asyncio.create_task(client.set(unique, large, ttl=60))
    await until(lambda: client.stats().connections_in_use)
    for number in range(20):
        assert await client.execute("ECHO", number) == b"%d" % number
    await storing
    assert client.stats().connects >= 2
    assert len(await client.get(unique)) == len(large)
    await client.delete(unique)


async def test_what_waits_at_the_server_has_a_connection_of_its_own_and_time_to_wait(redis_settings, unique):
    settings = redis_settings.model_copy(update={"timeout": redis_settings.timeout / 15})  # 200 ms
    async with RedisClient(settings) as client:
        waiting = asyncio.create_task(client.execute("BLPOP", unique, 5))
        await asyncio.sleep(0.3)  # longer than the deadline of other calls
        assert not waiting.done()
        assert await client.execute("RPUSH", unique, "x") == 1
        assert await waiting == [unique.encode(), b"x"]
        assert await client.execute("BLPOP", unique, 0.01) is None
        pipeline = client.pipeline().add("RPUSH", unique, 1).add("BLPOP", unique, 1).add("BLPOP", unique, 0.01)
        assert await pipeline.execute() == [1, [unique.encode(), b"1"], None]


async def test_a_wait_that_is_cancelled_takes_nothing_more(client, unique):
    waiting = asyncio.create_task(client.execute("BLPOP", unique, 20))

    async def waits():
        return b"cmd=blpop" in await client.execute("CLIENT", "LIST")

    await until(waits)
    waiting.cancel()
    await asyncio.wait([waiting])

    async def is_gone():
        return b"cmd=blpop" not in await client.execute("CLIENT", "LIST")

    await until(is_gone)
    await client.execute("RPUSH", unique, "x")
    assert await client.execute("LPOP", unique) == b"x"


async def test_waits_never_take_the_last_shared_connection(client, unique):
    waits = [asyncio.create_task(client.execute("BLPOP", f"{unique}-{number}", 20)) for number in range(8)]
    await until(lambda: client.stats().connections_in_use == 3)
    assert await client.execute("ECHO", "still answered") == b"still answered"
    assert client.stats().waiting == 5
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    assert client.stats().waiting == 0
    await until(lambda: client.stats().connections_in_use == 0)


@pytest.mark.parametrize("command", [("SELECT", 1), ("MULTI",), ("CLIENT", "REPLY", "OFF"), ("BLPOP", "a", 0)])
async def test_what_a_shared_connection_cannot_take_is_refused_before_it_is_sent(client, command):
    with pytest.raises(ModelError):
        await client.execute(*command)
    with pytest.raises(ModelError):
        client.pipeline().add(*command)


async def test_transactions_of_many_tasks_do_not_mix(client, unique):
    async def add(number):
        pipeline = client.pipeline(transaction=True)
        for _ in range(10):
            pipeline.add("INCRBY", unique, number)
        replies = await pipeline.execute()
        assert [after - before for before, after in pairwise(replies)] == [number] * 9

    echoes = (client.execute("ECHO", number) for number in range(100))
    results = await asyncio.gather(*map(add, range(1, 30)), *echoes)
    assert results[29:] == [b"%d" % number for number in range(100)]
    assert await client.get(unique) == b"%d" % (10 * sum(range(1, 30)))


async def test_a_call_that_still_waits_at_the_server_is_cut_off_by_close(redis_settings, unique):
    client = RedisClient(redis_settings.model_copy(update={"timeout": redis_settings.timeout / 15}))
    await client.open()
    waiting = asyncio.create_task(client.execute("BLPOP", unique, 60))
    await until(lambda: client.stats().connections_in_use)
    async with asyncio.timeout(30):
        await client.close()
        with pytest.raises(RedisError):
            await waiting


async def test_an_error_reply_that_is_not_text_is_an_error_like_any_other(client, unique):
    results = await asyncio.gather(
        client.execute(b"\xff\xfe"), client.execute("ECHO", "a"), client.get(unique), return_exceptions=True
    )
    assert isinstance(results[0], RedisCommandError)
    assert results[1:] == [b"a", None]
    assert client.stats().connects <= 2


async def test_a_cancelled_wait_does_not_end_the_answers_of_others(client, unique):
    for _ in range(30):
        counts = [asyncio.create_task(client.execute("INCR", unique)) for _ in range(5)]
        waiting = asyncio.create_task(client.execute("BLPOP", f"{unique}-queue", 20))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(*counts)
    assert await client.get(unique) == b"150"
    assert client.stats().errors == 0
