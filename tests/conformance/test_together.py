"""Many at once, cut off at any moment: each command happens whole or not at all, one after the other."""

import asyncio
import contextlib
import random
from dataclasses import replace

import pytest
from conformance.story import KINDS, a_bet, balance, cast, command, create, entries, history, state, told_as_replay

from betcore_async.errors import CellClosedError, InsufficientFundsError, InvalidTransitionError
from betcore_async.models import BetStatus
from betcore_async.stores.commands import CancelBet, CreateUser, Deposit, SettleBet, SettleChunk, Transfer, Withdraw


async def test_nobody_spends_more_than_they_have(deployment, engine):
    ann = await create(engine, "ann", 1_000)
    async with deployment.engine() as other:
        outcomes = await asyncio.gather(
            *(one.execute(Withdraw(one.new_id(), ann.id, 30)) for one in (engine, other) for _ in range(25)),
            *(one.execute(a_bet(one, ann, 30)) for one in (engine, other) for _ in range(25)),
            return_exceptions=True,
        )
    refused = [outcome for outcome in outcomes if isinstance(outcome, InsufficientFundsError)]
    unpaid = [outcome for outcome in outcomes if getattr(outcome, "status", "") == "insufficient_funds"]
    assert len(refused) + len(unpaid) == 100 - 33
    assert await balance(engine, ann) == 10


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_answered_is_there_for_everybody_at_once_and_for_good(deployment, engine, kind):
    those = await cast(engine)
    wanted = command(engine, those, kind)
    users = [those.ann, those.bob]
    async with deployment.engine() as watching:
        before = await state(watching, *users)
        async with deployment.engine() as short_lived:
            first = await short_lived.execute(wanted)
            after = await state(watching, *users)
            assert after == await state(short_lived, *users)
            assert (after != before) is (kind != "create")
        again = await watching.execute(wanted)
        assert again == first
        assert told_as_replay(again)
        assert await state(watching, *users) == after


async def test_entries_tell_one_story_however_many_wrote_it(deployment, engine):
    ann, bob = await create(engine, "ann"), await create(engine, "bob")
    async with deployment.engine() as other:
        await asyncio.gather(
            *(one.execute(Transfer(one.new_id(), ann.id, bob.id, 3)) for one in (engine, other) for _ in range(10)),
            *(one.execute(Transfer(one.new_id(), bob.id, ann.id, 2)) for one in (engine, other) for _ in range(10)),
            *(one.execute(Deposit(one.new_id(), ann.id, 1)) for one in (engine, other) for _ in range(10)),
        )
    for user, total in ((ann, 1_000 - 60 + 40 + 20), (bob, 1_000 + 60 - 40)):
        told = await entries(engine, user)
        running = 0
        for _, amount, after in told:
            running += amount
            assert after == running
        assert running == total == await balance(engine, user)
        assert (await engine.user(user.id)).version == len(told)


async def test_of_many_decisions_of_one_bet_one_holds(deployment, engine):
    ann = await create(engine, "ann")
    bet = (await engine.execute(a_bet(engine, ann, 100))).id
    decisions = (SettleBet(bet, won=True), SettleBet(bet, won=False), CancelBet(bet))
    async with deployment.engine() as other:
        calls = [one.execute(decision) for one in (engine, other) for decision in decisions * 3]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    decided = {outcome.status for outcome in outcomes if not isinstance(outcome, InvalidTransitionError)}
    assert decided == {(await engine.bet(bet)).status}
    assert len(await entries(engine, ann)) == 2 + (decided != {BetStatus.LOST})


async def test_a_bet_is_decided_with_its_cell_or_refused(deployment, engine):
    ann = await create(engine, "ann")
    async with deployment.engine() as other:

        async def settle():
            number, bets = 0, 0
            while True:
                number += 1
                chunk = await other.execute(SettleChunk("cell", won=True, number=number, size=3))
                bets += chunk.bets
                if chunk.is_last:
                    return bets

        await engine.execute(a_bet(engine, ann, 1))
        placing = [one.execute(a_bet(one, ann, 1)) for _ in range(30) for one in (engine, other)]
        settled, *placed = await asyncio.gather(settle(), *placing, return_exceptions=True)
    page = await history(engine, ann)
    assert {bet.status for bet in page.bets} == {BetStatus.WON}
    assert len(page.bets) == settled == 61 - sum(isinstance(one, CellClosedError) for one in placed)


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelled_a_command_has_happened_whole_or_not_at_all(engine, kind):
    those = await cast(engine)
    for turns in range(8):
        wanted = command(engine, those, kind)
        if isinstance(wanted, CreateUser):
            wanted = replace(wanted, wallet_address=f"new {turns}")
        before = await state(engine, those.ann, those.bob)
        task = asyncio.create_task(engine.execute(wanted))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        changed = await state(engine, those.ann, those.bob) != before
        outcome = await engine.execute(wanted)
        if changed:
            assert told_as_replay(outcome)
        if kind in {"confirm", "win", "lose", "cancel", "settle chunk"} and changed:
            break


async def test_any_mix_of_commands_leaves_sound_books(deployment, engine):
    chance = random.Random(20)
    users = [await create(engine, f"user {number}") for number in range(4)]
    async with deployment.engine() as other:

        async def play(one):
            for _ in range(25):
                ann, bob = chance.sample(users, 2)
                bet = await one.execute(a_bet(one, ann, chance.randint(1, 300), chance.choice("abc")))
                moves = [
                    SettleBet(bet.id, won=chance.random() < 0.5),
                    CancelBet(bet.id),
                    Transfer(one.new_id(), ann.id, bob.id, chance.randint(1, 300)),
                    Deposit(one.new_id(), bob.id, chance.randint(1, 300)),
                ]
                with contextlib.suppress(InsufficientFundsError, InvalidTransitionError):
                    await one.execute(chance.choice(moves))
                if chance.random() < 0.02:
                    await deployment.end_week(one)

        await asyncio.gather(*(play(one) for one in (engine, other) * 2))
        report = await other.audit(None, None)
    assert report.ok
    assert report.counts["held"] == sum([await balance(engine, user) for user in users])
