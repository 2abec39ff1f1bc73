"""Cancelled at any await, a command has happened whole or not at all, and repeating it makes it whole."""

import asyncio
import contextlib
from itertools import count

import pytest
from ledger_files import CELL, open_books, path_of
from redis_tools import until
from reliability.cancellation import cancelled_everywhere

from betcore_async.config import RedisSettings
from betcore_async.models import BetStatus
from betcore_async.redis import PubSubHub, RedisClient
from betcore_async.relay import OutboxRelay
from betcore_async.sqlite.connection import open_raw
from betcore_async.stores import CellSettlement, Event, NewBet, outbox
from betcore_async.stores import bets as bets_module
from betcore_async.stores.events import channel_of


@pytest.fixture(params=["of this week", "of the week before"])
async def books(tmp_path, request):
    """Books with two users; ids are those of the live week, or so old that earlier weeks are asked first."""
    async with open_books(tmp_path) as books:
        await books.users.create("ann", 1_000_000)
        await books.users.create("bob", 1_000_000)
        old = [books.engine.new_id() for _ in range(500)]
        if request.param == "of the week before":
            await books.next_week()
            books.engine.new_id = iter(old).__next__
        yield books
        await books.assert_audit_is_clean()


COMMANDS = {
    "deposit": lambda books, id_, ann, _: books.users.deposit(ann, 7, id=id_),
    "withdraw": lambda books, id_, ann, _: books.users.withdraw(ann, 7, id=id_),
    "transfer": lambda books, id_, ann, bob: books.users.transfer(ann, bob, 7, id=id_),
    "place": lambda books, id_, ann, _: books.bets.place(ann, CELL, 7, 1.5, id=id_),
    "place unfunded": lambda books, id_, ann, _: books.bets.place(ann, CELL, 10**9, 1.5, id=id_),
    "place many": lambda books, id_, ann, bob: books.bets.place_many(
        [NewBet(ann, CELL, 7, 1.5, id=id_), NewBet(bob, CELL, 10, 1.5, id=f"{id_[:-1]}{(int(id_[-1], 16) + 1) % 16:x}")]
    ),
    "create": lambda books, id_, *_: books.users.create(id_, 7, id=id_),
}
CHANGES = {"deposit": (7, 0), "withdraw": (-7, 0), "transfer": (-7, 7), "place": (-7, 0), "place many": (-7, -10)}
WAYS = {"suspended": {}, "just answered": {"late": True}, "twice": {"twice": True}}


async def assert_pool_is_clean(books):
    """Nobody stands in a line for the pool, and it holds no lock: another connection gets it.

    The writer's thread may still be rolling back an empty group, which it began for a write that was taken back. The
    loop stands still meanwhile, so a lock that is never let go, or only with the loop's help, is not waited out.
    """
    stats = books.partitions.stats()
    assert stats.requests_waiting == stats.reads_waiting == stats.writes_waiting == 0
    path = path_of(books.folder, books.partitions.current_week.name)
    with contextlib.closing(open_raw(path, readonly=False)) as raw:
        raw.execute("PRAGMA busy_timeout = 5000")
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("ROLLBACK")


async def state_of(books, users):
    """All that a command could have changed."""
    return [
        *[await books.users.get(user.id) for user in users],
        *[await books.ledger.entries(user.id, limit=None) for user in users],
        *[(await books.bets.history(user.id, limit=1_000)).bets for user in users],
    ]


def replays(outcome):
    return [one.replayed for one in (outcome if isinstance(outcome, list) else [outcome])]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", COMMANDS)
async def test_a_cancelled_command_happens_whole_or_not_at_all_and_once_when_repeated(books, name, way):
    users = [await books.users.by_wallet(wallet) for wallet in ("ann", "bob")]
    identifier, runs, before = books.engine.new_id(), 0, await state_of(books, users)

    def make():
        return COMMANDS[name](books, identifier, *(user.id for user in users))

    async for _ in cancelled_everywhere(make, **WAYS[way]):
        runs += 1
        left = await state_of(books, users)
        first = await make()
        if left != before:
            assert all(replays(first))
        after = await state_of(books, users)
        if all(replays(first)) and name != "create":
            assert after == left
        again = await make()
        assert again == first
        assert all(replays(again))
        changes = tuple(now.balance - was.balance for was, now in zip(before[:2], after[:2], strict=True))
        assert changes == CHANGES.get(name, (0, 0))
        assert await state_of(books, users) == after
        await assert_pool_is_clean(books)
        identifier, before = books.engine.new_id(), after
    assert runs >= 2


DECISIONS = {
    "confirm": (lambda books, bet: books.bets.confirm(bet), BetStatus.CONFIRMED, 0),
    "win": (lambda books, bet: books.bets.settle(bet, True), BetStatus.WON, 15),
    "lose": (lambda books, bet: books.bets.settle(bet, False), BetStatus.LOST, 0),
    "cancel": (lambda books, bet: books.bets.cancel(bet), BetStatus.CANCELLED, 10),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", DECISIONS)
async def test_a_cancelled_decision_is_made_whole_or_not_at_all_and_once_when_repeated(books, name, way):
    decide, status, paid = DECISIONS[name]
    ann = await books.users.by_wallet("ann")
    bet = await books.bets.place(ann.id, CELL, 10, 1.5)
    balance = await books.ledger.balance(ann.id)

    def make():
        return decide(books, bet.id)

    async for _ in cancelled_everywhere(make, **WAYS[way]):
        now = await books.bets.get(bet.id)
        assert now.status in {BetStatus.PENDING, status}
        expected = balance + (paid if now.status is status else 0)
        assert await books.ledger.balance(ann.id) == expected
        first, again = await make(), await make()
        assert first == again
        assert first.status is status
        assert again.replayed
        assert first.replayed or now.is_open
        assert await books.ledger.balance(ann.id) == balance + paid
        await assert_pool_is_clean(books)
        bet = await books.bets.place(ann.id, CELL, 10, 1.5)
        balance = await books.ledger.balance(ann.id)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("won", [True, False])
async def test_a_cancelled_settlement_of_a_cell_stops_between_two_chunks(books, monkeypatch, won, way):
    monkeypatch.setattr(bets_module, "CHUNK", 2)
    ann = await books.users.by_wallet("ann")
    balance = await books.ledger.balance(ann.id)
    bets, cells = [], (f"cell {number}" for number in count())
    cell = next(cells)

    async def place_six():
        nonlocal bets
        bets = [await books.bets.place(ann.id, cell, 10, 1.5) for _ in range(6)]

    await place_six()

    def make():
        return books.bets.settle_cell(cell, won)

    async for _ in cancelled_everywhere(make, **WAYS[way]):
        decided = [not (await books.bets.get(bet.id)).is_open for bet in bets]
        assert sum(decided) in {0, 2, 4, 6}
        assert decided == sorted(decided, reverse=True)
        assert await books.bets.settle_cell(cell, won) == CellSettlement(6, 6 * 15 * won)
        await assert_pool_is_clean(books)
        balance += 6 * (5 if won else -10)
        assert await books.ledger.balance(ann.id) == balance
        cell = next(cells)
        await place_six()


READS = {
    "get": lambda books, user, _: books.users.get(user.id),
    "by_wallet": lambda books, *_: books.users.by_wallet("ann"),
    "bet": lambda books, _, bet: books.bets.get(bet.id),
    "history": lambda books, user, _: books.bets.history(user.id),
    "history of a status": lambda books, user, _: books.bets.history(user.id, status=BetStatus.WON),
    "pages of a history": lambda books, user, _: all_pages(books, user),
    "entries": lambda books, user, _: books.ledger.entries(user.id),
    "first entries": lambda books, user, _: books.ledger.entries(user.id, limit=2, newest_first=False),
    "balance": lambda books, user, _: books.ledger.balance(user.id),
    "audit": lambda books, *_: books.ledger.audit(),
    "audit of a week": lambda books, *_: books.ledger.audit(weeks=["2026-W47"], progress=lambda *_: None),
}


async def all_pages(books, user):
    bets, cursor = [], None
    while True:
        page = await books.bets.history(user.id, limit=2, cursor=cursor, allow_partial=True)
        bets, cursor = [*bets, *page.bets], page.next_cursor
        if cursor is None:
            return bets


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", READS)
async def test_a_cancelled_question_leaves_the_books_able_to_answer(books, name, way):
    ann = await books.users.by_wallet("ann")
    bet = await books.bets.settle((await books.bets.place(ann.id, CELL, 10, 1.5)).id, True)
    for _ in range(3):
        await books.bets.place(ann.id, CELL, 10, 1.5)
    await books.next_week()
    answer = await READS[name](books, ann, bet)
    async for _ in cancelled_everywhere(lambda: READS[name](books, ann, bet), **WAYS[way]):
        assert await READS[name](books, ann, bet) == answer
        await assert_pool_is_clean(books)


# The relay


class Hub(PubSubHub):
    """Counts what it publishes."""

    published = 0

    async def publish(self, channel, message, *, durable=False):
        self.published += 1
        return await super().publish(channel, message, durable=durable)


@pytest.fixture
async def hub(redis_url):
    async with RedisClient(RedisSettings.from_url(redis_url)) as client, Hub(client) as hub:
        yield hub


def relays():
    return [task for task in asyncio.all_tasks() if task.get_name() == "betcore-relay"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_relay_whose_opening_is_cancelled_is_closed_or_can_be(books, hub, way):
    relay = OutboxRelay(books.partitions, hub)
    async for was_cancelled in cancelled_everywhere(relay.open, **WAYS[way]):
        assert len(relays()) == (not was_cancelled)
        await relay.close()
        assert relays() == []
        await assert_pool_is_clean(books)
    ann = await books.users.by_wallet("ann")
    async with OutboxRelay(books.partitions, hub) as relay:  # whenever it was turned on: it tells now
        await books.users.deposit(ann.id, 5)
        await until(lambda: relay.stats().relayed)


@pytest.mark.parametrize("way", WAYS)
async def test_a_relay_whose_closing_is_cancelled_is_closed_all_the_same(books, hub, way):
    await books.partitions.write(outbox.turn_on)
    ann = await books.users.by_wallet("ann")
    relay = OutboxRelay(books.partitions, hub)

    async def close():
        async with relay:
            for _ in range(3):
                await books.users.deposit(ann.id, 1)
            await asyncio.sleep(0)

    async for _ in cancelled_everywhere(close, **WAYS[way]):
        assert relays() == []
        with books.partitions.claim("relay") as free:
            assert free
        await assert_pool_is_clean(books)
    deposits = [entry for entry in await books.ledger.entries(ann.id, limit=None) if entry.ref_type == "deposit"]
    async with OutboxRelay(books.partitions, hub), hub.subscribe(channel_of(ann.id), replay_from="start") as stream:
        told = {}
        async with asyncio.timeout(20):
            while len(told) < len(deposits):
                event = Event.parse((await anext(stream)).payload)
                assert event.id in told or event.sequence > max(told.values(), default=-1)
                told[event.id] = event.sequence
    assert [*told] == [entry.id for entry in reversed(deposits)]
