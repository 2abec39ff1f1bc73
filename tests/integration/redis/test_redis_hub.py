import asyncio
from datetime import timedelta

import pytest
from redis_tools import payloads, publish, take, until

from betcore_async.errors import ModelError, RedisClosedError, SlowSubscriberError
from betcore_async.redis import Gap, Message, PubSubHub


async def test_a_subscription_is_acknowledged_before_the_block_begins(hub, unique):
    for number in range(30):
        async with hub.subscribe(f"{unique}-{number}", f"{unique}-{number}-*") as stream:
            assert await hub.publish(f"{unique}-{number}", "now") == 1
            assert await anext(stream) == Message(f"{unique}-{number}", b"now")
            assert await hub.publish(f"{unique}-{number}-x", b"\xff") == 1
            assert await anext(stream) == Message(f"{unique}-{number}-x", b"\xff", f"{unique}-{number}-*")


async def test_many_subscribers_share_one_connection_and_each_gets_every_message(client, hub, unique):
    async def follow(ready):
        async with hub.subscribe(unique, policy="block") as stream:
            ready.release()
            return payloads(await take(stream, 50))

    ready = asyncio.Semaphore(0)
    followers = [asyncio.create_task(follow(ready)) for _ in range(40)]
    for _ in followers:
        await ready.acquire()
    assert await client.execute("PUBSUB", "NUMSUB", unique) == [unique.encode(), 1]
    await publish(client, unique, range(50))
    assert await asyncio.gather(*followers) == [list(range(50))] * 40


async def test_what_many_subscribers_send_on_is_made_once(client, hub, unique):
    made = []

    def frame(message):
        made.append(message.payload)
        return b"<" + message.payload + b">"

    async def follow():
        async with hub.subscribe(unique) as stream:
            ready.release()
            return [event.shared(frame) for event in await take(stream, 3)]

    ready = asyncio.Semaphore(0)
    followers = [asyncio.create_task(follow()) for _ in range(20)]
    for _ in followers:
        await ready.acquire()
    await publish(client, unique, range(3))
    assert await asyncio.gather(*followers) == [[b"<0>", b"<1>", b"<2>"]] * 20
    assert made == [b"0", b"1", b"2"]


async def test_the_server_is_told_when_the_last_listener_of_a_channel_leaves(client, hub, unique):
    async with hub.subscribe(unique):
        async with hub.subscribe(unique, f"{unique}*"):
            pass
        await hub.publish(unique, "still there")
        assert await client.execute("PUBSUB", "NUMSUB", unique) == [unique.encode(), 1]

    async def is_unknown():
        return (await client.execute("PUBSUB", "NUMSUB", unique))[1] == 0

    await until(is_unknown)
    await until(lambda: hub.stats().topics == 0)


async def test_a_channel_left_and_joined_at_once_stays_subscribed(client, hub, unique):
    for number in range(50):
        async with hub.subscribe(unique) as stream:
            assert await hub.publish(unique, number) == 1
            assert payloads([await anext(stream)]) == [number]
        if number % 3:
            await asyncio.sleep(0)


async def test_a_slow_subscriber_of_each_dropping_policy_does_not_hold_up_the_others(client, hub, unique):
    async with (
        hub.subscribe(unique, policy="drop_oldest", maxsize=10) as oldest,
        hub.subscribe(unique, policy="drop_newest", maxsize=10) as newest,
        hub.subscribe(unique, policy="latest", maxsize=10) as latest,
        hub.subscribe(unique, policy="disconnect", maxsize=10) as strict,
        hub.subscribe(unique, policy="block", maxsize=1000) as quick,
    ):
        await publish(client, unique, range(500))
        assert payloads(await take(quick, 500)) == list(range(500))
        assert payloads(await take(oldest, 11)) == [Gap(490), *range(490, 500)]
        assert payloads(await take(newest, 11)) == [*range(10), Gap(490)]
        assert await take(latest, 1) == [Message(unique, b"499", skipped=499)]
        assert payloads(await take(strict, 10)) == list(range(10))
        with pytest.raises(SlowSubscriberError) as error:
            await anext(strict)
        assert error.value.policy == "disconnect"
        assert error.value.channels == (unique,)
        assert (oldest.lost, newest.lost, latest.lost, quick.lost) == (490, 490, 0, 0)
        assert hub.stats().lost == 980


async def test_block_loses_nothing_however_small_the_buffer(client, hub, unique):
    async with hub.subscribe(unique, policy="block", maxsize=3) as stream:
        writing = asyncio.create_task(publish(client, unique, range(5000)))
        got = []
        async for event in stream:
            got += payloads([event])
            if len(got) % 7 == 0:
                await asyncio.sleep(0)
            if len(got) == 5000:
                break
        await writing
    assert got == list(range(5000))


async def test_a_blocking_subscriber_that_takes_nothing_is_ended_and_the_others_go_on(client, unique):
    async with (
        PubSubHub(client, block_limit=timedelta(milliseconds=50)) as hub,
        hub.subscribe(unique, policy="block", maxsize=5) as stuck,
        hub.subscribe(unique, policy="block", maxsize=5) as quick,
    ):
        await publish(client, unique, range(100))
        assert payloads(await take(quick, 100)) == list(range(100))
        assert payloads(await take(stuck, 5)) == list(range(5))
        with pytest.raises(SlowSubscriberError, match="took nothing"):
            await anext(stuck)


async def test_a_subscriber_that_blocks_does_not_stop_others_from_coming_and_going(client, hub, unique):
    async with hub.subscribe(unique, policy="block", maxsize=1) as stuck:
        await publish(client, unique, range(10))
        await until(lambda: hub.stats().received >= 2)
        async with asyncio.timeout(30):
            async with hub.subscribe(unique, policy="block"):  # the channel is live already
                pass
        assert payloads(await take(stuck, 10)) == list(range(10))


async def test_the_callers_key_decides_what_latest_conflates(client, hub, unique):
    async with hub.subscribe(unique, policy="latest", key=lambda message: int(message.payload) % 2) as stream:
        await publish(client, unique, range(9))
        await until(lambda: hub.stats().received >= 9)
        assert await take(stream, 2) == [Message(unique, b"8", skipped=4), Message(unique, b"7", skipped=3)]


async def test_a_key_that_fails_ends_only_its_own_subscription(client, hub, unique):
    async with (
        hub.subscribe(unique, policy="latest", key=lambda _: 1 // 0) as broken,
        hub.subscribe(unique) as sound,
    ):
        await publish(client, unique, range(3))
        assert payloads(await take(sound, 3)) == [0, 1, 2]
        with pytest.raises(ZeroDivisionError):
            await anext(broken)


async def test_a_burst_does_not_overflow_a_buffer_whose_reader_only_waits_for_its_turn(client, hub, unique):
    async with hub.subscribe(unique, maxsize=64) as stream:
        reading = asyncio.create_task(take(stream, 3000))
        await publish(client, unique, range(3000))
        assert payloads(await reading) == list(range(3000))


async def test_a_cancelled_read_loses_no_message(client, hub, unique):
    async with hub.subscribe(unique, policy="block") as stream:
        got = []
        for number in range(200):
            reading = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            if number % 2:
                await publish(client, unique, [number])
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                got.append(reading.result())
        got += await take(stream, 100 - len(got))
    assert payloads(got) == list(range(1, 200, 2))


async def test_close_ends_iteration_after_what_is_buffered(client, unique):
    hub = PubSubHub(client)
    await hub.open()
    async with hub.subscribe(unique) as stream:
        await publish(client, unique, range(3))
        await until(lambda: hub.stats().received >= 3)
        await hub.close()
        await hub.close()
        assert payloads([event async for event in stream]) == [0, 1, 2]
    with pytest.raises(RedisClosedError):
        async with hub.subscribe(unique):
            pytest.fail("subscribed to a closed hub")


async def test_a_hub_can_be_opened_again(client, unique):
    hub = PubSubHub(client)
    for number in range(2):
        async with hub, hub.subscribe(unique) as stream:
            await hub.publish(unique, number)
            assert payloads([await anext(stream)]) == [number]


async def test_subscribing_cancelled_at_any_step_leaves_the_hub_as_it_was(client, hub, unique):
    async def visit(number):
        async with hub.subscribe(f"{unique}-{number % 3}", policy="block"):
            await asyncio.sleep(0.001)

    async with hub.subscribe(unique, policy="block") as steady:
        for steps in range(60):
            task = asyncio.create_task(visit(steps))
            for _ in range(steps % 12):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await hub.publish(unique, steps)
        assert payloads(await take(steady, 60)) == list(range(60))
        assert hub.stats().subscriptions == 1
        assert hub.stats().reconnects == 0


async def test_a_pattern_matches_channels_whose_names_are_not_text(client, hub, unique):
    async with hub.subscribe(f"{unique}*") as stream:
        await client.execute("PUBLISH", unique.encode() + b"\xff", "x")
        event = await anext(stream)
        assert event.channel.encode(errors="surrogateescape") == unique.encode() + b"\xff"


async def test_the_client_subscribes_without_a_hub(client, unique):
    async with client.subscribe(unique) as stream:
        assert await client.publish(unique, "hello") == 1
        assert await anext(stream) == Message(unique, b"hello")


@pytest.mark.parametrize(
    ("channels", "options", "field"),
    [
        ((), {}, "channels"),
        (("",), {}, "channels"),
        ((b"bytes",), {}, "channels"),
        (("a",), {"policy": "nonsense"}, "policy"),
        (("a",), {"maxsize": 0}, "maxsize"),
        (("a",), {"maxsize": 1.5}, "maxsize"),
    ],
)
async def test_unusable_arguments_are_refused(hub, channels, options, field):
    with pytest.raises(ModelError) as error:
        async with hub.subscribe(*channels, **options):
            pytest.fail("subscribed")
    assert error.value.field == field


async def test_stats_count_what_passed(client, hub, unique):
    async with hub.subscribe(unique, f"{unique}*") as stream:
        await publish(client, unique, range(3))
        await take(stream, 6)
        stats = hub.stats()
    assert (stats.subscriptions, stats.topics, stats.received, stats.lost, stats.reconnects) == (1, 2, 6, 0, 0)
    assert stats.connected
