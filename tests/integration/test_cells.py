"""Cells that were settled: closed for good, also for who comes at the same moment, from elsewhere or a week later."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from ledger_files import CELL, WEEK, by_hand, open_books, path_of
from sqlite_files import Gate

from betcore_async.errors import BalanceLimitError, CellClosedError
from betcore_async.models import MAX_MONEY, BetStatus
from betcore_async.partitions import chain
from betcore_async.stores import CellSettlement, NewBet
from betcore_async.stores import bets as bets_module
from betcore_async.stores.commands import SettleChunk


@pytest.fixture
async def books(tmp_path):
    async with open_books(tmp_path) as books:
        yield books
        await books.assert_audit_is_clean()


@pytest.fixture
async def user(books):
    return await books.users.create("0xabc", 1_000)


async def assert_closed(books, call, *, won):
    with pytest.raises(CellClosedError) as caught:
        await call
    assert (caught.value.cell_id, caught.value.won) == (CELL, won)


@pytest.mark.parametrize("won", [True, False])
@pytest.mark.parametrize("had_bets", [True, False])
async def test_a_settled_cell_takes_no_more_bets_and_leaves_no_trace_of_them(books, user, won, had_bets):
    if had_bets:
        await books.bets.place(user.id, CELL, 10, 2.0)
    await books.bets.settle_cell(CELL, won)
    before = await books.ledger.audit()
    late = books.engine.new_id()
    for amount in (10, 10**9):  # whether or not it could be paid
        await assert_closed(books, books.bets.place(user.id, CELL, amount, 2.0, id=late), won=won)
    assert await books.ledger.audit() == before
    assert (await books.bets.place(user.id, "another", 10, 2.0, id=late)).is_open  # its id was not used up


async def test_a_bet_placed_before_its_cell_closed_is_still_answered_for(books, user):
    placed = {"user_id": user.id, "cell_id": CELL, "amount": 10, "reward_rate": 2.0, "id": books.engine.new_id()}
    bet = await books.bets.place(**placed)
    await books.bets.settle_cell(CELL, True)
    again = await books.bets.place(**placed)
    assert again == bet
    assert again.replayed


async def test_what_is_closed_stays_closed_for_the_week_that_follows(books, user):
    await books.bets.place(user.id, CELL, 10, 2.0)
    settled = await books.bets.settle_cell(CELL, True)
    await books.next_week()
    await assert_closed(books, books.bets.place(user.id, CELL, 10, 2.0), won=True)
    await assert_closed(books, books.bets.settle_cell(CELL, False), won=True)
    again = await books.bets.settle_cell(CELL, True)
    assert again == settled
    assert again.replayed
    await books.next_week()  # what is remembered is bounded: now the name may be used again
    assert (await books.bets.place(user.id, CELL, 10, 2.0)).is_open
    assert await books.bets.settle_cell(CELL, False) == CellSettlement(1, 0)


async def overdue_and_closed(books, user):
    """Settle CELL on the last evening before a rotation that comes a week late; the next one comes in time."""
    books.clock.now = datetime(2026, 11, 29, 23, 58, tzinfo=UTC)  # Sunday of W48, and W47 still takes writes
    await books.bets.place(user.id, CELL, 10, 2.0)
    await books.bets.settle_cell(CELL, False)
    for _ in range(2):
        books.clock.advance(timedelta(minutes=1))
        assert (await books.partitions.rotate_to_new_week()).performed
    assert books.partitions.current_week.name == "2026-W49"


async def test_what_is_closed_stays_closed_for_seven_days_also_where_a_rotation_was_late(books, user):
    await overdue_and_closed(books, user)
    books.clock.advance(timedelta(days=6))
    await assert_closed(books, books.bets.place(user.id, CELL, 10, 2.0), won=False)
    await assert_closed(books, books.bets.settle_cell(CELL, True), won=False)
    assert (await books.bets.settle_cell(CELL, False)).replayed
    books.clock.advance(timedelta(days=1))
    await books.partitions.rotate_to_new_week()
    assert (await books.bets.place(user.id, CELL, 10, 2.0)).is_open
    assert await books.bets.settle_cell(CELL, True) == CellSettlement(1, 20)


async def test_what_is_closed_stays_closed_also_where_late_rotations_go_week_by_week(books, user):
    books.clock.advance(3 * WEEK)
    await books.bets.place(user.id, CELL, 10, 2.0)
    await books.bets.settle_cell(CELL, False)
    for _ in range(3):
        await books.partitions.rotate_to_new_week(books.partitions.current_week.next())
    for days in (5, 7):  # Monday, and the Monday after it
        await assert_closed(books, books.bets.place(user.id, CELL, 10, 2.0), won=False)
        books.clock.advance(timedelta(days=days))
        await books.partitions.rotate_to_new_week()
    assert (await books.bets.place(user.id, CELL, 10, 2.0)).is_open


async def test_the_audit_knows_how_long_a_cell_closed_before_a_late_rotation_has_to_stay_closed(tmp_path):
    async with open_books(tmp_path) as books:
        await overdue_and_closed(books, await books.users.create("0xabc", 1_000))
        with by_hand(path_of(tmp_path, "2026-W49")) as raw:
            raw.execute("DELETE FROM cell_settlements")
        (violation,) = (await books.ledger.audit()).violations
        assert violation.rule == "a closed cell stays closed in the next week"
        assert violation.subject == CELL


async def test_what_is_closed_late_in_a_week_is_open_again_after_the_next(books, user):
    books.clock.now = books.partitions.current_week.end - timedelta(microseconds=1)
    await books.bets.settle_cell(CELL, True)  # at its last moment, but in time
    books.clock.advance(timedelta(hours=1))
    for _ in range(2):
        await books.partitions.rotate_to_new_week()
        books.clock.advance(WEEK)
    assert (await books.bets.place(user.id, CELL, 10, 2.0)).is_open


async def test_a_settlement_cut_off_is_remembered_until_its_end(books, user):
    bets = [await books.bets.place(user.id, CELL, 10, 2.0) for _ in range(5)]
    await books.engine.execute(SettleChunk(CELL, True, 1, 2))
    for _ in range(3):
        await books.next_week()
        await assert_closed(books, books.bets.place(user.id, CELL, 10, 2.0), won=True)
        assert (await books.engine.execute(SettleChunk(CELL, True, 1, 2))).replayed
    settled = await books.bets.settle_cell(CELL, True)
    assert settled == CellSettlement(5, 100)
    assert not settled.replayed
    assert {(await books.bets.get(bet.id)).status for bet in bets} == {BetStatus.WON}


async def test_a_cell_is_closed_for_every_process(books, user, tmp_path):
    async with open_books(tmp_path, books.clock) as other:
        await other.bets.place(user.id, CELL, 10, 2.0)
        settled = await books.bets.settle_cell(CELL, True)
        await assert_closed(other, other.bets.place(user.id, CELL, 10, 2.0), won=True)
        assert await other.bets.settle_cell(CELL, True) == settled
        await books.next_week()  # the other one has not noticed
        await assert_closed(other, other.bets.place(user.id, CELL, 10, 2.0), won=True)


async def test_who_waited_for_one_chunk_does_not_wait_for_the_next(books, user):
    for _ in range(4):
        await books.bets.place(user.id, CELL, 1, 2.0)
    await books.engine.execute(SettleChunk(CELL, won=True, number=1, size=2))
    before, gate = await books.partitions.read(chain.head), Gate()
    blocker = asyncio.create_task(books.partitions.write(lambda _, __: gate.pass_through()))
    await gate.reached()
    placing = asyncio.create_task(books.bets.place(user.id, "elsewhere", 1, 2.0))
    settling = asyncio.create_task(books.engine.execute(SettleChunk(CELL, won=True, number=2, size=2)))
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(blocker, placing, settling)
    after = await books.partitions.read(chain.head)
    assert after.seq == before.seq + 2  # a commit for each


async def test_a_bet_that_comes_between_two_chunks_is_refused_as_well(books, user):
    for _ in range(4):
        await books.bets.place(user.id, CELL, 10, 2.0)
    assert not (await books.engine.execute(SettleChunk(CELL, False, 1, 2))).is_last
    await assert_closed(books, books.bets.place(user.id, CELL, 10, 2.0), won=False)
    assert await books.bets.settle_cell(CELL, False) == CellSettlement(4, 0)


async def test_of_two_verdicts_at_once_one_holds(books, user, monkeypatch):
    monkeypatch.setattr(bets_module, "CHUNK", 2)
    bets = [await books.bets.place(user.id, CELL, 10, 2.0) for _ in range(7)]
    outcomes = await asyncio.gather(
        *(books.bets.settle_cell(CELL, won) for won in (True, False) * 3), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, CellClosedError)]
    assert len(refused) == 3
    assert len({(await books.bets.get(bet.id)).status for bet in bets}) == 1


# Winners who cannot be paid


async def test_one_winner_who_cannot_be_paid_does_not_keep_the_others_from_it(books, user):
    rich = await books.users.create("0xrich", MAX_MONEY)
    bets = [await books.bets.place(owner.id, CELL, 10, 2.0) for owner in (user, rich, user)]
    for _ in range(2):  # a repeat says the same
        with pytest.raises(BalanceLimitError) as caught:
            await books.bets.settle_cell(CELL, True)
        assert caught.value.bet_ids == (bets[1].id,)
        assert caught.value.settled == CellSettlement(2, 40)
    assert caught.value.settled.replayed
    assert [(await books.bets.get(bet.id)).status for bet in bets] == ["won", "pending", "won"]
    assert await books.ledger.balance(user.id) == 1_020
    await books.users.withdraw(rich.id, 10)
    assert (await books.bets.settle(bets[1].id, True)).payout_amount == 20
    assert await books.bets.settle_cell(CELL, True) == CellSettlement(2, 40)


async def test_the_cell_of_a_winner_who_cannot_be_paid_is_never_settled_another_way(books, user):
    rich = await books.users.create("0xrich", MAX_MONEY)
    bet = await books.bets.place(rich.id, CELL, 10, 2.0)
    with pytest.raises(BalanceLimitError):
        await books.bets.settle_cell(CELL, True)
    for _ in range(3):
        await books.next_week()
        with pytest.raises(CellClosedError):
            await books.bets.place(user.id, CELL, 10, 2.0)
        with pytest.raises(CellClosedError):
            await books.bets.settle_cell(CELL, False)
        await books.assert_audit_is_clean()
    await books.users.withdraw(rich.id, 10)
    assert (await books.bets.settle(bet.id, True)).payout_amount == 20
    await books.assert_audit_is_clean()


async def test_of_several_wins_of_a_user_those_that_fit_are_paid(books):
    rich = await books.users.create("0xrich", MAX_MONEY - 25)
    bets = [await books.bets.place(rich.id, CELL, 10, 3.0) for _ in range(4)]
    with pytest.raises(BalanceLimitError) as caught:
        await books.bets.settle_cell(CELL, True)
    assert caught.value.bet_ids == tuple(bet.id for bet in bets[2:])
    assert await books.ledger.balance(rich.id) == MAX_MONEY - 25 - 40 + 60


async def test_payouts_whose_sum_no_column_holds_take_a_chunk_each(books):
    huge = MAX_MONEY // 2 + 1
    for number in range(3):
        owner = await books.users.create(f"0x{number}", huge // 2)
        await books.bets.place(owner.id, CELL, huge // 2, 2.0)
    settled = await books.bets.settle_cell(CELL, True)
    assert settled == CellSettlement(3, 3 * (huge // 2 * 2))
    assert settled.payout > MAX_MONEY


# place_many


async def test_many_bets_placed_at_once_have_an_outcome_each(books, user):
    other = await books.users.create("0xother", 15)
    await books.bets.settle_cell("closed", True)
    used = (await books.users.deposit(user.id, 1)).ref_id
    outcomes = await books.bets.place_many(
        [
            NewBet(user.id, CELL, 10, 2.0),
            NewBet(other.id, CELL, 10, 2.0),
            NewBet(other.id, CELL, 10, 2.0),  # too much for what is left
            NewBet("nobody", CELL, 10, 2.0),
            NewBet(user.id, "closed", 10, 2.0),
            NewBet(user.id, CELL, 1, 2.0, id=used),
            NewBet(other.id, CELL, 5, 2.0),
        ]
    )
    kinds = [getattr(outcome, "status", type(outcome).__name__) for outcome in outcomes]
    assert kinds == [
        *("pending", "pending", "insufficient_funds"),
        *("UserNotFoundError", "CellClosedError", "IdempotencyConflictError", "pending"),
    ]
    assert [await books.ledger.balance(owner.id) for owner in (user, other)] == [991, 0]
    for bet in (outcomes[0], outcomes[2], outcomes[6]):
        assert await books.bets.get(bet.id) == bet


@pytest.mark.parametrize("weeks", [0, 1, 2])
async def test_a_batch_repeated_whole_or_in_part_places_nothing_twice(books, user, weeks):
    wanted = [NewBet(user.id, CELL, amount, 2.0, id=books.engine.new_id()) for amount in (10, 20, 5_000, 30)]
    first = await books.bets.place_many(wanted[:3])
    for _ in range(weeks):
        await books.next_week()
    again = await books.bets.place_many([*wanted, wanted[3], NewBet(user.id, CELL, 11, 2.0, id=wanted[0].id)])
    assert again[:3] == first
    assert [bet.replayed for bet in again[:5]] == [True, True, True, False, True]
    assert again[3] == again[4]
    assert again[5].id == wanted[0].id
    assert isinstance(again[5], Exception)
    assert await books.ledger.balance(user.id) == 940


async def test_an_empty_batch_and_one_that_is_too_large(books, user):
    assert await books.bets.place_many([]) == []
    with pytest.raises(ValueError, match="10001 bets are too many"):
        await books.bets.place_many(NewBet(user.id, CELL, 1, 2.0) for _ in range(10_001))


async def test_terms_that_no_bet_can_have_refuse_the_batch_before_anything_is_done(books, user):
    with pytest.raises(ValueError, match="amount"):
        await books.bets.place_many([NewBet(user.id, CELL, 1, 2.0), NewBet(user.id, CELL, 0, 2.0)])
    for unusable in ("", "7"):
        with pytest.raises(ValueError, match="id must be a UUIDv7"):
            await books.bets.place_many([NewBet(user.id, CELL, 1, 2.0), NewBet(user.id, CELL, 1, 2.0, id=unusable)])
    assert await books.users.get(user.id) == user
