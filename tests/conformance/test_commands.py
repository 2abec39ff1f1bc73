"""What each command does, and why it refuses to."""

from datetime import timedelta

import pytest
from conformance.story import ALWAYS, PPM, a_bet, balance, cast, command, create, entries, history, place, state

from betcore_async.errors import (
    BalanceLimitError,
    BetNotFoundError,
    CellClosedError,
    ConcurrentUpdateError,
    IdempotencyConflictError,
    InsufficientFundsError,
    InvalidTransitionError,
    ModelError,
    UserExistsError,
    UserNotFoundError,
)
from betcore_async.models import MAX_MONEY, OPEN_STATUSES, TRANSITIONS, BetStatus
from betcore_async.stores.commands import (
    CancelBet,
    ConfirmBet,
    CreateUser,
    Deposit,
    PlaceBet,
    PlaceBets,
    SettleBet,
    SettleChunk,
    Transfer,
    Withdraw,
)

# Money


async def test_an_account_is_opened_once_for_each_wallet(engine):
    user = await create(engine, "ann", 25)
    assert (user.wallet_address, user.balance, user.version) == ("ann", 25, 1)
    assert await engine.user(user.id) == await engine.user_by_wallet("ann") == user
    assert await entries(engine, user) == [("opening", 25, 25)]
    with pytest.raises(UserExistsError) as caught:
        await create(engine, "ann", 25)
    assert caught.value.wallet_address == "ann"
    assert await engine.user("nobody") is await engine.user_by_wallet("nobody") is None


async def test_money_moves_with_an_entry_for_each_side(engine):
    ann, bob = await create(engine, "ann", 100), await create(engine, "bob", 1)
    paid_in = await engine.execute(Deposit(engine.new_id(), ann.id, 50))
    paid_out = await engine.execute(Withdraw(engine.new_id(), ann.id, 30))
    given = await engine.execute(Transfer(engine.new_id(), ann.id, bob.id, 120))
    assert [entry.amount for entry in (paid_in, paid_out, given)] == [50, -30, -120]
    assert [entry.balance_after for entry in (paid_in, paid_out, given)] == [150, 120, 0]
    taken = (await engine.entries(bob.id, *ALWAYS, limit=1, newest_first=True))[0]
    assert (given.metadata, taken.metadata) == ({"to": bob.id}, {"from": ann.id})
    assert given.ref_id == taken.ref_id
    assert await entries(engine, ann) == [
        ("opening", 100, 100),
        ("deposit", 50, 150),
        ("withdrawal", -30, 120),
        ("transfer_out", -120, 0),
    ]
    assert await entries(engine, bob) == [("opening", 1, 1), ("transfer_in", 120, 121)]
    assert (await engine.user(ann.id)).version == 4


async def test_money_that_is_not_there_does_not_move(engine):
    ann, bob = await create(engine, "ann", 100), await create(engine, "bob")
    before = await state(engine, ann, bob)
    for refused in (Withdraw(engine.new_id(), ann.id, 101), Transfer(engine.new_id(), ann.id, bob.id, 101)):
        with pytest.raises(InsufficientFundsError) as caught:
            await engine.execute(refused)
        assert (caught.value.user_id, caught.value.balance, caught.value.amount) == (ann.id, 100, 101)
    assert await state(engine, ann, bob) == before


async def test_a_balance_has_a_limit(engine):
    rich, poor = await create(engine, "rich", MAX_MONEY), await create(engine, "poor", 10)
    for refused in (Deposit(engine.new_id(), rich.id, 1), Transfer(engine.new_id(), poor.id, rich.id, 1)):
        with pytest.raises(BalanceLimitError) as caught:
            await engine.execute(refused)
        assert caught.value.user_id == rich.id
    assert await balance(engine, poor) == 10


async def test_an_unknown_user_is_told(engine):
    ann = await create(engine, "ann")
    for refused in (
        Deposit(engine.new_id(), "nobody", 1),
        Withdraw(engine.new_id(), "nobody", 1),
        Transfer(engine.new_id(), ann.id, "nobody", 1),
        Transfer(engine.new_id(), "nobody", ann.id, 1),
        PlaceBet(engine.new_id(), "nobody", "cell", 1, PPM),
    ):
        with pytest.raises(UserNotFoundError) as caught:
            await engine.execute(refused)
        assert caught.value.user_id == "nobody"
    assert await balance(engine, ann) == 1_000


async def test_a_version_that_was_seen_is_held_to(engine):
    ann, bob = await create(engine, "ann"), await create(engine, "bob")
    for kind, others in ((Deposit, ()), (Withdraw, ()), (Transfer, (bob.id,))):
        now = (await engine.user(ann.id)).version
        await engine.execute(kind(engine.new_id(), ann.id, *others, 5, now))
        with pytest.raises(ConcurrentUpdateError) as caught:
            await engine.execute(kind(engine.new_id(), ann.id, *others, 5, now))
        assert (caught.value.user_id, caught.value.expected, caught.value.version) == (ann.id, now, now + 1)


# Bets


async def test_a_bet_takes_its_stake(engine):
    ann = await create(engine, "ann")
    wanted = a_bet(engine, ann, 300)
    bet = await engine.execute(wanted)
    assert (bet.id, bet.user_id, bet.cell_id, bet.amount) == (wanted.id, ann.id, "cell", 300)
    assert (bet.reward_rate, bet.status, bet.resolved_at, bet.payout_amount) == (1.5, BetStatus.PENDING, None, None)
    assert await engine.bet(bet.id) == bet
    assert (await entries(engine, ann))[1:] == [("stake", -300, 700)]


async def test_a_bet_that_cannot_be_paid_is_recorded_and_moves_nothing(engine):
    ann = await create(engine, "ann")
    bet = await engine.execute(a_bet(engine, ann, 1_001))
    assert (bet.status, bet.resolved_at) == (BetStatus.INSUFFICIENT_FUNDS, bet.placed_at)
    assert await engine.bet(bet.id) == bet
    assert await engine.user(ann.id) == ann


DECISIONS = {
    BetStatus.CONFIRMED: ConfirmBet,
    BetStatus.WON: lambda bet: SettleBet(bet, won=True),
    BetStatus.LOST: lambda bet: SettleBet(bet, won=False),
    BetStatus.CANCELLED: CancelBet,
}
MONEY = {BetStatus.WON: ("payout", 150), BetStatus.CANCELLED: ("refund", 100)}


@pytest.mark.parametrize("wanted", DECISIONS)
@pytest.mark.parametrize("status", TRANSITIONS)
async def test_a_bet_moves_along_its_states(engine, status, wanted):
    ann = await create(engine, "ann")
    bet = await place(engine, ann, 10**9 if status is BetStatus.INSUFFICIENT_FUNDS else 100)
    if status in DECISIONS:
        await engine.execute(DECISIONS[status](bet))
    before = await state(engine, ann)
    if wanted in TRANSITIONS[status]:
        decided = await engine.execute(DECISIONS[wanted](bet))
        assert decided.status is wanted
        assert await engine.bet(bet) == decided
        moved = [(kind, amount) for kind, amount, _ in await entries(engine, ann)][2:]
        assert moved == ([MONEY[wanted]] if wanted in MONEY else [])
    elif wanted is status:
        assert (await engine.execute(DECISIONS[wanted](bet))).replayed
        assert await state(engine, ann) == before
    else:
        with pytest.raises(InvalidTransitionError) as caught:
            await engine.execute(DECISIONS[wanted](bet))
        assert (caught.value.bet_id, caught.value.status, caught.value.wanted) == (bet, status, wanted)
        assert await state(engine, ann) == before


@pytest.mark.parametrize("decide", DECISIONS.values(), ids=DECISIONS)
async def test_a_bet_that_was_never_placed_cannot_be_decided(engine, decide):
    bet = engine.new_id()
    with pytest.raises(BetNotFoundError) as caught:
        await engine.execute(decide(bet))
    assert caught.value.bet_id == bet
    assert await engine.bet(bet) is None


@pytest.mark.parametrize(("amount", "ppm", "paid"), [(100, 1_130_000, 113), (1, 1_999_999, 1), (3, 1_333_333, 3)])
async def test_a_payout_is_exact_and_rounded_down(engine, amount, ppm, paid):
    ann = await create(engine, "ann")
    bet = await engine.execute(a_bet(engine, ann, amount, ppm=ppm))
    assert (await engine.execute(SettleBet(bet.id, won=True))).payout_amount == paid


async def test_a_winner_who_cannot_be_paid_is_told_and_stays_open(engine):
    rich = await create(engine, "rich", MAX_MONEY)
    bet = await place(engine, rich, 10)
    with pytest.raises(BalanceLimitError) as caught:
        await engine.execute(SettleBet(bet, won=True))
    assert (caught.value.user_id, caught.value.bet_id) == (rich.id, bet)
    assert (await engine.bet(bet)).is_open


async def test_a_stake_that_cannot_be_refunded_is_told_and_its_bet_stays_open(engine):
    ann = await create(engine, "ann", 100)
    bet = await place(engine, ann, 10)
    await engine.execute(Deposit(engine.new_id(), ann.id, MAX_MONEY - 90))
    before = await state(engine, ann)
    with pytest.raises(BalanceLimitError) as caught:
        await engine.execute(CancelBet(bet))
    assert (caught.value.user_id, caught.value.bet_id, caught.value.amount) == (ann.id, bet, 10)
    assert await state(engine, ann) == before
    assert (await engine.bet(bet)).is_open


@pytest.mark.parametrize("won", [True, False])
async def test_a_clock_that_steps_back_takes_no_moment_along(deployment, engine, won):
    ann = await create(engine, "ann")
    bets = [await place(engine, ann, 10, cell) for cell in ("a", "b", "c", "cell")]
    placed_at = (await engine.bet(bets[0])).placed_at
    deployment.clock.advance(-timedelta(hours=1))
    await engine.execute(ConfirmBet(bets[0]))
    await engine.execute(SettleBet(bets[1], won))
    await engine.execute(CancelBet(bets[2]))
    assert (await engine.execute(SettleChunk("cell", won, 1))).bets == 1
    assert [(await engine.bet(bet)).resolved_at for bet in bets] == [None, placed_at, placed_at, placed_at]
    now = await engine.user(ann.id)
    assert now.updated_at == ann.updated_at


async def test_each_bet_of_a_batch_has_its_own_outcome(engine):
    ann, bob = await create(engine, "ann", 100), await create(engine, "bob", 100)
    await engine.execute(SettleChunk("closed", won=True, number=1))
    used = (await engine.execute(Deposit(engine.new_id(), ann.id, 1))).ref_id
    outcomes = await engine.execute(
        PlaceBets(
            (
                a_bet(engine, ann, 60),
                a_bet(engine, ann, 60),
                PlaceBet(engine.new_id(), "nobody", "cell", 1, PPM),
                a_bet(engine, bob, 1, "closed"),
                PlaceBet(used, bob.id, "cell", 1, PPM),
                a_bet(engine, bob, 100),
            )
        )
    )
    assert [getattr(outcome, "status", None) for outcome in outcomes] == [
        *(BetStatus.PENDING, BetStatus.INSUFFICIENT_FUNDS),
        *(None, None, None, BetStatus.PENDING),
    ]
    assert [type(outcome) for outcome in outcomes[2:5]] == [
        UserNotFoundError,
        CellClosedError,
        IdempotencyConflictError,
    ]
    assert [await balance(engine, user) for user in (ann, bob)] == [41, 0]
    assert len((await history(engine, ann)).bets) == 2


# Cells


@pytest.mark.parametrize("won", [True, False])
async def test_a_cell_is_settled_in_numbered_chunks_and_closed(engine, won):
    ann, bob = await create(engine, "ann"), await create(engine, "bob")
    bets = sorted([await place(engine, user, 10) for user in (ann, bob, ann, bob, ann)])
    elsewhere = await place(engine, ann, 10, "another")
    decided = BetStatus.WON if won else BetStatus.LOST
    for number, (size, is_last) in enumerate([(2, False), (2, False), (1, True)], start=1):
        chunk = await engine.execute(SettleChunk("cell", won, number, 2))
        assert (chunk.bets, chunk.payout, chunk.unpaid) == (size, 15 * size * won, ())
        assert chunk.is_last is is_last
        done = [(await engine.bet(bet)).status is decided for bet in bets]
        assert done == [place < 2 * number for place in range(5)]
        with pytest.raises(CellClosedError) as caught:
            await engine.execute(a_bet(engine, ann, 10))
        assert (caught.value.cell_id, caught.value.won) == ("cell", won)
    with pytest.raises(CellClosedError):
        await engine.execute(SettleChunk("cell", not won, 1))
    assert (await engine.bet(elsewhere)).is_open
    assert await balance(engine, bob) == 980 + 30 * won


@pytest.mark.parametrize("won", [True, False])
async def test_a_cell_decides_its_open_bets_and_no_others(engine, won):
    ann = await create(engine, "ann", 1_000)
    bets = {status: await place(engine, ann, 10) for status in (BetStatus.PENDING, *DECISIONS)}
    bets[BetStatus.INSUFFICIENT_FUNDS] = await place(engine, ann, 10**9)
    for status, decide in DECISIONS.items():
        await engine.execute(decide(bets[status]))
    before = await balance(engine, ann)
    chunk = await engine.execute(SettleChunk("cell", won, 1))
    assert (chunk.bets, chunk.payout, chunk.is_last) == (2, 2 * 15 * won, True)
    assert await balance(engine, ann) == before + 2 * 15 * won
    decided = BetStatus.WON if won else BetStatus.LOST
    for status, bet in bets.items():
        assert (await engine.bet(bet)).status is (decided if status in OPEN_STATUSES else status)


async def test_a_chunk_takes_bets_in_the_order_of_their_ids_whichever_was_placed_first(engine):
    ann = await create(engine, "ann")
    ids = [engine.new_id() for _ in range(4)]
    for id_ in ids[::-1]:
        await engine.execute(PlaceBet(id_, ann.id, "cell", 10, PPM))
    await engine.execute(SettleChunk("cell", won=False, number=1, size=2))
    assert [(await engine.bet(id_)).is_open for id_ in ids] == [False, False, True, True]


async def test_chunks_are_settled_in_their_order(engine):
    with pytest.raises(ModelError) as caught:
        await engine.execute(SettleChunk("cell", won=True, number=2))
    assert caught.value.field == "number"


async def test_a_chunk_pays_whom_it_can(engine):
    rich, ann = await create(engine, "rich", MAX_MONEY), await create(engine, "ann")
    bets = [await place(engine, user, 10) for user in (rich, ann)]
    for _ in range(2):
        chunk = await engine.execute(SettleChunk("cell", won=True, number=1))
        assert (chunk.bets, chunk.payout, chunk.unpaid, chunk.is_last) == (1, 15, (bets[0],), True)
    assert (await engine.bet(bets[0])).is_open
    assert await balance(engine, ann) == 1_005


async def test_a_payout_may_be_all_that_a_balance_can_hold(engine):
    rich, poor = await create(engine, "rich", MAX_MONEY), await create(engine, "poor", 10)
    await engine.execute(a_bet(engine, rich, MAX_MONEY, ppm=1_000_000))
    await engine.execute(a_bet(engine, poor, 10))
    paid, number = [], 0
    while not paid or not paid[-1].is_last:
        number += 1
        paid.append(await engine.execute(SettleChunk("cell", True, number)))
        assert paid[-1].bets
    assert sum(chunk.payout for chunk in paid) == MAX_MONEY + 15
    assert [await balance(engine, user) for user in (rich, poor)] == [MAX_MONEY, 15]


async def test_chunks_that_come_again_tell_of_their_own_unpaid_bets_alone(engine):
    rich, ann = await create(engine, "rich", MAX_MONEY), await create(engine, "ann")
    bets = [await place(engine, user, 10) for user in (rich, ann, rich, ann)]
    await engine.execute(Deposit(engine.new_id(), rich.id, 20))
    chunks = [SettleChunk("cell", True, number, 2) for number in (1, 2)]
    first = [await engine.execute(chunk) for chunk in chunks]
    assert [chunk.unpaid for chunk in first] == [(bets[0],), (bets[2],)]
    for chunk, told in zip(chunks, first, strict=True):
        again = await engine.execute(chunk)
        assert again == told
        assert again.replayed


@pytest.mark.parametrize("weeks", [0, 1])
async def test_a_chunk_that_comes_again_tells_of_the_unpaid_bets_that_are_still_open(deployment, engine, weeks):
    rich = await create(engine, "rich", MAX_MONEY)
    bets = [await place(engine, rich, 10) for _ in range(4)]
    await engine.execute(Deposit(engine.new_id(), rich.id, 40))
    wanted = SettleChunk("cell", True, 1)
    first = await engine.execute(wanted)
    assert (first.bets, first.unpaid) == (0, tuple(bets))
    await engine.execute(Withdraw(engine.new_id(), rich.id, 100))
    for bet, decide in zip(bets, DECISIONS.values(), strict=True):
        await engine.execute(decide(bet))
    for _ in range(weeks):
        await deployment.end_week(engine)
    again = await engine.execute(wanted)
    assert (again.bets, again.unpaid, again.is_last, again.replayed) == (0, (bets[0],), True, True)  # confirmed is open


@pytest.mark.parametrize("won", [True, False])
async def test_behind_the_last_chunk_of_a_cell_there_is_nothing(engine, won):
    ann = await create(engine, "ann")
    await place(engine, ann, 10)
    await engine.execute(SettleChunk("cell", won, 1))
    before = await state(engine, ann)
    for number in (2, 2):
        beyond = await engine.execute(SettleChunk("cell", won, number))
        assert (beyond.bets, beyond.payout, beyond.unpaid, beyond.is_last, beyond.replayed) == (0, 0, (), True, True)
    with pytest.raises(ModelError):
        await engine.execute(SettleChunk("cell", won, 3))
    assert await state(engine, ann) == before


async def test_bets_are_decided_in_the_weeks_after_their_own(deployment, engine):
    those = await cast(engine)
    late = await place(engine, those.bob, 10, "late")
    for _ in range(2):
        await deployment.end_week(engine)
    for kind, status in (("confirm", "confirmed"), ("win", "won"), ("lose", "lost"), ("cancel", "cancelled")):
        assert (await engine.execute(command(engine, those, kind))).status == status
    assert (await engine.execute(SettleChunk("late", won=True, number=1))).bets == 1
    await deployment.end_week(engine)
    assert (await engine.bet(late)).status is BetStatus.WON
    assert [await balance(engine, user) for user in (those.ann, those.bob)] == [1_000 - 40 + 15 + 10, 1_005]
    assert (await create(engine, "carl")).version == 1
    with pytest.raises(UserExistsError):
        await engine.execute(CreateUser(engine.new_id(), "ann", 1))
