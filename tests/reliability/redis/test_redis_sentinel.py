"""A master, its replicas and Sentinels: who the master is changes, and callers need not care."""

import asyncio
import socket
import traceback

import pytest
from redis_servers import watched
from redis_tools import free_port, take, until

from betcore_async.config import RedisSettings
from betcore_async.errors import (
    RedisAuthError,
    RedisError,
    RedisOutcomeUnknownError,
    RedisTimeoutError,
    RedisUnavailableError,
)
from betcore_async.redis import Message, PubSubHub, Reconnected, RedisClient

TIMEOUT = 2.0  # seconds


@pytest.fixture(scope="module")
def calm():
    """A master, a replica, and a Sentinel that does nothing by itself; all with passwords."""
    with watched(replicas=1, sentinels=1, down_after=600, password="data-pw", sentinel_password="guard-pw") as group:
        yield group


def settings_of(url, **others):
    fields = {"timeout": f"{TIMEOUT}s", "connect_timeout": "500ms", "pool_size": 3, "password": "data-pw"}
    return RedisSettings.from_url(url, **(fields | others))


async def test_the_master_is_found_and_its_replicas_are_told(calm):
    async with RedisClient(settings_of(calm.url, sentinel_password="guard-pw")) as client:
        await client.set("found", "yes")
        health = await client.health()
        assert (health.ok, health.role) == (True, "master")
        master, replica = calm.data if calm.master() is calm.data[0] else reversed(calm.data)
        assert [(node.address, node.role) for node in health.nodes] == [
            (master.address, "master"),
            (replica.address, "replica"),
        ]
        assert await client.raw.get("found") == b"yes"
        # Through a dead Sentinel, and one that accepts and never answers, as long as there is one that does.
        with socket.create_server(("127.0.0.1", 0)) as mute:
            crowd = f"127.0.0.1:{free_port()},127.0.0.1:{mute.getsockname()[1]},{calm.sentinels[0].address}"
            url = f"redis+sentinel://:data-pw@{crowd}/bets/1?sentinel_password=guard-pw"
            async with RedisClient(RedisSettings.from_url(url)) as other:
                assert await other.get("found") is None  # another database


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"sentinel_password": "wrong-pw"}, RedisAuthError, "SENTINEL"),
        ({"password": "wrong-pw", "sentinel_password": "guard-pw"}, RedisAuthError, "REDIS_PASSWORD"),
    ],
)
async def test_a_wrong_password_is_told_at_once_and_not_shown(calm, changes, kind, text):
    with pytest.raises(kind, match=text) as caught:
        await RedisClient(settings_of(calm.url, **changes)).open()
    assert "wrong-pw" not in "".join(traceback.format_exception(caught.value))


async def test_a_name_that_no_sentinel_knows_is_told(calm):
    settings = settings_of(calm.url.replace("/bets", "/beds"), sentinel_password="guard-pw", timeout="200ms")
    with pytest.raises(RedisUnavailableError, match="knows no master 'beds'"):
        await RedisClient(settings).open()


async def test_calls_that_a_demoted_master_refuses_go_to_its_successor_once(calm):
    old = calm.master()
    (new,) = (each for each in calm.data if each is not old)
    (guard,) = calm.sentinels
    async with RedisClient(settings_of(calm.url, sentinel_password="guard-pw")) as client:
        await client.delete("count", "list")
        await client.execute("WAIT", 1, 1000)
        new.ask("REPLICAOF", "NO", "ONE")
        guard.ask("SENTINEL", "REMOVE", "bets")
        guard.ask("SENTINEL", "MONITOR", "bets", "127.0.0.1", new.port, 1)
        guard.ask("SENTINEL", "SET", "bets", "auth-pass", "data-pw")
        old.ask("REPLICAOF", "127.0.0.1", new.port)

        transaction = client.pipeline(transaction=True).add("INCR", "count").add("RPUSH", "list", "t")
        mixed = client.pipeline().get("nothing").add("RPUSH", "list", "p").add("RPUSH", "list", "q")
        replies = await asyncio.gather(
            *(client.execute("INCR", "count") for _ in range(20)), transaction.execute(), mixed.execute()
        )
        assert int(await client.get("count")) == 21
        assert sorted(await client.execute("LRANGE", "list", 0, -1)) == [b"p", b"q", b"t"]
        assert replies[-1][0] is None
        assert {node.address for node in (await client.health()).nodes if node.role == "master"} == {new.address}


async def test_after_the_master_was_killed_writes_resume_and_the_hub_goes_on():
    with watched(replicas=2, sentinels=3, down_after=0.4) as group:
        settings = settings_of(group.url, password=None)
        async with (
            RedisClient(settings) as client,
            RedisClient(settings) as other,
            PubSubHub(client) as hub,
            hub.subscribe("news", maxsize=100_000) as stream,
        ):
            await PubSubHub(other).publish("news", "0", durable=True)
            await client.execute("WAIT", 2, 5000)
            (first,) = await take(stream, 1)
            outcomes = await write_through_a_failover(client, group)
            for number in range(1, 4):
                await PubSubHub(other).publish("news", str(number), durable=True)
            told, *messages = await take(stream, 4)

        assert isinstance(told, Reconnected)
        assert [event.payload for event in (first, *messages)] == [b"0", b"1", b"2", b"3"]
        assert all(isinstance(event, Message) for event in messages)
        check_outcomes(outcomes, group)


async def write_through_a_failover(client, group):
    """Append a number at a time from several tasks, kill the master, and go on until writes succeed again."""
    loop = asyncio.get_running_loop()
    outcomes = {}
    resumed = asyncio.Event()
    old = group.master()

    async def write(task):
        number = 0
        while not resumed.is_set():
            number += 1
            started, begun_after_the_kill = loop.time(), is_killed  # what came before may be answered yet
            try:
                outcomes[task, number] = await client.execute("RPUSH", "written", f"{task}:{number}")
            except RedisError as error:
                outcomes[task, number] = error
            assert loop.time() - started < 2 * TIMEOUT  # a call ends by its deadline; the rest is for a busy machine
            if begun_after_the_kill and not isinstance(outcomes[task, number], RedisError):
                resumed.set()

    is_killed = False
    async with asyncio.TaskGroup() as group_of_tasks:
        for task in range(8):
            group_of_tasks.create_task(write(task))
        await until(lambda: len(outcomes) > 50)
        await asyncio.to_thread(old.kill)
        is_killed = True
    return outcomes


def check_outcomes(outcomes, group):
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, RedisError)]
    assert {type(error) for error in errors} <= {
        RedisOutcomeUnknownError,
        RedisTimeoutError,
        RedisUnavailableError,
    }, errors
    written = group.master().ask("LRANGE", "written", 0, -1)
    assert len(written) == len(set(written))  # nothing twice
    refused = {f"{task}:{number}".encode() for (task, number), outcome in outcomes.items() if is_refused(outcome)}
    assert not refused & set(written)  # what surely had no effect had none


def is_refused(outcome):
    return isinstance(outcome, RedisUnavailableError | RedisTimeoutError)
