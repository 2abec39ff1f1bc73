import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.errors import SlowSubscriberError
from betcore_async.redis.events import Gap, Message, Reconnected
from betcore_async.redis.subscription import Subscription
from betcore_async.redis.waking import Wakeups


def message(number):
    return Message("a", b"%d" % number)


@pytest.fixture
async def subscription():
    return Subscription(Wakeups(asyncio.get_running_loop()), ("a", "b*"), "block", 2)


async def test_it_is_live_once_every_channel_is_acknowledged(subscription):
    assert not subscription.settled.done()
    assert not subscription.acknowledge("a")
    assert not subscription.is_live
    assert not subscription.deliver([message(1)])  # not yet: the caller is still waiting to enter
    assert subscription.acknowledge("b*")
    assert not subscription.acknowledge("b*"), "once"
    subscription.resume(0)
    assert subscription.is_live
    assert subscription.settled.done()
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


async def test_a_batch_is_all_that_waits_up_to_the_number_asked_for(subscription):
    roomy = Subscription(Wakeups(asyncio.get_running_loop()), ("a",), "drop_oldest", 5)
    roomy.resume(0)
    roomy.deliver([message(number) for number in range(7)])
    assert await roomy.batch(3) == [Gap(2), message(2), message(3)]
    assert await roomy.batch() == [message(4), message(5), message(6)]
    reading = asyncio.create_task(roomy.batch())
    await asyncio.sleep(0)
    roomy.deliver([message(7), message(8)])
    assert await reading == [message(7), message(8)]
    roomy.deliver([message(9)])
    roomy.end()
    assert await roomy.batch() == [message(9)]
    assert await roomy.batch() == []


async def test_a_batch_after_the_last_raises_what_ended_the_subscription(subscription):
    subscription.resume(0)
    subscription.deliver([message(0)])
    subscription.end(SlowSubscriberError("too slow", channels=("a",), policy="block"))
    assert await subscription.batch() == [message(0)]
    with pytest.raises(SlowSubscriberError, match="too slow"):
        await subscription.batch()


async def test_with_a_rate_a_batch_is_one_event():
    subscription = Subscription(Wakeups(asyncio.get_running_loop()), ("a",), "drop_oldest", 5, max_rate=1000.0)
    subscription.resume(0)
    subscription.deliver([message(0), message(1)])
    assert await subscription.batch() == [message(0)]
    assert await subscription.batch() == [message(1)]


async def test_waits_that_are_given_up_leave_nothing_behind_and_lose_nothing(subscription):
    subscription.resume(0)
    for _ in range(100):
        waiting = asyncio.create_task(anext(subscription))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert subscription._waiting == []
    waiting = asyncio.create_task(anext(subscription))
    await asyncio.sleep(0)
    subscription.deliver([message(0)])
    waiting.cancel()  # after it was given something to read, before it could
    await asyncio.wait([waiting])
    assert await anext(subscription) == message(0)


class Reading:
    """A subscription read by all means in turn."""

    def __init__(self, policy):
        self.subscription = Subscription(Wakeups(asyncio.get_running_loop()), ("a",), policy, 3)
        self.subscription.resume(0)
        self.events, self.sent, self.waiting = [], 0, None

    async def read(self):
        self.events.append(await anext(self.subscription))

    async def offer(self):
        self.subscription.deliver([message(self.sent)])
        self.sent += not self.subscription.ended

    async def reconnect(self):
        self.subscription.suspend(0)
        self.subscription.resume(1)

    async def take(self):
        if self.subscription.pending and self.waiting is None:
            await self.read()

    async def take_batch(self):
        if self.subscription.pending and self.waiting is None:
            self.events += await self.subscription.batch(2)

    async def wait(self):
        if self.waiting is None:
            self.waiting = asyncio.create_task(self.read())
            await asyncio.sleep(0)

    async def cancel(self):
        if self.waiting is not None:
            waiting, self.waiting = self.waiting, None
            waiting.cancel()
            await asyncio.wait([waiting])
            waiting.cancelled() or waiting.exception()

    async def finish(self):
        self.subscription.end()
        await self.cancel()
        with suppress(SlowSubscriberError):
            while events := await self.subscription.batch():
                self.events += events


STEPS = [
    Reading.offer,
    Reading.offer,
    Reading.reconnect,
    Reading.take,
    Reading.take_batch,
    Reading.wait,
    Reading.cancel,
]


@given(
    policy=st.sampled_from(["drop_oldest", "drop_newest", "disconnect"]),
    steps=st.lists(st.sampled_from(STEPS), max_size=60),
)
def test_readers_of_every_kind_get_each_message_once_in_order_or_a_gap_in_its_place(policy, steps):
    async def run():
        reading = Reading(policy)
        for step in steps:
            await step(reading)
        await reading.finish()
        return reading

    reading, expected = asyncio.run(run()), 0
    for event in reading.events:
        if isinstance(event, Message):
            assert event == message(expected)
            expected += 1
        elif isinstance(event, Gap):
            expected += event.lost
    assert expected == reading.sent
