"""Bets and the settlement of their cell at the same moment: one is held in its transaction until the other waits.

`one`, `other` and `third` are as independent as processes: each has its connections and its view of the files.
"""

import asyncio
import contextlib
import threading

import pytest
from ledger_files import CELL, open_books

from betcore_async.errors import CellClosedError
from betcore_async.models import BetStatus
from betcore_async.sqlite.group import GroupCommit
from betcore_async.stores import CellSettlement
from betcore_async.stores import bets as bets_module
from betcore_async.stores.commands import PlaceBet, PlaceBets, SettleChunk

BETS, SIZE = 6, 2
PAID = 15


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(bets_module, "CHUNK", SIZE)


@pytest.fixture
async def books(tmp_path):
    """Three views of files with a cell of six open bets, two of them carried over."""
    async with open_books(tmp_path) as one, open_books(tmp_path, one.clock) as other:
        user = await one.users.create("0xabc", 1_000)
        for number in range(BETS):
            await one.bets.place(user.id, CELL, 10, 1.5)
            if number == 1:
                await one.next_week()
        async with open_books(tmp_path, one.clock) as third:
            yield one, other, third
            await third.assert_audit_is_clean()


async def user_of(books):
    return (await books.users.by_wallet("0xabc")).id


async def a_bet(books):
    return PlaceBet(books.engine.new_id(), await user_of(books), CELL, 10, 1_500_000)


def chunk(number, *, won=True):
    return SettleChunk(CELL, won, number, SIZE)


class Gate:
    """Stops the first transaction that comes to its COMMIT, and lets all others pass."""

    def __init__(self, commit):
        self._commit, self._taken = commit, threading.Lock()
        self._reached, self._go = threading.Event(), threading.Event()

    def __call__(self, group):
        if self._taken.acquire(blocking=False):
            self._reached.set()
            assert self._go.wait(30)
        self._commit(group)

    async def reached(self):
        assert await asyncio.to_thread(self._reached.wait, 30)

    def open(self):
        self._go.set()


@contextlib.asynccontextmanager
async def uncommitted(books, *commands):
    """Execute commands, whose transaction is open within the block and committed behind it; yields their tasks."""
    gate = Gate(GroupCommit.commit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupCommit, "commit", lambda group: gate(group))  # noqa: PLW0108 - it is bound
        tasks = [asyncio.create_task(books.engine.execute(command)) for command in commands]
        await gate.reached()
        assert not any(task.done() for task in tasks)
        try:
            yield tasks
        finally:
            gate.open()
            await asyncio.wait(tasks)


async def knocks(books, asked_for):
    """Return once a view has found the file locked by another one."""
    while not books.partitions.stats().busy_retries:  # noqa: ASYNC110 - a counter, which has no event
        await asyncio.sleep(0.001)
    assert not asked_for.done()


async def has_copied(rotating, folder):
    """Return once a rotation has all but what is written until it gets the lock."""
    while not list(folder.glob("*.staging")):  # noqa: ASYNC110 - a file
        await asyncio.sleep(0.001)
    assert not rotating.done()


async def assert_refused(asked_for):
    with pytest.raises(CellClosedError) as caught:
        await asked_for
    assert (caught.value.cell_id, caught.value.won) == (CELL, True)


async def assert_all_are_won(books, number, profitable=None):
    page = await books.bets.history(await user_of(books), limit=100)
    assert [bet.status for bet in page.bets] == [BetStatus.WON] * number
    assert await books.ledger.balance(await user_of(books)) == 1_000 + 5 * (profitable or number)


async def test_a_bet_that_is_not_committed_yet_is_decided_by_who_waits_to_settle(books):
    one, other, _ = books
    async with uncommitted(one, await a_bet(one)) as (placing,):
        settling = asyncio.create_task(other.bets.settle_cell(CELL, True))
        await knocks(other, settling)
    assert (await placing).is_open
    assert await settling == CellSettlement(BETS + 1, PAID * (BETS + 1))
    await assert_all_are_won(one, BETS + 1)


@pytest.mark.parametrize("number", [1, 2, 3], ids=["first", "middle", "last"])
async def test_a_bet_that_waits_while_a_chunk_commits_is_refused(books, number):
    one, other, _ = books
    for earlier in range(1, number):
        await one.engine.execute(chunk(earlier))
    async with uncommitted(one, chunk(number)) as (settling,):
        placing = asyncio.create_task(other.engine.execute(await a_bet(other)))
        await knocks(other, placing)
    assert (await settling).is_last is (number == 3)
    await assert_refused(placing)
    assert await one.bets.settle_cell(CELL, True) == CellSettlement(BETS, PAID * BETS)
    await assert_all_are_won(one, BETS)


async def test_bets_asked_for_before_and_behind_a_chunk_are_decided_and_refused(books):
    one, _, _ = books
    for earlier in (1, 2):
        await one.engine.execute(chunk(earlier))
    early = "another"
    before = PlaceBet(one.engine.new_id(), await user_of(one), early, 10, 1_500_000)
    behind = PlaceBet(one.engine.new_id(), await user_of(one), early, 10, 1_500_000)
    async with uncommitted(one, before, SettleChunk(early, True, 1), behind, chunk(3)) as tasks:
        pass
    placed, settled, refused, last = await asyncio.gather(*tasks, return_exceptions=True)
    assert placed.is_open
    assert (settled.bets, settled.is_last, last.is_last) == (1, True, True)
    assert isinstance(refused, CellClosedError)
    await assert_all_are_won(one, BETS + 1)


async def test_a_batch_that_is_not_committed_yet_is_decided_by_who_waits_to_settle(books):
    one, other, _ = books
    batch = PlaceBets((await a_bet(one), await a_bet(one)))
    async with uncommitted(one, batch) as (placing,):
        settling = asyncio.create_task(other.bets.settle_cell(CELL, True))
        await knocks(other, settling)
    assert all(bet.is_open for bet in await placing)
    assert await settling == CellSettlement(BETS + 2, PAID * (BETS + 2))
    await assert_all_are_won(one, BETS + 2)


async def test_of_a_batch_that_waits_while_a_chunk_commits_the_bets_of_its_cell_are_refused(books):
    one, other, _ = books
    elsewhere = PlaceBet(other.engine.new_id(), await user_of(other), "another", 10, 1_000_000)
    async with uncommitted(one, chunk(1)) as (settling,):
        batch = PlaceBets((await a_bet(other), elsewhere, await a_bet(other)))
        placing = asyncio.create_task(other.engine.execute(batch))
        await knocks(other, placing)
    assert (await settling).bets == SIZE
    refused, placed, also_refused = await placing
    assert [type(refused), type(also_refused)] == [CellClosedError] * 2
    assert placed.is_open
    await one.bets.settle(placed.id, True)  # for what it had cost
    assert await one.bets.settle_cell(CELL, True) == CellSettlement(BETS, PAID * BETS)
    await assert_all_are_won(one, BETS + 1, BETS)


async def test_a_bet_from_elsewhere_between_two_chunks_is_refused(books):
    one, other, _ = books
    for number in (1, 2, 3):
        await one.engine.execute(chunk(number))
        await assert_refused(other.engine.execute(await a_bet(other)))
    await assert_all_are_won(other, BETS)


@pytest.mark.parametrize("rotated_after", [1, 2, 3])
async def test_a_week_that_ends_between_two_chunks_changes_nothing(books, rotated_after):
    one, other, third = books
    settled = []
    for number in (1, 2, 3):
        settled.append(await one.engine.execute(chunk(number)))
        if number == rotated_after:
            await other.next_week()
            again = await third.engine.execute(chunk(number))  # neither of the two others has noticed the new week
            assert again == settled[-1]
            assert again.replayed
            await assert_refused(third.engine.execute(await a_bet(third)))
    assert [one_chunk.bets for one_chunk in settled] == [SIZE] * 3
    again = await third.bets.settle_cell(CELL, True)
    assert again == CellSettlement(BETS, PAID * BETS)
    assert again.replayed
    await assert_all_are_won(third, BETS)


async def test_a_chunk_repeated_from_elsewhere_while_the_next_one_commits_is_told_as_it_was(books):
    one, other, third = books
    first = await one.engine.execute(chunk(1))
    async with uncommitted(one, chunk(2)) as (second,):
        again = asyncio.create_task(other.engine.execute(chunk(1)))
        rival = asyncio.create_task(third.engine.execute(chunk(2)))
        await knocks(other, again)
        await knocks(third, rival)
    assert await again == first
    assert (await again).replayed
    assert await rival == await second
    assert ((await rival).replayed, (await second).replayed) == (True, False)
    assert await third.bets.settle_cell(CELL, True) == CellSettlement(BETS, PAID * BETS)
    await assert_all_are_won(one, BETS)


@pytest.mark.parametrize("number", [1, 3])
async def test_a_rotation_that_waits_for_a_chunk_carries_over_what_it_left(books, number, tmp_path):
    one, other, third = books
    for earlier in range(1, number):
        await one.engine.execute(chunk(earlier))
    async with uncommitted(one, chunk(number)) as (settling,):
        rotating = asyncio.create_task(other.next_week())
        placing = asyncio.create_task(third.engine.execute(await a_bet(third)))
        await has_copied(rotating, tmp_path)
        await knocks(third, placing)
    assert (await settling).bets == SIZE
    await rotating
    await assert_refused(placing)  # in which of the two weeks, nobody knows
    await assert_refused(one.engine.execute(await a_bet(one)))
    assert await one.bets.settle_cell(CELL, True) == CellSettlement(BETS, PAID * BETS)
    await assert_all_are_won(one, BETS)


async def test_a_bet_that_a_rotation_waits_for_is_carried_over_and_decided_in_the_week_after(books, tmp_path):
    one, other, third = books
    async with uncommitted(one, await a_bet(one)) as (placing,):
        rotating = asyncio.create_task(other.next_week())
        await has_copied(rotating, tmp_path)
    await rotating
    assert (await placing).is_open
    assert await third.bets.settle_cell(CELL, True) == CellSettlement(BETS + 1, PAID * (BETS + 1))
    await assert_all_are_won(one, BETS + 1)


async def test_of_two_verdicts_one_of_which_waits_the_first_holds(books):
    one, other, third = books
    async with uncommitted(one, chunk(1)) as (settling,):
        rival = asyncio.create_task(other.bets.settle_cell(CELL, False))
        helper = asyncio.create_task(third.bets.settle_cell(CELL, True))
        await knocks(other, rival)
        await knocks(third, helper)
    assert (await settling).bets == SIZE
    await assert_refused(rival)
    assert await helper == CellSettlement(BETS, PAID * BETS)
    assert not (await helper).replayed
    await assert_all_are_won(one, BETS)
