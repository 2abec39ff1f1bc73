import asyncio

import pytest

from betcore_async.errors import ModelError, RedisLockError


async def test_one_holder_at_a_time(client, unique):
    inside = most = 0

    async def work():
        nonlocal inside, most
        async with client.lock(unique, ttl=30):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            await client.ping()
            inside -= 1

    await asyncio.gather(*(work() for _ in range(8)))
    assert most == 1
    assert await client.get(unique) is None


async def test_a_lock_that_is_not_free_in_time_is_a_typed_error(client, unique):
    async with client.lock(unique):
        with pytest.raises(RedisLockError) as error:
            await client.lock(unique, wait=0.05).__aenter__()
        assert error.value.name == unique
    async with client.lock(unique, wait=1):
        pass


async def test_a_lock_that_expired_is_told_on_leaving_and_on_extending(client, unique):
    lock = client.lock(unique)
    await lock.__aenter__()
    await client.set(unique, "somebody else")
    with pytest.raises(RedisLockError, match="expired"):
        await lock.extend()
    with pytest.raises(RedisLockError, match="expired"):
        await lock.__aexit__(None, None, None)
    assert await client.get(unique) == b"somebody else"


async def test_extend_begins_the_time_again(client, unique):
    async with client.lock(unique, ttl=50) as lock:
        await client.execute("PEXPIRE", unique, 1000)
        await lock.extend()
        assert await client.execute("PTTL", unique) > 40_000


async def test_the_bodys_own_error_is_the_one_that_is_seen(client, unique):
    async def body():
        async with client.lock(unique):
            await client.delete(unique)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()


async def test_a_cancelled_holder_and_a_cancelled_waiter_leave_the_lock_free(client, unique):
    holding = asyncio.Event()

    async def hold():
        async with client.lock(unique, ttl=60):
            holding.set()
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await holding.wait()
    waiters = [asyncio.create_task(hold()) for _ in range(3)]
    await asyncio.sleep(0.02)
    for task in (*waiters, holder):
        task.cancel()
    await asyncio.wait([holder, *waiters])
    async with client.lock(unique, wait=1):
        pass


@pytest.mark.parametrize(("ttl", "wait"), [(0, None), (-1, None), (1, 0)])
async def test_unusable_times_are_refused(client, unique, ttl, wait):
    with pytest.raises(ModelError):
        client.lock(unique, ttl=ttl, wait=wait)
