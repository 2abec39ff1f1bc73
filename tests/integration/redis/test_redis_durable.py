"""Durable messages: a bounded history, replay, snapshot then stream."""

import asyncio
from datetime import timedelta

import pytest
from redis_tools import payloads, take, until

from betcore_async.errors import ModelError
from betcore_async.redis import Gap, PubSubHub


async def test_a_durable_message_arrives_with_its_offset_and_is_kept(client, hub, unique):
    async with hub.subscribe(unique) as stream, hub.subscribe(f"{unique}*") as by_pattern:
        assert [await hub.publish(unique, number, durable=True) for number in range(3)] == [2, 2, 2]
        await hub.publish(unique, 3)
        first, second, third, plain = await take(stream, 4)
        assert payloads([first, second, third, plain]) == [0, 1, 2, 3]
        assert plain.offset is None
        epochs, numbers = zip(*(event.offset.split("-") for event in (first, second, third)), strict=True)
        assert len(set(epochs)) == 1
        assert numbers == ("0", "1", "2")
        assert [event.offset for event in await take(by_pattern, 3)] == [first.offset, second.offset, third.offset]
    async with hub.subscribe(unique, replay_from="start") as late:
        assert payloads(await take(late, 3)) == [0, 1, 2]
    async with hub.subscribe(unique, replay_from=second.offset) as late:
        assert await take(late, 1) == [third]


async def test_the_last_message_is_a_snapshot_before_the_stream(hub, unique):
    for number in range(5):
        await hub.publish(f"{unique}-a", number, durable=True)
    async with hub.subscribe(f"{unique}-a", f"{unique}-b", replay_from="last") as stream:
        await hub.publish(f"{unique}-b", 5, durable=True)
        assert payloads(await take(stream, 2)) == [4, 5]


async def test_the_history_is_bounded_and_a_replay_that_reaches_beyond_tells_how_much_is_missing(client, unique):
    async with PubSubHub(client, history=10, history_life=timedelta(seconds=60)) as hub:
        async with hub.subscribe(unique) as stream:
            await hub.publish(unique, 0, durable=True)
            (first,) = await take(stream, 1)
        for number in range(1, 31):
            await hub.publish(unique, number, durable=True)
        async with hub.subscribe(unique, replay_from=first.offset) as late:
            assert payloads(await take(late, 11)) == [Gap(20), *range(21, 31)]
        async with hub.subscribe(unique, replay_from="start") as late:
            assert payloads(await take(late, 10)) == list(range(21, 31))
        key = f"history:{{{unique}}}"
        assert await client.execute("XLEN", key) == 10
        assert 0 < await client.execute("PTTL", key) <= 60_000


async def test_a_history_that_was_lost_is_told_and_the_new_one_taken_whole(client, hub, unique):
    async with hub.subscribe(unique) as stream:
        for number in range(5):
            await hub.publish(unique, number, durable=True)
        seen = await take(stream, 5)
    await client.delete(f"history:{{{unique}}}")
    async with hub.subscribe(unique, replay_from=seen[-1].offset) as stream:
        await hub.publish(unique, 5, durable=True)
        assert payloads(await take(stream, 2)) == [Gap(0), 5]
    async with hub.subscribe(unique, replay_from=seen[-1].offset) as stream:
        assert payloads(await take(stream, 2)) == [Gap(0), 5]


async def test_late_joiners_miss_nothing_and_get_nothing_twice_while_messages_flow(client, unique):
    total = 1500

    async def write():
        for number in range(0, total, 5):
            await asyncio.gather(*(hub.publish(unique, number + n, durable=True) for n in range(5)))

    async def join(after):
        await until(lambda: hub.stats().received >= after)
        async with hub.subscribe(unique, replay_from="start", policy="block", maxsize=50) as stream:
            return payloads(await take(stream, total))

    async with PubSubHub(client, history=2000) as hub, hub.subscribe(unique, policy="block") as steady:
        joiners = [asyncio.create_task(join(after)) for after in range(0, 800, 40)]
        writing = asyncio.create_task(write())
        expected = payloads(await take(steady, total))
        assert sorted(expected) == list(range(total))
        assert await asyncio.gather(*joiners) == [expected] * len(joiners)
        await writing


async def test_the_rate_is_bounded_and_what_comes_faster_is_conflated(hub, unique):
    async with hub.subscribe(unique, policy="latest", max_rate=20) as stream:
        for number in range(3):
            await hub.publish(unique, number)
        started = asyncio.get_running_loop().time()
        got = await take(stream, 1)
        for number in range(3, 60):
            await hub.publish(unique, number)
            await asyncio.sleep(0.002)
        await until(lambda: hub.stats().received >= 60)
        while payloads(got)[-1] != 59:
            got += await take(stream, 1)
        took = asyncio.get_running_loop().time() - started
        assert len(got) <= took * 20 + 2
        assert len(got) + sum(message.skipped for message in got) == 60


async def test_a_reader_that_falls_behind_shows_as_lag(hub, unique):
    async with hub.subscribe(unique) as slow, hub.subscribe(unique) as quick:
        for number in range(7):
            await hub.publish(unique, number)
        await take(quick, 7)
        assert (slow.pending, quick.pending, hub.stats().lag) == (7, 0, 7)
        await take(slow, 3)
        assert slow.pending == 4


@pytest.mark.parametrize(
    ("channels", "options", "field"),
    [
        (("a*",), {"replay_from": "start"}, "replay_from"),
        (("a", "b"), {"replay_from": "1-2"}, "replay_from"),
        (("a",), {"replay_from": "yesterday"}, "replay_from"),
        (("a",), {"replay_from": "1-"}, "replay_from"),
        (("a",), {"max_rate": 0}, "max_rate"),
        (("a",), {"max_rate": float("nan")}, "max_rate"),
    ],
)
async def test_unusable_replays_and_rates_are_refused(hub, channels, options, field):
    with pytest.raises(ModelError) as error:
        async with hub.subscribe(*channels, **options):
            pytest.fail("subscribed")
    assert error.value.field == field


@pytest.mark.parametrize("history", [0, 1.5, -1])
def test_a_history_has_a_size(client, history):
    with pytest.raises(ModelError):
        PubSubHub(client, history=history)
