import asyncio
from datetime import UTC, datetime, timedelta

from betcore_async.demo.pace import Pace

START = datetime(2022, 1, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_feed_waits_for_the_slowest_follower():
    pace = Pace()
    pace.join("fast")
    pace.join("slow")
    pace.report("fast", START + MINUTE)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(pace.wait_for(START))
        await turns()
        assert not waiting.done()  # "slow" has not reported at all
        pace.report("slow", START - MINUTE)
        await turns()
        assert not waiting.done()
        pace.report("slow", START)


async def test_the_feed_does_not_wait_for_a_follower_that_left():
    pace = Pace()
    pace.join("gone")
    async with asyncio.TaskGroup() as group:
        group.create_task(pace.wait_for(START))
        await turns()
        pace.leave("gone")


async def test_without_followers_nobody_waits():
    await Pace().wait_for(START)
