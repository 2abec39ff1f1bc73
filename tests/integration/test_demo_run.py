"""The demonstration from inside: what happens when parts of it fail."""

import asyncio
import itertools
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

import pytest
from weekly_files import manager_for

from betcore_async.clock import ManualClock, from_microseconds
from betcore_async.config import RedisSettings, Settings
from betcore_async.demo.cells import Cell
from betcore_async.demo.feed import GeneratedFeed, generate_feed, survey
from betcore_async.demo.run import Demo, Plan
from betcore_async.errors import FeedError, RedisError
from betcore_async.redis import EmbeddedRedis, RedisClient
from betcore_async.stores import BetStore, SQLiteLedger

TICKS = 1_500
FEED = GeneratedFeed(start=datetime(2022, 1, 2, 12, tzinfo=UTC), weeks=1)  # a Sunday


def ticks(count=TICKS):
    return itertools.islice(generate_feed(FEED), count)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def demo(**changes):
    plan = {"facts": survey(str(FEED), ticks()), "ticks": ticks, "settings": Settings(), "users": 20}
    return Demo(Plan(**(plan | changes)))


async def until_bets(running, count):
    while running.tally.bets < count:  # noqa: ASYNC110 - the tally is plain numbers, and sets no event
        await asyncio.sleep(0.001)


async def test_stopped_before_its_first_tick_it_still_has_an_audited_summary(temporary):
    running = demo()
    running.stop.set()
    summary = await running.run()
    assert summary.ok
    assert (summary.ticks, summary.bets, summary.first, summary.complete) == (0, 0, None, False)
    assert list(temporary.iterdir()) == []


async def test_a_feed_that_goes_bad_in_the_middle_ends_the_run_and_leaves_nothing(temporary):
    def broken():
        yield from ticks(200)
        raise FeedError("feed.csv, line 201: cut off", source="feed.csv", line=201)

    with pytest.raises(FeedError, match="line 201"):
        await demo(ticks=broken).run()
    assert list(temporary.iterdir()) == []


def open_cells(folder):
    with closing(sqlite3.connect(f"file:{folder / 'bets-2022-W01.db'}?mode=ro", uri=True)) as week:
        return [Cell.parse(cell) for (cell,) in week.execute("SELECT cell_id FROM bets WHERE status = 'pending'")]


def bets_in(folder):
    """Return every bet by its id, as its latest week has it."""
    bets = {}
    for path in sorted(folder.glob("bets-*.db")):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as week:
            week.row_factory = sqlite3.Row
            bets |= {bet["id"]: bet for bet in week.execute("SELECT id, cell_id, placed_at FROM bets")}
    return bets


async def test_lost_subscriptions_lose_no_bet_and_no_settlement(temporary):
    folder = temporary / "data"
    async with EmbeddedRedis() as server:
        settings = RedisSettings.from_url(server.url)
        running = demo(redis=settings, data=folder)
        async with asyncio.TaskGroup() as group, RedisClient(settings) as client:
            task = group.create_task(running.run())
            for bets in range(2, 120, 2):  # often enough that bets are committed while nobody listens
                await until_bets(running, bets)
                await client.execute("CLIENT", "KILL", "TYPE", "pubsub")
            summary = await task
    assert summary.ok
    assert summary.complete
    assert summary.settlements == sum(week.won + week.lost for week in summary.weeks)
    assert all(cell.end > summary.last for cell in open_cells(folder))


async def test_a_server_that_dies_in_the_middle_is_told_and_the_run_can_go_on(temporary):
    folder = temporary / "data"
    async with EmbeddedRedis() as server:
        running = demo(redis=RedisSettings.from_url(server.url), data=folder)
        task = asyncio.create_task(running.run())
        await until_bets(running, 50)
        await server.stop()
        with pytest.raises(RedisError):
            await task
    summary = await demo(data=folder).run()
    assert summary.ok
    assert summary.resumed
    assert summary.complete


async def test_a_run_that_goes_on_does_not_bet_on_what_was_settled_last_even_if_that_paid_nobody(temporary):
    folder = temporary / "data"
    running = demo(data=folder, users=200)
    task = asyncio.create_task(running.run())
    await until_bets(running, 50)
    running.stop.set()
    await task
    earlier = bets_in(folder)
    latest = max((Cell.parse(bet["cell_id"]) for bet in earlier.values()), key=lambda cell: cell.end)
    async with manager_for(folder, ManualClock(latest.end)) as manager:
        await BetStore(SQLiteLedger(manager)).settle_cell(str(latest), False)
    assert (await demo(data=folder, users=200).run()).ok
    new = [bet for name, bet in bets_in(folder).items() if name not in earlier]
    assert min(from_microseconds(bet["placed_at"]) for bet in new) >= latest.end


async def test_a_cancelled_run_leaves_nothing(temporary):
    running = demo()
    task = asyncio.create_task(running.run())
    await until_bets(running, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(temporary.iterdir()) == []


async def test_a_feed_of_two_symbols_is_bet_on_in_both(temporary):
    def both():
        for tick in ticks():
            yield tick
            yield tick.model_copy(update={"symbol": "ETH-USD", "price": tick.price / 16})

    facts = survey("both", both())
    summary = await demo(facts=facts, ticks=both).run()
    assert summary.ok
    assert summary.ticks == summary.ticks_settled == 2 * TICKS
    assert summary.bets > 100


async def test_the_last_tick_of_a_week_can_be_the_last_of_all(temporary):
    start = datetime(2022, 1, 2, 20, tzinfo=UTC)
    feed = partial(itertools.islice, generate_feed(GeneratedFeed(start=start, weeks=1)), 240)
    everything = list(feed())
    assert everything[-1].at == datetime(2022, 1, 2, 23, 59, tzinfo=UTC)
    summary = await demo(facts=survey("short", everything), ticks=lambda: iter(everything)).run()
    assert summary.ok
    assert summary.rotations == 0
