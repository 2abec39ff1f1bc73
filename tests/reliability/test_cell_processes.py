"""Bets and the settlement of their cell from two processes: one stands before its COMMIT, or dies there."""

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
from ledger_files import CELL, open_books

from betcore_async.errors import CellClosedError
from betcore_async.models import BetStatus
from betcore_async.stores import CellSettlement
from betcore_async.stores.commands import PlaceBet, SettleChunk

TESTS = Path(__file__).parents[1]
BETS, PAID = 4, 15


@pytest.fixture
async def books(tmp_path):
    """Books with a cell of four open bets, two of them carried over."""
    async with open_books(tmp_path) as books:
        user = await books.users.create("0xabc", 1_000)
        for number in range(BETS):
            await books.bets.place(user.id, CELL, 10, 1.5)
            if number == 1:
                await books.next_week()
        yield books
        await books.assert_audit_is_clean()


async def a_bet(books):
    return PlaceBet(books.engine.new_id(), (await books.users.by_wallet("0xabc")).id, CELL, 10, 1_500_000)


@contextlib.asynccontextmanager
async def before_its_commit(books, command):
    """Another process that has executed the command but for its COMMIT, which comes when its stdin is closed."""
    program = (sys.executable, TESTS / "reliability" / "held_worker.py", books.folder)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    terms = json.dumps(astuple(command))
    process = await asyncio.create_subprocess_exec(*program, type(command).__name__, terms, env=environment, **pipes)
    try:
        assert await process.stdout.readline() == b"reached\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def knocks(books, asked_for):
    """Return once the lock of the other process was met."""
    while not books.partitions.stats().busy_retries:  # noqa: ASYNC110 - a counter, which has no event
        await asyncio.sleep(0.001)
    assert not asked_for.done()


async def goes_on(process):
    """Let the other process commit; returns what came of its command, as text."""
    outcome, _ = await process.communicate(b"\n")
    return outcome.decode()


async def dies(process):
    process.kill()
    await process.wait()


async def assert_all_are_won(books, number):
    user = await books.users.by_wallet("0xabc")
    page = await books.bets.history(user.id, limit=100)
    assert [bet.status for bet in page.bets] == [BetStatus.WON] * number
    assert user.balance == 1_000 + 5 * number


async def test_a_bet_of_another_process_that_is_not_committed_yet_is_decided_by_who_waits_to_settle(books):
    bet = await a_bet(books)
    async with before_its_commit(books, bet) as process:
        settling = asyncio.create_task(books.bets.settle_cell(CELL, True))
        await knocks(books, settling)
        assert bet.id in await goes_on(process)
    assert await settling == CellSettlement(BETS + 1, PAID * (BETS + 1))
    await assert_all_are_won(books, BETS + 1)


async def test_a_bet_whose_process_dies_before_its_commit_was_never_placed(books):
    bet = await a_bet(books)
    async with before_its_commit(books, bet) as process:
        settling = asyncio.create_task(books.bets.settle_cell(CELL, True))
        await knocks(books, settling)
        await dies(process)
        assert await settling == CellSettlement(BETS, PAID * BETS)
    with pytest.raises(CellClosedError):
        await books.engine.execute(bet)
    await assert_all_are_won(books, BETS)


async def test_a_bet_that_waits_for_the_settlement_of_another_process_is_refused(books):
    async with before_its_commit(books, SettleChunk(CELL, True, 1)) as process:
        placing = asyncio.create_task(books.engine.execute(await a_bet(books)))
        await knocks(books, placing)
        assert f"bets={BETS}" in await goes_on(process)
    with pytest.raises(CellClosedError):
        await placing
    await assert_all_are_won(books, BETS)


async def test_a_settlement_whose_process_dies_before_its_commit_leaves_the_cell_open(books):
    async with before_its_commit(books, SettleChunk(CELL, True, 1)) as process:
        placing = asyncio.create_task(books.engine.execute(await a_bet(books)))
        await knocks(books, placing)
        await dies(process)
        assert (await placing).is_open
    settled = await books.bets.settle_cell(CELL, True)
    assert settled == CellSettlement(BETS + 1, PAID * (BETS + 1))
    assert not settled.replayed
    await assert_all_are_won(books, BETS + 1)
