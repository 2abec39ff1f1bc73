"""`client.raw` is redis-py, set up so that what its versions do wrong by default does not happen here.

Run this against a version before the requirement in pyproject.toml takes it in.
"""

import asyncio
import time
import tomllib
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis
from packaging.requirements import Requirement
from redis.exceptions import RedisError as ServerError
from redis_tools import FaultyProxy, Proxy, free_port

from betcore_async.config import RedisSettings
from betcore_async.redis import EmbeddedRedis, RedisClient

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
SLACK = 20.0  # seconds: the machine is shared, and what hangs hangs for longer


def at(port, **options):
    return RedisSettings.from_url(
        f"redis://127.0.0.1:{port}", pool_size=4, timeout="600ms", connect_timeout="600ms", **options
    )


@asynccontextmanager
async def behind(proxy_class):
    async with (
        EmbeddedRedis() as server,
        proxy_class(server.url.removeprefix("unix://")).running() as proxy,
        RedisClient(at(proxy.port)) as client,
    ):
        yield proxy, client


def test_the_redis_py_at_hand_is_one_that_the_project_declares():
    declared = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    (requirement,) = [found for text in declared if (found := Requirement(text)).name == "redis"]
    assert requirement.specifier.contains(redis.__version__)
    assert not requirement.specifier.contains("8.99"), "a version nobody has tried is not taken in by itself"


async def test_no_command_is_repeated(server):
    async with behind(Proxy) as (proxy, client):
        await client.raw.set("a", 0)
        proxy.losing = b"INCR"
        with pytest.raises(ServerError):
            await client.raw.incr("a")
        proxy.losing = None
        assert await client.raw.get("a") == b"1"
        assert proxy.lost == 1


async def test_what_one_caller_left_unread_never_reaches_another(server, settings):
    """redis-py 8.1 leaves replies on the connection when a callback fails in a pipeline, and looks away by default."""
    async with RedisClient(settings) as client:
        raw = client.raw
        await raw.set("mine", "MINE")

        def fail(_reply, **_):
            raise LookupError("the callback of this command")

        raw.set_response_callback("STRLEN", fail)
        for _ in range(5):
            pipeline = raw.pipeline(transaction=False).strlen("mine").echo("AAA").echo("BBB")
            with pytest.raises(LookupError):
                await pipeline.execute()
            for _ in range(3):
                with suppress(ServerError):  # refusing the connection would be right, too
                    assert await raw.get("mine") == b"MINE"
        assert await raw.get("mine") == b"MINE"


async def test_cancelled_callers_leave_their_replies_to_nobody(server, settings):
    """They may cost the next caller its connection, which is redis-py's error to tell; never its reply."""

    async def ask(number):
        for turn in range(4):
            text = f"{number}-{turn}"
            with suppress(ServerError):
                assert await raw.echo(text) == text.encode()
            with suppress(ServerError):
                assert await raw.pipeline(transaction=False).echo("x").echo(text).execute() == [b"x", text.encode()]

    async with RedisClient(settings) as client:
        raw = client.raw
        for steps in range(30):
            tasks = [asyncio.create_task(ask(number)) for number in range(8)]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError | None) for result in results), results
        with suppress(ServerError):
            assert await raw.echo("y") == b"y"


@pytest.mark.parametrize("fault", ["down", "silent"])
async def test_a_server_that_does_not_answer_costs_no_more_than_the_timeouts(fault):
    async with behind(FaultyProxy) as (proxy, client):
        await client.raw.ping()
        if fault == "silent":
            proxy.is_silent = True
            raw = client.raw
        else:
            other = RedisClient(at(free_port()))
            other.transport.open()
            raw = other.raw
        started = time.monotonic()
        with pytest.raises(ServerError):
            await raw.get("a")
        assert time.monotonic() - started < 0.6 + 0.25 + SLACK
        if fault == "down":
            await other.close()
