"""A command that comes again returns what came of it the first time and changes nothing; other terms are refused."""

import asyncio
import itertools
from dataclasses import replace

import pytest
from conformance.story import KINDS, a_bet, cast, command, state, told_as_replay

from betcore_async.errors import IdempotencyConflictError
from betcore_async.stores.commands import CancelBet, CreateUser, Deposit, PlaceBet, SettleBet, Transfer, Withdraw


@pytest.mark.parametrize("weeks", [0, 1])
async def test_a_repeat_returns_the_first_outcome_from_anywhere_and_at_any_time(deployment, engine, weeks):
    those = await cast(engine)
    commands = {kind: command(engine, those, kind) for kind in KINDS}
    first = {kind: await engine.execute(commands[kind]) for kind in KINDS}
    assert not any(told_as_replay(outcome) for outcome in first.values())
    await engine.execute(SettleBet(first["place"].id, won=True))  # what happens later makes no difference
    for _ in range(weeks):
        await deployment.end_week(engine)
    before = await state(engine, those.ann, those.bob)
    async with deployment.engine() as elsewhere:
        for asked in (engine, elsewhere):
            for kind in KINDS:
                again = await asked.execute(commands[kind])
                assert again == first[kind], kind
                assert told_as_replay(again), kind
    async with deployment.engine() as reopened:
        assert await reopened.execute(commands["place"]) == first["place"]
    assert await state(engine, those.ann, those.bob) == before


@pytest.mark.parametrize("kind", KINDS)
async def test_sent_many_times_at_once_a_command_happens_once(engine, kind):
    those = await cast(engine)
    wanted = command(engine, those, kind)
    outcomes = await asyncio.gather(*(engine.execute(wanted) for _ in range(10)))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert sum(not told_as_replay(outcome) for outcome in outcomes) == 1


@pytest.mark.parametrize("weeks", [0, 1])
async def test_an_id_is_good_for_one_command_on_its_first_terms(deployment, engine, weeks):
    those = await cast(engine)
    ann, bob = those.ann.id, those.bob.id

    def uses(id_):
        return [
            CreateUser(id_, "new", 5),
            Deposit(id_, ann, 5),
            Withdraw(id_, ann, 5),
            Transfer(id_, ann, bob, 5),
            PlaceBet(id_, ann, "cell", 5, 1_500_000),
        ]

    used = [uses(engine.new_id())[number] for number in range(5)]
    for first in used:
        await engine.execute(first)
    for _ in range(weeks):
        await deployment.end_week(engine)
    before = await state(engine, those.ann, those.bob)
    others = [other for first in used for other in uses(first.id) if type(other) is not type(first)]
    changed = [
        *(replace(first, amount=6) for first in used[1:]),
        *(replace(first, user_id=bob) for first in used if hasattr(first, "user_id")),
        replace(used[0], opening_balance=6),
        replace(used[0], wallet_address="other"),
        replace(used[4], cell_id="other"),
        replace(used[4], reward_ppm=1_500_001),
    ]
    for conflicting in itertools.chain(others, changed):
        with pytest.raises(IdempotencyConflictError) as caught:
            await engine.execute(conflicting)
        assert caught.value.id == conflicting.id
    assert await state(engine, those.ann, those.bob) == before


async def test_a_repeat_needs_the_expected_version_no_more(engine):
    those = await cast(engine)
    now = (await engine.user(those.ann.id)).version
    wanted = Withdraw(engine.new_id(), those.ann.id, 5, now)
    first = await engine.execute(wanted)
    assert await engine.execute(wanted) == await engine.execute(replace(wanted, expected_version=99)) == first


async def test_what_was_refused_left_no_trace_and_its_id_can_be_used(engine):
    those = await cast(engine)
    id_ = engine.new_id()
    with pytest.raises(Exception, match="needed"):
        await engine.execute(Withdraw(id_, those.ann.id, 10**6))
    assert (await engine.execute(Deposit(id_, those.ann.id, 5))).amount == 5


async def test_a_bet_repeated_after_its_cancellation_is_told_as_it_was_placed(engine):
    those = await cast(engine)
    wanted = a_bet(engine, those.ann)
    first = await engine.execute(wanted)
    await engine.execute(CancelBet(first.id))
    assert await engine.execute(wanted) == first
