"""What an engine answers: histories and entries over all weeks, and the audit."""

import ast
from datetime import timedelta
from pathlib import Path

import pytest
from conformance.story import ALWAYS, a_bet, create, entries, history, place

from betcore_async.ids import born_at, parse_id
from betcore_async.models import BetStatus
from betcore_async.partitions import Week
from betcore_async.stores.commands import Deposit, SettleBet


@pytest.fixture
async def three_weeks(deployment, engine):
    """A user, and four bets in each of three weeks; the first is won in the second week."""
    ann = await create(engine, "ann", 10_000)
    bets = []
    for week in range(3):
        for _ in range(4):
            deployment.clock.advance(timedelta(minutes=1))
            bets.append(await place(engine, ann, 10))
        if week < 2:
            await deployment.end_week(engine)
        if week == 0:
            await engine.execute(SettleBet(bets[0], won=True))
    return ann, bets


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 5, 6, 100])
async def test_pages_of_a_history_show_every_bet_once_in_order(engine, three_weeks, newest_first, limit):
    ann, bets = three_weeks
    seen, cursor = [], None
    while True:
        page = await history(engine, ann, limit=limit, cursor=cursor, newest_first=newest_first)
        assert len(page.bets) <= limit
        seen += [bet.id for bet in page.bets]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == (bets[::-1] if newest_first else bets)


async def test_a_history_can_be_narrowed(deployment, engine, three_weeks):
    ann, bets = three_weeks
    assert [bet.id for bet in (await history(engine, ann, status=BetStatus.WON)).bets] == [bets[0]]
    assert len((await history(engine, ann, status=BetStatus.PENDING)).bets) == 11
    found = await history(engine, await create(engine, "bob"))
    assert found.bets == []
    placed = [(await engine.bet(bet)).placed_at for bet in bets]
    chosen = {"status": None, "limit": 100, "cursor": None, "newest_first": False, "allow_partial": False}
    within = await engine.history(ann.id, placed[2], placed[7], **chosen)
    assert [bet.id for bet in within.bets] == bets[2:7]  # the end is not part of it


async def test_entries_are_told_from_either_end_without_what_is_carried_forward(engine, three_weeks):
    ann, _ = three_weeks
    told = await entries(engine, ann)
    assert [kind for kind, *_ in told] == ["opening", *["stake"] * 4, "payout", *["stake"] * 8]
    newest = await engine.entries(ann.id, *ALWAYS, limit=3, newest_first=True)
    assert [(entry.ref_type, entry.amount, entry.balance_after) for entry in newest] == told[:-4:-1]


async def test_entries_are_those_of_a_window_whose_end_is_not_part_of_it(deployment, engine, three_weeks):
    ann, _ = three_weeks
    every = await engine.entries(ann.id, *ALWAYS, limit=None, newest_first=False)
    start, end = every[3].created_at, every[9].created_at
    assert every[2].created_at < start < end
    expected = [entry for entry in every if start <= entry.created_at < end]
    assert expected[0] == every[3]
    assert every[9] not in expected
    assert await engine.entries(ann.id, start, end, limit=None, newest_first=False) == expected
    assert await engine.entries(ann.id, start, end, limit=4, newest_first=True) == expected[:-5:-1]
    assert await engine.entries("nobody", *ALWAYS, limit=None, newest_first=True) == []


async def test_ids_are_fresh_grow_and_carry_their_time(deployment, engine):
    ids = [engine.new_id() for _ in range(100)]
    assert ids == sorted(set(ids))
    async with deployment.engine() as other:
        ids += [other.new_id() for _ in range(100)]
    assert len(set(ids)) == 200
    for identifier in ids:
        assert abs(born_at(parse_id(identifier)) - deployment.clock()) < timedelta(milliseconds=1)


async def test_the_audit_counts_what_there_is(engine, three_weeks):
    ann, _ = three_weeks
    await engine.execute(Deposit(engine.new_id(), ann.id, 5))
    await engine.execute(a_bet(engine, ann, 10**9))
    told = []
    report = await engine.audit(None, lambda done, of: told.append((done, of)))
    assert report.ok
    assert {name: report.counts[name] for name in ("users", "bets", "staked", "paid", "deposited", "held")} == {
        "users": 1,
        "bets": 13,
        "staked": 120,
        "paid": 15,
        "deposited": 5,
        "held": 10_000 - 120 + 15 + 5,
    }
    assert told[-1][0] == told[-1][1]


async def test_the_audit_of_some_weeks_is_of_those_alone(deployment, engine, three_weeks):
    _, bets = three_weeks
    weeks = [Week.of((await engine.bet(bets[number])).placed_at) for number in (0, 4, 8)]
    told = []
    report = await engine.audit([weeks[1]], lambda done, of: told.append((done, of)))
    assert report.ok
    assert report.counts["weeks"] == 1
    assert report.counts["staked"] == 40
    assert told[-1] == (1, 1)
    assert (await engine.audit(weeks, None)).counts["staked"] == 120


def test_these_tests_know_no_engine():
    """Every module here but those that open one."""
    for path in Path(__file__).parent.glob("*.py"):
        if path.name.startswith("on_"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert not [name for name in names if "sqlite" in name.lower() or "ledger_files" in name], path
