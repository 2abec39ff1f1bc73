"""Events: told once they are committed, each of them, in order, whatever dies or goes away in between."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from ledger_files import CELL, NOON, by_hand, open_books, path_of
from redis_tools import free_port, kill, until

from betcore_async import Betcore, EmbeddedRedis, Event, ManualClock, OutboxRelay, Settings
from betcore_async.config import DatabaseSettings, EventSettings, RedisSettings
from betcore_async.errors import BetcoreError, ModelError, RedisOutcomeUnknownError
from betcore_async.redis import Message, PubSubHub, RedisClient
from betcore_async.stores import EventKind, outbox
from betcore_async.stores.events import channel_of

TESTS = Path(__file__).parent.parent


@contextlib.asynccontextmanager
async def hub_at(url, **settings):
    async with RedisClient(RedisSettings.from_url(url, **settings)) as client, PubSubHub(client) as hub:
        yield hub


@pytest.fixture
async def hub(redis_url):
    async with hub_at(redis_url) as hub:
        yield hub


async def told_to(hub, user_id, count):
    """Read the channel of a user from its beginning, until `count` different events were there; repeats included."""
    events = []
    async with asyncio.timeout(20), hub.subscribe(channel_of(user_id), replay_from="start", maxsize=10_000) as stream:
        while len({event.id for event in events}) < count:
            message = await anext(stream)
            if isinstance(message, Message):
                events.append(Event.parse(message.payload))
    return events


def once(events):
    """Drop repeats as a subscriber does that remembers the last number alone."""
    kept = []
    for event in events:
        if not kept or event.sequence > kept[-1].sequence:
            kept.append(event)
    return kept


def rows_left(folder, week="2026-W47"):
    with by_hand(path_of(folder, week)) as raw:
        found = raw.execute("SELECT count(*) FROM outbox").fetchone()[0]
        raw.execute("ROLLBACK")
        raw.execute("BEGIN")
    return found


async def caught_up(books):
    def is_behind(raw):
        cursor = outbox.cursor_of(raw)
        return cursor.week != outbox.week_of(raw) or bool(outbox.events_behind(raw, "main", cursor, 1))

    async def is_done():
        return not await books.partitions.read(is_behind)

    await until(is_done, 20)


async def everything_that_happens(books, user):
    """All kinds of events; returns those that `user` has to be told."""
    users, bets = books.users, books.bets
    friend = await users.create(f"friend of {user.id}", 50)
    won, lost, off = [(await bets.place(user.id, CELL, 10, 1.5)).id for _ in range(3)]
    await bets.confirm(lost)
    refused = (await bets.place(user.id, CELL, 10**9, 1.5)).id
    await bets.settle(won, won=True)
    await bets.settle(lost, won=False)
    await bets.cancel(off)
    deposit = await users.deposit(user.id, 7)
    transfer = await users.transfer(user.id, friend.id, 3)
    return [
        *(f"{bet}:bet_placed" for bet in (won, lost, off)),
        f"{lost}:bet_confirmed",
        f"{refused}:bet_refused",
        f"{won}:bet_won",
        f"{lost}:bet_lost",
        f"{off}:bet_cancelled",
        deposit.id,
        transfer.id,
    ]


async def test_every_fact_is_told_once_in_its_order_and_as_it_was_then(tmp_path, hub):
    async with open_books(tmp_path) as books, OutboxRelay(books.partitions, hub) as relay:
        user = await books.users.create("0xabc", 100)
        expected = await everything_that_happens(books, user)
        opening, *events = await told_to(hub, user.id, 1 + len(expected))
        assert opening.kind is EventKind.BALANCE_CHANGED
        assert (opening.entry.ref_type, opening.entry.amount) == ("opening", 100)
        assert [event.id for event in events] == expected
        assert all(one.sequence < other.sequence for one, other in pairwise([opening, *events]))
        assert [event.bet.status for event in events[:8]] == [
            *["pending"] * 3,
            *("confirmed", "insufficient_funds", "won", "lost", "cancelled"),
        ]
        assert events[5].bet == await books.bets.get(events[5].bet.id)
        assert [event.entry and event.entry.amount for event in events] == [-10] * 3 + [None, None, 15, None, 10, 7, -3]
        assert events[-1].entry.balance_after == (await books.users.get(user.id)).balance
        await caught_up(books)
        assert relay.stats().leading
        assert relay.stats().failures == 0
    assert rows_left(tmp_path) <= 1


async def test_without_a_relay_nothing_is_noted_and_what_came_before_it_is_not_told(tmp_path, hub):
    async with open_books(tmp_path) as books:
        user = await books.users.create("0xabc", 100)
        await everything_that_happens(books, user)
        assert rows_left(tmp_path) == 0
        async with OutboxRelay(books.partitions, hub):
            deposit = await books.users.deposit(user.id, 5)
            assert [event.id for event in await told_to(hub, user.id, 1)] == [deposit.id]
        await books.partitions.write(outbox.turn_off)
        await everything_that_happens(books, await books.users.create("0xdef", 100))
        assert rows_left(tmp_path) == 0
        async with OutboxRelay(books.partitions, hub):
            later = await books.users.deposit(user.id, 6)
            assert [event.id for event in once(await told_to(hub, user.id, 2))] == [deposit.id, later.id]


async def test_a_settled_cell_is_told_and_the_outbox_stays_small(tmp_path, hub):
    async with open_books(tmp_path) as books, OutboxRelay(books.partitions, hub):
        users = [await books.users.create(f"0x{number}", 1_000) for number in range(20)]
        placed = await asyncio.gather(*(books.bets.place(user.id, CELL, 1, 2.0) for user in users for _ in range(40)))
        assert (await books.bets.settle_cell(CELL, won=False)).bets == 800
        for user in users[::6]:
            events = await told_to(hub, user.id, 81)
            own = {bet.id for bet in placed if bet.user_id == user.id}
            assert {event.bet.id for event in events if event.kind is EventKind.BET_LOST} == own
            assert events == once(events)
        await caught_up(books)
    assert rows_left(tmp_path) <= 1


async def test_events_of_earlier_weeks_are_told_first_after_any_number_of_rotations(tmp_path, hub):
    async with open_books(tmp_path, ManualClock(NOON)) as books:
        await books.partitions.write(outbox.turn_on)
        user = await books.users.create("0xabc", 1_000)
        expected = await everything_that_happens(books, user)
        await books.next_week()
        await books.next_week()  # a week in which nothing happened
        carried = await books.bets.place(user.id, "another cell", 1, 2.0)
        await books.next_week()
        expected.append(f"{carried.id}:bet_placed")
        async with OutboxRelay(books.partitions, hub):
            await books.bets.settle(carried.id, won=False)
            expected.append(f"{carried.id}:bet_lost")
            events = await told_to(hub, user.id, 1 + len(expected))
            await books.next_week()
            expected.append((await books.users.deposit(user.id, 1)).id)
            events = await told_to(hub, user.id, 1 + len(expected))
        assert [event.id for event in once(events)][1:] == expected
        assert (await books.ledger.audit()).ok


async def test_rotations_and_restarts_amid_writes_lose_nothing_and_keep_the_order(tmp_path, hub):
    clock = ManualClock(NOON)
    async with open_books(tmp_path, clock) as books:
        await books.partitions.write(outbox.turn_on)
        users = [await books.users.create(f"0x{number}", 10_000) for number in range(4)]
        expected = {user.id: [] for user in users}
        finished = False

        async def play(user):
            # The history of a channel, which is read in the end, has room for 1,000, repeats included: each relay that
            # is closed amid its work leaves up to a batch of them, a quarter of it for each user.
            while not finished and len(expected[user.id]) < 350:
                bet = await books.bets.place(user.id, CELL, 5, 1.5)
                await books.bets.settle(bet.id, won=len(expected[user.id]) % 4 == 0)
                expected[user.id] += [bet.id, bet.id]

        players = [asyncio.create_task(play(user)) for user in users]
        for number in range(6):
            async with OutboxRelay(books.partitions, hub):
                await asyncio.sleep(0.02 * number)
                if number % 2:
                    await books.next_week()
                await books.assert_audit_is_clean()
        finished = True
        await asyncio.gather(*players)
        async with OutboxRelay(books.partitions, hub):
            await caught_up(books)
        await books.assert_audit_is_clean()
        for user in users:
            events = once(await told_to(hub, user.id, 1 + len(expected[user.id])))
            assert [event.bet.id for event in events[1:]] == expected[user.id]


async def test_a_relay_closed_amid_its_work_is_gone_and_the_next_one_tells_the_rest(tmp_path, hub):
    async with open_books(tmp_path) as books:
        await books.partitions.write(outbox.turn_on)
        user = await books.users.create("0xabc", 10_000)
        bets = [(await books.bets.place(user.id, CELL, 1, 2.0)).id for _ in range(60)]
        relay = OutboxRelay(books.partitions, hub)
        for _ in range(12):
            await relay.open()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.003):
                    await until(lambda: relay.stats().relayed)
            closing = asyncio.create_task(relay.close())
            await asyncio.sleep(0)
            closing.cancel()  # it ends all the same
            await asyncio.wait([closing])
            assert not [task for task in asyncio.all_tasks() if task.get_name() == "betcore-relay"]
            with books.partitions.claim("relay") as free:
                assert free
        async with OutboxRelay(books.partitions, hub):
            events = await told_to(hub, user.id, 1 + len(bets))
            await caught_up(books)
        assert [event.bet.id for event in once(events)[1:]] == bets


async def test_a_cursor_that_another_relay_has_moved_on_stays_where_it_is(tmp_path):
    async with open_books(tmp_path) as books:
        await books.partitions.write(outbox.turn_on)
        user = await books.users.create("0xabc", 100)
        for _ in range(3):
            await books.bets.settle((await books.bets.place(user.id, CELL, 1, 2.0)).id, won=False)
        cursor = await books.partitions.read(outbox.cursor_of)
        told = await books.partitions.read(lambda raw: outbox.events_behind(raw, "main", cursor, 100))
        assert len(told) == 7
        for upto in (told[4][1], told[1][1], told[-1][1]):  # the first moves it, the others come too late
            await books.partitions.write(lambda raw, _, upto=upto: outbox.advance(raw, cursor, upto))
            assert await books.partitions.read(outbox.cursor_of) == told[4][1]
        left = await books.partitions.read(lambda raw: outbox.events_behind(raw, "main", told[4][1], 100))
        assert left == told[5:]


async def test_a_relay_that_was_at_work_when_events_were_told_off_and_on_again_skips_none(tmp_path):
    async with open_books(tmp_path) as books:
        user = await books.users.create("0xabc", 100)
        bets = [(await books.bets.place(user.id, CELL, 1, 2.0)).id for _ in range(4)]
        await books.partitions.write(outbox.turn_on)
        for bet in bets[:2]:
            await books.bets.settle(bet, won=False)
        cursor = await books.partitions.read(outbox.cursor_of)
        *_, (_, upto) = await books.partitions.read(lambda raw: outbox.events_behind(raw, "main", cursor, 100))
        books.clock.advance(timedelta(seconds=1))
        await books.partitions.write(outbox.turn_off)
        await books.partitions.write(outbox.turn_on)
        await books.bets.settle(bets[2], won=False)
        await books.partitions.write(lambda raw, _: outbox.advance(raw, cursor, upto))
        anew = await books.partitions.read(outbox.cursor_of)
        told = await books.partitions.read(lambda raw: outbox.events_behind(raw, "main", anew, 100))
        assert [event.id for event, _ in told] == [f"{bets[2]}:bet_lost"]
        await books.assert_audit_is_clean()


async def test_while_redis_is_away_events_wait_and_are_told_when_it_is_back(tmp_path):
    port = free_port()
    async with (
        EmbeddedRedis(port=port) as server,
        hub_at(server.url, timeout="1s", connect_timeout="1s") as hub,
        open_books(tmp_path) as books,
        OutboxRelay(books.partitions, hub) as relay,
    ):
        user = await books.users.create("0xabc", 100)
        await told_to(hub, user.id, 1)
        await caught_up(books)
        await kill(server)
        expected = await everything_that_happens(books, user)
        await until(lambda: relay.stats().failures)
        async with EmbeddedRedis(port=port) as back, hub_at(back.url) as other:
            assert [event.id for event in once(await told_to(other, user.id, len(expected)))] == expected


class FailingHub(PubSubHub):
    """Its nth publication fails, before or after the server has it."""

    left, when = 0, ""

    async def publish(self, channel, message, *, durable=False):
        self.left -= 1
        fails = self.left == 0
        if fails and self.when == "before":
            raise RedisOutcomeUnknownError("no answer came")
        reached = await super().publish(channel, message, durable=durable)
        if fails:
            raise RedisOutcomeUnknownError("no answer came")
        return reached


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 4, 9, 12])
async def test_events_behind_one_that_could_not_be_told_wait_for_it(tmp_path, redis_url, nth, when):
    async with (
        RedisClient(RedisSettings.from_url(redis_url)) as client,
        FailingHub(client) as hub,
        open_books(tmp_path) as books,
    ):
        hub.left, hub.when = nth, when
        await books.partitions.write(outbox.turn_on)
        users = [(await books.users.create(wallet, 100)).id for wallet in ("ann", "bob")]
        for _ in range(5):
            for user in users:
                await books.users.deposit(user, 1)
        async with OutboxRelay(books.partitions, hub) as relay:
            for user in users:
                expected = [entry.id for entry in await books.ledger.entries(user, newest_first=False)]
                events = await told_to(hub, user, len(expected))
                assert [event.id for event in once(events)] == expected
            await caught_up(books)
            assert relay.stats().failures == 1


@pytest.mark.parametrize("publication", [(1, "before"), (4, "before"), (7, "after"), (10, "after")])
@pytest.mark.parametrize("weeks", [0, 2])
async def test_a_relay_killed_between_commit_and_publication_leaves_nothing_untold(
    tmp_path, hub, redis_url, publication, weeks
):
    async with open_books(tmp_path) as books:
        await books.partitions.write(outbox.turn_on)
        user = await books.users.create("0xabc", 100)
    command = [sys.executable, TESTS / "reliability" / "relay_worker.py", tmp_path, redis_url, *map(str, publication)]
    worker = await asyncio.create_subprocess_exec(*command, env=os.environ | {"PYTHONPATH": str(TESTS)})
    assert await worker.wait() == -signal.SIGKILL
    async with open_books(tmp_path) as books:
        for _ in range(weeks):
            await books.next_week()
        clock = books.clock
    async with open_books(tmp_path, clock) as books, OutboxRelay(books.partitions, hub):
        await books.assert_audit_is_clean()
        events = await told_to(hub, user.id, 11)
        await caught_up(books)
        await books.assert_audit_is_clean()
    kinds = [event.kind for event in once(events)]
    assert kinds == [EventKind.BALANCE_CHANGED, *[EventKind.BET_PLACED, EventKind.BET_LOST] * 5]
    assert len({event.id for event in events}) == 11


async def test_another_process_takes_over_from_a_relay_that_was_killed(tmp_path, hub, redis_url):
    async with open_books(tmp_path) as books:
        user = await books.users.create("0xabc", 100)
        settings = RedisSettings.from_url(redis_url)
        variables = {"DB_PATH": str(tmp_path / "bets.db"), "REDIS_ADDR": settings.addr, "REDIS_DB": str(settings.db)}
        if settings.password:
            variables["REDIS_PASSWORD"] = settings.password.get_secret_value()
        program = "from betcore_async.cli import main; main()"
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, "relay"), env=os.environ | variables, stderr=subprocess.DEVNULL
        )
        try:

            async def is_relaying():
                with books.partitions.claim("relay") as free:
                    return not free

            await until(is_relaying, 30)
            async with OutboxRelay(books.partitions, hub) as relay:
                first = await books.users.deposit(user.id, 1)
                assert [event.id for event in await told_to(hub, user.id, 1)] == [first.id]
                assert not relay.stats().leading
                worker.kill()
                second = await books.users.deposit(user.id, 2)
                assert [event.id for event in once(await told_to(hub, user.id, 2))] == [first.id, second.id]
                assert relay.stats().leading
        finally:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()


async def test_the_whole_toolkit_tells_events_when_told_to(tmp_path, redis_url):
    settings = Settings(
        db=DatabaseSettings(path=tmp_path / "bets.db"),
        redis=RedisSettings.from_url(redis_url),
        events=EventSettings(enabled=True),
    )
    async with Betcore(settings) as core:
        user = await core.users.create("0xabc", 100)
        assert len(await told_to(core.hub, user.id, 1)) == 1
        await until(lambda: core.stats().relay.relayed == 1)  # counted once the server has answered all of them
        with pytest.raises(BetcoreError, match="open already"):
            await core.relay.open()
    await core.relay.close()  # once more does nothing
    async with Betcore(settings.model_copy(update={"events": EventSettings()})) as core:
        assert core.relay is None
        assert core.stats().relay is None


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"\xff", b'{"id": "x", "sequence": -1, "kind": "bet_won", "user_id": ""}']
)
def test_what_is_no_event_is_refused(payload):
    with pytest.raises(ModelError, match="not an event"):
        Event.parse(payload)
