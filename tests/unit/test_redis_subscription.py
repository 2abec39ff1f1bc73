import asyncio

import pytest

from betcore_async.errors import SlowSubscriberError
from betcore_async.redis.events import Message, Reconnected
from betcore_async.redis.subscription import Subscription


def message(number):
    return Message("a", b"%d" % number)


@pytest.fixture
def subscription():
    return Subscription(("a", "b*"), "block", 2, None)


async def test_it_is_live_once_every_channel_is_acknowledged(subscription):
    assert not subscription.settled.is_set()
    assert not subscription.acknowledge("a")
    assert not subscription.is_live
    assert not subscription.deliver([message(1)])  # not yet: the caller is still waiting to enter
    assert subscription.acknowledge("b*")
    assert not subscription.acknowledge("b*"), "once"
    subscription.resume(0)
    assert subscription.is_live
    assert subscription.settled.is_set()
    assert not subscription.deliver([message(2)])
    assert await anext(subscription) == message(2)


async def test_what_comes_before_every_channel_is_back_belongs_to_the_outage(subscription):
    subscription.resume(0)
    subscription.deliver([message(1)])
    subscription.suspend(10)
    subscription.acknowledge("a")
    assert not subscription.deliver([message(2)])
    subscription.suspend(12)  # lost again before it was whole: one outage, from the first loss on
    subscription.resume(15)
    subscription.deliver([message(3)])
    assert [await anext(subscription) for _ in range(3)] == [message(1), Reconnected(5), message(3)]


async def test_a_full_buffer_refuses_until_something_is_taken(subscription):
    subscription.resume(0)
    assert subscription.deliver([message(number) for number in range(4)]) == [message(2), message(3)]
    assert subscription.deliver([message(2)]) == [message(2)]
    waiting = asyncio.create_task(subscription.wait_for_room(10))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await anext(subscription) == message(0)
    await waiting
    assert not subscription.deliver([message(2)])


async def test_what_is_buffered_is_read_before_the_end_is_told(subscription):
    subscription.resume(0)
    subscription.deliver([message(0), message(1)])
    await subscription.wait_for_room(0.001)
    assert subscription.ended
    assert not subscription.deliver([message(2)]), "an ended subscription holds nobody up"
    assert [await anext(subscription) for _ in range(2)] == [message(0), message(1)]
    for _ in range(2):
        with pytest.raises(SlowSubscriberError, match="took nothing"):
            await anext(subscription)


async def test_the_end_wakes_every_reader(subscription):
    readers = [asyncio.create_task(anext(subscription, None)) for _ in range(3)]
    await asyncio.sleep(0)
    subscription.end()
    assert await asyncio.gather(*readers) == [None] * 3
