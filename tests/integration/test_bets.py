"""Bets, from placement to decision: real weekly files, and what a caller may rely on."""

import asyncio
import contextlib
import math
import sqlite3
from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_files import CELL, NOON, WEEK, id_born, open_books

from betcore_async.errors import (
    BalanceLimitError,
    BetNotFoundError,
    CellClosedError,
    IdempotencyConflictError,
    InsufficientFundsError,
    InvalidTransitionError,
    ModelError,
    PartitionMissingError,
    UserNotFoundError,
)
from betcore_async.models import MAX_MONEY, MAX_PPM, PPM, BetStatus, payout
from betcore_async.stores import CellSettlement
from betcore_async.stores import bets as bets_module
from betcore_async.stores.commands import SettleChunk
from betcore_async.stores.sqlite_commands import PAYOUT


@pytest.fixture
async def books(tmp_path):
    async with open_books(tmp_path) as books:
        yield books
        await books.assert_audit_is_clean()


@pytest.fixture
async def user(books):
    return await books.users.create("0xabc", 1_000)


async def entries_about(books, bet):
    return [
        (entry.ref_type, entry.amount) for entry in await books.ledger.entries(bet.user_id) if entry.ref_id == bet.id
    ]


# Placement


async def test_placing_a_bet_takes_its_stake(books, user):
    bet = await books.bets.place(user.id, CELL, 300, 1.9)
    assert (bet.status, bet.amount, bet.reward_rate, bet.cell_id) == (BetStatus.PENDING, 300, 1.9, CELL)
    assert (bet.placed_at, bet.resolved_at, bet.payout_amount) == (NOON, None, None)
    assert await books.bets.get(bet.id) == bet
    assert await books.ledger.balance(user.id) == 700
    assert await entries_about(books, bet) == [("stake", -300)]


async def test_a_bet_that_cannot_be_paid_is_recorded_and_moves_nothing(books, user):
    bet = await books.bets.place(user.id, CELL, 1_001, 1.9)
    assert (bet.status, bet.resolved_at) == (BetStatus.INSUFFICIENT_FUNDS, NOON)
    assert await books.bets.get(bet.id) == bet
    assert await books.users.get(user.id) == user
    assert await entries_about(books, bet) == []


async def test_require_funds_raises_and_still_records(books, user):
    with pytest.raises(InsufficientFundsError) as caught:
        await books.bets.place(user.id, CELL, 1_001, 1.9, require_funds=True)
    error = caught.value
    assert (error.user_id, error.amount) == (user.id, 1_001)
    assert await books.bets.get(error.bet.id) == error.bet


async def test_a_bet_once_refused_stays_refused_under_its_id(books, user):
    identifier = books.engine.new_id()
    first = await books.bets.place(user.id, CELL, 1_500, 1.9, id=identifier)
    await books.users.deposit(user.id, 1_000)
    assert await books.bets.place(user.id, CELL, 1_500, 1.9, id=identifier) == first
    with pytest.raises(InsufficientFundsError):
        await books.bets.place(user.id, CELL, 1_500, 1.9, id=identifier, require_funds=True)


async def test_the_last_unit_can_be_staked(books, user):
    bet = await books.bets.place(user.id, CELL, 1_000, 1.0)
    assert bet.status is BetStatus.PENDING
    assert await books.ledger.balance(user.id) == 0


async def test_concurrent_bets_never_stake_more_than_there_is(books, user):
    bets = await asyncio.gather(*(books.bets.place(user.id, CELL, 30, 2.0) for _ in range(100)))
    assert sum(bet.status is BetStatus.PENDING for bet in bets) == 33
    assert await books.ledger.balance(user.id) == 10


async def test_an_unknown_user_cannot_bet(books):
    with pytest.raises(UserNotFoundError):
        await books.bets.place("nobody", CELL, 1, 2.0)


@pytest.mark.parametrize("rate", [0.99, 0, -1, float("nan"), float("inf"), 1_000_001, "2", None, True, Fraction(3, 2)])
async def test_a_reward_rate_is_a_finite_number_from_one_up(books, user, rate):
    with pytest.raises(ModelError) as caught:
        await books.bets.place(user.id, CELL, 1, rate)
    assert caught.value.field == "reward_rate"


@pytest.mark.parametrize("cell", ["", "c" * 257, "a\0b", "\ud800", None, 3])
async def test_a_cell_is_named_by_a_text_that_can_be_kept(books, user, cell):
    for call in (books.bets.place(user.id, cell, 1, 2.0), books.bets.settle_cell(cell, True)):
        with pytest.raises(ModelError) as caught:
            await call
        assert caught.value.field == "cell_id"


@pytest.mark.parametrize("weeks", [0, 1, 2])
@pytest.mark.parametrize(
    "terms", [{"amount": 301}, {"cell_id": "other"}, {"reward_rate": 1.900001}, {"user_id": "somebody"}]
)
async def test_a_bet_repeated_on_other_terms_is_a_conflict(books, user, weeks, terms):
    placed = {"user_id": user.id, "cell_id": CELL, "amount": 300, "reward_rate": 1.9, "id": books.engine.new_id()}
    bet = await books.bets.place(**placed)
    for _ in range(weeks):
        await books.next_week()
    with pytest.raises(IdempotencyConflictError) as caught:
        await books.bets.place(**placed | terms)
    assert caught.value.id == bet.id
    assert await books.bets.place(**placed) == bet


@pytest.mark.parametrize("decided_in_week", [0, 1])
async def test_a_repeated_placement_returns_the_bet_as_it_was_placed(books, user, decided_in_week):
    placed = {"user_id": user.id, "cell_id": CELL, "amount": 300, "reward_rate": 1.9, "id": books.engine.new_id()}
    bet = await books.bets.place(**placed)
    for _ in range(decided_in_week):
        await books.next_week()
    await books.bets.settle(bet.id, True)
    assert await books.bets.place(**placed) == bet
    await books.next_week()
    assert await books.bets.place(**placed) == bet
    assert await books.ledger.balance(user.id) == 1_270


# Decisions


async def test_a_won_bet_pays_its_exact_product(books, user):
    bet = await books.bets.place(user.id, CELL, 100, 1.13)
    books.clock.advance(timedelta(minutes=5))
    won = await books.bets.settle(bet.id, True)
    assert (won.status, won.payout_amount, won.resolved_at) == (BetStatus.WON, 113, NOON + timedelta(minutes=5))
    assert await books.bets.get(bet.id) == won
    assert await entries_about(books, bet) == [("payout", 113), ("stake", -100)]
    assert await books.ledger.balance(user.id) == 1_013


async def test_a_lost_bet_pays_nothing(books, user):
    bet = await books.bets.place(user.id, CELL, 100, 1.9)
    lost = await books.bets.settle(bet.id, False)
    assert (lost.status, lost.payout_amount, lost.resolved_at) == (BetStatus.LOST, None, NOON)
    assert await entries_about(books, bet) == [("stake", -100)]


async def test_a_cancelled_bet_gives_its_stake_back(books, user):
    bet = await books.bets.place(user.id, CELL, 100, 1.9)
    cancelled = await books.bets.cancel(bet.id)
    assert (cancelled.status, cancelled.payout_amount) == (BetStatus.CANCELLED, None)
    assert await entries_about(books, bet) == [("refund", 100), ("stake", -100)]
    assert await books.ledger.balance(user.id) == 1_000


DECISIONS = {
    "confirmed": lambda books, bet_id: books.bets.confirm(bet_id),
    "won": lambda books, bet_id: books.bets.settle(bet_id, True),
    "lost": lambda books, bet_id: books.bets.settle(bet_id, False),
    "cancelled": lambda books, bet_id: books.bets.cancel(bet_id),
}
ALLOWED = {
    "pending": {"confirmed", "won", "lost", "cancelled"},
    "confirmed": {"confirmed", "won", "lost", "cancelled"},
    "won": {"won"},  # and "confirmed", for one that was: see test_repeats.py
    "lost": {"lost"},
    "cancelled": {"cancelled"},
    "insufficient_funds": set(),
}


async def bet_in(books, user, status):
    bet = await books.bets.place(user.id, CELL, 10_000 if status == "insufficient_funds" else 100, 1.9)
    if status in DECISIONS:
        bet = await DECISIONS[status](books, bet.id)
    assert bet.status == status
    return bet


@pytest.mark.parametrize("weeks", [0, 1, 2])
@pytest.mark.parametrize("wanted", DECISIONS)
@pytest.mark.parametrize("status", ALLOWED)
async def test_a_bet_moves_along_its_state_machine_in_any_week(books, user, status, wanted, weeks):
    bet = await bet_in(books, user, status)
    for _ in range(weeks):
        await books.next_week()
    if wanted in ALLOWED[status]:
        decided = await DECISIONS[wanted](books, bet.id)
        assert decided.status == wanted
        assert await DECISIONS[wanted](books, bet.id) == decided == await books.bets.get(bet.id)
        if wanted == status:
            assert decided == bet
    else:
        with pytest.raises(InvalidTransitionError) as caught:
            await DECISIONS[wanted](books, bet.id)
        assert (caught.value.bet_id, caught.value.status, caught.value.wanted) == (bet.id, status, wanted)
        assert await books.bets.get(bet.id) == bet


@pytest.mark.parametrize("decide", DECISIONS.values(), ids=DECISIONS)
async def test_a_bet_that_was_never_placed_is_told(books, decide):
    for born in (NOON, NOON - 5 * WEEK, NOON + WEEK):
        identifier = id_born(born)
        with pytest.raises(BetNotFoundError) as caught:
            await decide(books, identifier)
        assert caught.value.bet_id == identifier
        with pytest.raises(BetNotFoundError):
            await books.bets.get(identifier)
    with pytest.raises(ModelError) as caught:
        await decide(books, "no id")
    assert caught.value.field == "bet_id"


@pytest.mark.parametrize("decide", DECISIONS.values(), ids=DECISIONS)
async def test_a_bet_placed_just_after_a_decision_did_not_find_it_stays_open(
    books, user, decide, tmp_path, monkeypatch
):
    bet, write = books.engine.new_id(), books.partitions.write
    async with open_books(tmp_path, books.clock) as others:

        async def write_and_be_overtaken(*arguments, **options):
            try:
                return await write(*arguments, **options)
            except BetNotFoundError:
                await others.bets.place(user.id, CELL, 10, 1.5, id=bet)
                raise

        monkeypatch.setattr(books.partitions, "write", write_and_be_overtaken)
        with pytest.raises(BetNotFoundError):
            await decide(books, bet)
    assert (await books.bets.get(bet)).status is BetStatus.PENDING


@pytest.mark.parametrize("won", ["lost", "won", 0, 1, None])
async def test_a_verdict_that_is_not_a_bool_decides_nothing(books, user, won):
    bet = await books.bets.place(user.id, CELL, 100, 1.9)
    for call in (books.bets.settle(bet.id, won), books.bets.settle_cell(CELL, won)):
        with pytest.raises(ModelError):
            await call
    assert await books.bets.get(bet.id) == bet


async def test_of_many_decisions_at_once_one_wins_and_pays_once(books, user):
    bet = await books.bets.place(user.id, CELL, 100, 1.9)
    calls = [decide(books, bet.id) for _ in range(10) for name, decide in DECISIONS.items() if name != "confirmed"]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    statuses = {outcome.status for outcome in outcomes if not isinstance(outcome, InvalidTransitionError)}
    assert statuses == {(await books.bets.get(bet.id)).status}


async def test_a_bet_is_decided_no_earlier_than_it_was_placed(books, user):
    bet = await books.bets.place(user.id, CELL, 100, 1.9)
    books.clock.now = NOON - timedelta(hours=1)
    assert (await books.bets.settle(bet.id, True)).resolved_at == bet.placed_at


async def test_a_payout_beyond_what_a_balance_holds_is_refused_and_changes_nothing(books):
    rich = await books.users.create("0xrich", MAX_MONEY)
    bet = await books.bets.place(rich.id, CELL, 10, 2.0)
    with pytest.raises(BalanceLimitError, match="cannot grow") as caught:
        await books.bets.settle(bet.id, True)
    assert (caught.value.user_id, caught.value.bet_id, caught.value.amount) == (rich.id, bet.id, 20)
    assert await books.bets.get(bet.id) == bet
    assert await books.ledger.balance(rich.id) == MAX_MONEY - 10
    await books.users.withdraw(rich.id, 10)
    assert (await books.bets.settle(bet.id, True)).payout_amount == 20


async def test_a_bet_with_an_id_from_a_clock_that_is_ahead_is_found_weeks_later(books, user):
    ahead = id_born(NOON + timedelta(days=6))  # a Tuesday
    await books.bets.place(user.id, CELL, 100, 1.9, id=ahead)
    settled = await books.bets.settle(ahead, True)
    books.clock.now = NOON + timedelta(days=5)  # the Monday before it
    await books.partitions.rotate_to_new_week()
    await books.next_week()
    assert await books.bets.get(ahead) == settled
    again = await books.bets.settle(ahead, True)
    assert again == settled
    assert again.replayed


async def test_a_bet_of_a_week_that_is_away_is_not_answered_for(tmp_path):
    async with open_books(tmp_path) as books:
        user = await books.users.create("0xabc", 1_000)
        bet = await books.bets.place(user.id, CELL, 100, 1.9)
        await books.bets.settle(bet.id, True)
        week = books.partitions.current_week
        await books.next_week()
        await books.partitions.detach_partition(week)
        for call in (books.bets.get(bet.id), books.bets.settle(bet.id, True), books.bets.cancel(bet.id)):
            with pytest.raises(PartitionMissingError) as caught:
                await call
            assert caught.value.weeks == (week,)


async def test_a_bet_decided_in_a_week_that_is_away_is_not_shown_as_open(tmp_path):
    async with open_books(tmp_path) as books:
        user = await books.users.create("0xabc", 1_000)
        bet = await books.bets.place(user.id, CELL, 100, 1.9)
        await books.next_week()
        won = await books.bets.settle(bet.id, True)
        week = books.partitions.current_week
        await books.next_week()
        assert await books.bets.get(bet.id) == won
        await books.partitions.detach_partition(week)
        with pytest.raises(PartitionMissingError):
            await books.bets.get(bet.id)


# Over weeks


async def test_a_carried_bet_is_decided_in_the_week_that_is_live(books, user):
    bet = await books.bets.place(user.id, CELL, 100, 1.9)
    for _ in range(3):
        await books.next_week()
        assert await books.bets.get(bet.id) == bet
    won = await books.bets.settle(bet.id, True)
    assert (won.placed_at, won.resolved_at) == (NOON, NOON + 3 * WEEK)
    assert await books.ledger.balance(user.id) == 1_090
    await books.next_week()
    assert await books.bets.get(bet.id) == won
    assert (await books.bets.history(user.id)).bets == [won]


async def test_a_bet_is_placed_and_decided_across_a_rotation_under_way(books, user):
    bets = await asyncio.gather(*(books.bets.place(user.id, CELL, 1, 2.0) for _ in range(50)))
    books.clock.advance(WEEK)
    outcomes = await asyncio.gather(
        *(books.bets.settle(bet.id, True) for bet in bets[:25]),
        books.partitions.rotate_to_new_week(),
        *(books.bets.settle(bet.id, True) for bet in bets[25:]),
        *(books.bets.place(user.id, CELL, 1, 2.0) for _ in range(50)),
    )
    assert len(outcomes) == 101
    assert await books.ledger.balance(user.id) == 1_000 - 100 + 100


# Among others


async def test_bets_survive_a_neighbour_that_brings_the_whole_group_down(books, user):
    def ruin(raw, now):
        raw.execute("INSERT OR ROLLBACK INTO users VALUES (?, 'x', 0, 1, ?, ?)", (user.id, now, now))

    identifiers = [books.engine.new_id() for _ in range(20)]
    outcomes = await asyncio.gather(
        *(books.bets.place(user.id, CELL, 1, 2.0, id=identifier) for identifier in identifiers[:10]),
        books.partitions.write(ruin),
        *(books.bets.place(user.id, CELL, 1, 2.0, id=identifier) for identifier in identifiers[10:]),
        return_exceptions=True,
    )
    assert [bet.id for bet in outcomes if not isinstance(bet, Exception)] == identifiers
    assert sum(isinstance(outcome, Exception) for outcome in outcomes) == 1
    assert await books.ledger.balance(user.id) == 980


async def test_another_process_answers_repeats_of_what_it_has_not_seen(books, user, tmp_path):
    async with open_books(tmp_path, books.clock) as other:
        placed = {"user_id": user.id, "cell_id": CELL, "amount": 300, "reward_rate": 1.9}
        early = await books.bets.place(**placed, id=books.engine.new_id())
        assert await other.bets.place(**placed, id=early.id) == early
        won = await books.bets.settle(early.id, True)
        deposit = await books.users.deposit(user.id, 10)
        await books.next_week()  # the other one has not noticed
        assert await other.bets.place(**placed, id=early.id) == early
        assert await other.bets.settle(early.id, True) == await other.bets.get(early.id) == won
        assert await other.users.deposit(user.id, 10, id=deposit.ref_id) == deposit
        late = await other.bets.place(**placed)
        assert await books.bets.cancel(late.id) == await other.bets.cancel(late.id)
        assert await other.ledger.balance(user.id) == await books.ledger.balance(user.id) == 1_280


# History


async def test_history_pages_over_weeks_show_every_bet_once_in_order(books, user):
    placed = []
    for _ in range(3):
        for _ in range(7):
            books.clock.advance(timedelta(minutes=1))
            placed.append(await books.bets.place(user.id, CELL, 1, 2.0))
        await books.next_week()
    await books.bets.settle(placed[0].id, True)
    for newest_first in (True, False, None):  # any truth value is one
        seen, cursor = [], None
        while True:
            page = await books.bets.history(user.id, limit=4, cursor=cursor, newest_first=newest_first)
            seen += page.bets
            cursor = page.next_cursor
            if cursor is None:
                break
        expected = [bet.id for bet in placed]
        assert [bet.id for bet in seen] == (expected[::-1] if newest_first else expected)
    (won,) = (await books.bets.history(user.id, status=BetStatus.WON)).bets
    assert won.id == placed[0].id
    assert len((await books.bets.history(user.id, NOON, NOON + WEEK)).bets) == 7


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_page_has_at_least_one_row(books, user, limit):
    for call in (books.bets.history(user.id, limit=limit), books.ledger.entries(user.id, limit=limit)):
        with pytest.raises(ModelError) as caught:
            await call
        assert caught.value.field == "limit"


# Cells


async def place_some(books, count, *, users=5, cell=CELL):
    owners = [await books.users.create(f"0x{cell}{number}", 10_000) for number in range(users)]
    return await asyncio.gather(
        *(books.bets.place(owners[number % users].id, cell, 10 + number, 1.5) for number in range(count))
    )


@pytest.mark.parametrize("won", [True, False])
async def test_settling_a_cell_decides_its_open_bets_and_no_others(books, won):
    bets = await place_some(books, 40)
    await books.bets.confirm(bets[0].id)
    await books.bets.cancel(bets[1].id)
    (elsewhere,) = await place_some(books, 1, users=1, cell="another")
    settled = await books.bets.settle_cell(CELL, won)
    paid = sum((10 + number) * 3 // 2 for number in range(40) if number != 1) if won else 0
    assert settled == CellSettlement(39, paid)
    now = [await books.bets.get(bet.id) for bet in bets]
    assert {bet.status for bet in now if bet.id != bets[1].id} == {"won" if won else "lost"}
    assert now[1].status == "cancelled"
    assert (await books.bets.get(elsewhere.id)).is_open
    assert not settled.replayed
    again = await books.bets.settle_cell(CELL, won)
    assert again == settled
    assert again.replayed
    with pytest.raises(CellClosedError) as caught:
        await books.bets.settle_cell(CELL, not won)
    assert (caught.value.cell_id, caught.value.won) == (CELL, won)


async def test_settling_a_cell_in_one_go_equals_settling_its_bets_one_by_one(books):
    bets = await place_some(books, 30)
    twins = await place_some(books, 30, cell="twin")
    await books.bets.settle_cell(CELL, True)
    for twin in twins:
        await books.bets.settle(twin.id, True)
    for bet, twin in zip(bets, twins, strict=True):
        one, other = await books.bets.get(bet.id), await books.bets.get(twin.id)
        assert one.payout_amount == other.payout_amount
        assert one.resolved_at == other.resolved_at
    for number in range(5):
        one, other = [await books.users.by_wallet(f"0x{cell}{number}") for cell in (CELL, "twin")]
        assert (one.balance, one.version) == (other.balance, other.version)


async def test_a_cell_is_settled_chunk_by_chunk(books, monkeypatch):
    monkeypatch.setattr(bets_module, "CHUNK", 7)
    bets = await place_some(books, 30)
    await books.next_week()  # carried over, and settled among fresh ones
    more = await place_some(books, 5, users=1, cell="filler")
    fresh = await asyncio.gather(*(books.bets.place(more[0].user_id, CELL, 5, 2.0) for _ in range(10)))
    settled = await books.bets.settle_cell(CELL, True)
    assert settled.bets == 40
    assert {(await books.bets.get(bet.id)).status for bet in [*bets, *fresh]} == {"won"}


async def test_a_chunk_that_is_repeated_returns_its_outcome_and_never_takes_the_next(books):
    bets = sorted(bet.id for bet in await place_some(books, 30))
    first = await books.engine.execute(SettleChunk(CELL, True, 1, 10))
    assert (first.bets, first.is_last, first.replayed) == (10, False, False)
    for size in (10, 30):
        again = await books.engine.execute(SettleChunk(CELL, True, 1, size))
        assert again == first
        assert again.replayed
    with pytest.raises(ModelError) as caught:
        await books.engine.execute(SettleChunk(CELL, True, 3, 10))
    assert caught.value.field == "number"
    assert [(await books.bets.get(bet)).is_open for bet in bets] == [False] * 10 + [True] * 20


@pytest.mark.parametrize("won", [True, False])
async def test_settling_a_cell_cut_off_anywhere_and_repeated_ends_the_same(books, monkeypatch, won):
    monkeypatch.setattr(bets_module, "CHUNK", 5)
    await place_some(books, 30)
    done = 0
    for moment in range(1, 40):
        task = asyncio.create_task(books.bets.settle_cell(CELL, won))
        for _ in range(moment):
            await asyncio.sleep(0)
        if task.cancel():
            with contextlib.suppress(asyncio.CancelledError):
                await task
        elif (done := task.result().bets) == 0:
            break
    await books.bets.settle_cell(CELL, won)
    report = await books.ledger.audit()
    assert done <= 30
    assert report.counts["paid"] == (sum((10 + number) * 3 // 2 for number in range(30)) if won else 0)


async def test_two_who_settle_a_cell_at_once_pay_every_bet_once(books, monkeypatch):
    monkeypatch.setattr(bets_module, "CHUNK", 5)
    await place_some(books, 40)
    settled = await asyncio.gather(*(books.bets.settle_cell(CELL, True) for _ in range(4)))
    assert settled == [CellSettlement(40, sum((10 + number) * 3 // 2 for number in range(40)))] * 4
    assert (await books.ledger.audit()).counts["paid"] == settled[0].payout


async def test_bets_placed_while_a_cell_is_settled_are_decided_with_it_or_refused(books, user, monkeypatch):
    monkeypatch.setattr(bets_module, "CHUNK", 3)
    await place_some(books, 20)
    placing = [books.bets.place(user.id, CELL, 1, 2.0) for _ in range(30)]
    settled, *_ = await asyncio.gather(
        books.bets.settle_cell(CELL, True), *placing, books.bets.place(user.id, CELL, 1, 2.0), return_exceptions=True
    )
    page = await books.bets.history(user.id, limit=100)
    assert {bet.status for bet in page.bets} <= {BetStatus.WON}
    assert settled.bets == 20 + len(page.bets)
    assert await books.ledger.balance(user.id) == 1_000 + len(page.bets)


async def test_an_unknown_cell_has_nothing_to_settle(books):
    assert await books.bets.settle_cell("nothing here", True) == CellSettlement(0, 0)


def test_sqlite_computes_the_same_payout_as_python():
    with contextlib.closing(sqlite3.connect(":memory:")) as raw:
        raw.execute("CREATE TABLE bets (amount INTEGER, reward_ppm INTEGER) STRICT")
        amounts = [
            1,
            99,
            100,
            999_999,
            10**6,
            10**6 + 1,
            123_456_789_012,
            MAX_MONEY // 2,
            MAX_MONEY // 10**6,
            MAX_MONEY,
        ]
        pairs = [
            (amount, ppm)
            for amount in amounts
            for ppm in (10**6, 10**6 + 1, 1_130_000, 1_999_999, 10**7 - 3, 10**12)
            if payout(amount, ppm) <= MAX_MONEY
        ]
        raw.executemany("INSERT INTO bets VALUES (?, ?)", pairs)
        for amount, ppm, found in raw.execute(f"SELECT amount, reward_ppm, {PAYOUT} FROM bets"):
            assert (found, type(found)) == (payout(amount, ppm), int)


@given(st.data())
def test_what_sqlite_pays_is_the_floor_of_the_exact_product(data):
    amount = data.draw(st.integers(1, MAX_MONEY))
    ppm = data.draw(st.integers(PPM, min(MAX_PPM, max(PPM, MAX_MONEY * PPM // amount))))
    with contextlib.closing(sqlite3.connect(":memory:")) as raw:
        raw.execute("CREATE TABLE bets (amount INTEGER, reward_ppm INTEGER) STRICT")
        raw.execute("INSERT INTO bets VALUES (?, ?)", (amount, ppm))
        (paid,) = raw.execute(f"SELECT {PAYOUT} FROM bets").fetchone()
    assert type(paid) is int
    assert paid == math.floor(Fraction(amount) * Fraction(ppm, PPM))
