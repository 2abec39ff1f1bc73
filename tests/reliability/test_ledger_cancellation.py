"""Cancelled at any await, a command has happened whole or not at all, and repeating it makes it whole."""

from itertools import count

import pytest
from ledger_files import CELL, open_books
from reliability.cancellation import cancelled_everywhere

from betcore_async.models import BetStatus
from betcore_async.stores import CellSettlement, NewBet
from betcore_async.stores import bets as bets_module


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


@pytest.mark.parametrize("late", [False, True], ids=["suspended", "just answered"])
@pytest.mark.parametrize("name", COMMANDS)
async def test_a_cancelled_command_happens_whole_or_not_at_all_and_once_when_repeated(books, name, late):
    ann, bob = [await books.users.by_wallet(wallet) for wallet in ("ann", "bob")]
    identifier = books.engine.new_id()

    def make():
        return COMMANDS[name](books, identifier, ann.id, bob.id)

    runs = 0
    async for _ in cancelled_everywhere(make, late=late):
        runs += 1
        before = [(await books.users.get(user.id)).balance for user in (ann, bob)]
        await make()
        after = [(await books.users.get(user.id)).balance for user in (ann, bob)]
        changes = CHANGES.get(name, (0, 0))
        whole = tuple(now - was for was, now in zip([ann.balance, bob.balance], after, strict=True))
        assert whole == changes
        assert tuple(now - was for was, now in zip(before, after, strict=True)) in {changes, (0, 0)}
        await make()
        ann, bob = [await books.users.get(user.id) for user in (ann, bob)]
        assert [ann.balance, bob.balance] == after
        identifier = books.engine.new_id()
    assert runs >= 2


DECISIONS = {
    "confirm": (lambda books, bet: books.bets.confirm(bet), BetStatus.CONFIRMED, 0),
    "win": (lambda books, bet: books.bets.settle(bet, True), BetStatus.WON, 15),
    "lose": (lambda books, bet: books.bets.settle(bet, False), BetStatus.LOST, 0),
    "cancel": (lambda books, bet: books.bets.cancel(bet), BetStatus.CANCELLED, 10),
}


@pytest.mark.parametrize("name", DECISIONS)
async def test_a_cancelled_decision_is_made_whole_or_not_at_all_and_once_when_repeated(books, name):
    decide, status, paid = DECISIONS[name]
    ann = await books.users.by_wallet("ann")
    bet = await books.bets.place(ann.id, CELL, 10, 1.5)
    balance = await books.ledger.balance(ann.id)

    def make():
        return decide(books, bet.id)

    async for _ in cancelled_everywhere(make):
        now = await books.bets.get(bet.id)
        assert now.status in {BetStatus.PENDING, status}
        expected = balance + (paid if now.status is status else 0)
        assert await books.ledger.balance(ann.id) == expected
        assert (await make()).status is (await make()).status is status
        assert await books.ledger.balance(ann.id) == balance + paid
        bet = await books.bets.place(ann.id, CELL, 10, 1.5)
        balance = await books.ledger.balance(ann.id)


@pytest.mark.parametrize("won", [True, False])
async def test_a_cancelled_settlement_of_a_cell_stops_between_two_chunks(books, monkeypatch, won):
    monkeypatch.setattr(bets_module, "CHUNK", 2)
    ann = await books.users.by_wallet("ann")
    balance = await books.ledger.balance(ann.id)
    bets, cells = [], (f"cell {number}" for number in count())
    cell = next(cells)

    async def place_six():
        nonlocal bets
        bets = [await books.bets.place(ann.id, cell, 10, 1.5) for _ in range(6)]

    await place_six()
    async for _ in cancelled_everywhere(lambda: books.bets.settle_cell(cell, won)):  # noqa: B023 - run before it changes
        decided = [not (await books.bets.get(bet.id)).is_open for bet in bets]
        assert sum(decided) in {0, 2, 4, 6}
        assert decided == sorted(decided, reverse=True)
        assert await books.bets.settle_cell(cell, won) == CellSettlement(6, 6 * 15 * won)
        balance += 6 * (5 if won else -10)
        assert await books.ledger.balance(ann.id) == balance
        cell = next(cells)
        await place_six()


READS = {
    "get": lambda books, user, _: books.users.get(user.id),
    "by_wallet": lambda books, *_: books.users.by_wallet("ann"),
    "bet": lambda books, _, bet: books.bets.get(bet.id),
    "history": lambda books, user, _: books.bets.history(user.id),
    "entries": lambda books, user, _: books.ledger.entries(user.id),
    "balance": lambda books, user, _: books.ledger.balance(user.id),
    "audit": lambda books, *_: books.ledger.audit(),
}


@pytest.mark.parametrize("name", READS)
async def test_a_cancelled_question_leaves_the_books_able_to_answer(books, name):
    ann = await books.users.by_wallet("ann")
    bet = await books.bets.settle((await books.bets.place(ann.id, CELL, 10, 1.5)).id, True)
    await books.next_week()
    answer = await READS[name](books, ann, bet)
    async for _ in cancelled_everywhere(lambda: READS[name](books, ann, bet)):
        assert await READS[name](books, ann, bet) == answer
