"""A cell with very many open bets: settled to the end, with everybody else at work meanwhile."""

import asyncio
import contextlib
import random

import pytest
from ledger_files import CELL, open_books

from betcore_async.stores import CellSettlement, NewBet
from betcore_async.stores import bets as bets_module

BETS = 6_000  # in chunks of 500; the shape is that of 100,000 in chunks of 10,000
CHUNK = 500
USERS = 50


async def place(books, users, count, amount=10):
    owners = (users[number % USERS] for number in range(count))
    placed = await books.bets.place_many([NewBet(owner.id, CELL, amount, 1.5) for owner in owners])
    assert all(bet.is_open for bet in placed)


@pytest.fixture
async def books(tmp_path, monkeypatch):
    """Books with a big cell, a third of its bets carried over, a tenth of them confirmed."""
    monkeypatch.setattr(bets_module, "CHUNK", CHUNK)
    async with open_books(tmp_path) as books:
        users = [await books.users.create(f"0x{number}", 100_000) for number in range(USERS)]
        await place(books, users, BETS // 3)
        await books.next_week()
        await place(books, users, BETS - BETS // 3)
        confirm = "UPDATE bets SET status = 'confirmed', confirmed_at = placed_at WHERE rowid % 10 = 0"
        await books.partitions.write(lambda raw, _: raw.execute(confirm).close())
        yield books
        await books.assert_audit_is_clean()
        for user in users:
            assert await books.ledger.balance(user.id) in {100_000 - BETS // USERS * 10, 100_000 + BETS // USERS * 5}


@pytest.mark.parametrize("won", [True, False])
async def test_every_bet_is_decided_and_other_writers_wait_for_one_chunk_at_most(books, won):
    decided, waited = 0, []
    execute = books.engine.execute

    async def counted(command):
        nonlocal decided
        outcome = await execute(command)
        decided += 1
        return outcome

    def chunks(raw, _):
        return raw.execute("SELECT count(*) FROM cell_settlements WHERE cell_id = ?", (CELL,)).fetchone()[0]

    async def write_on(settling):
        while not settling.done():
            before = decided
            waited.append(await books.partitions.write(chunks) - before)

    books.engine.execute = counted
    settling = asyncio.create_task(books.bets.settle_cell(CELL, won))
    await asyncio.gather(*(write_on(settling) for _ in range(4)))
    assert await settling == CellSettlement(BETS, BETS * 15 * won)
    assert decided == BETS // CHUNK
    assert len(waited) >= decided
    assert max(waited) <= 1


async def test_cut_off_again_and_again_also_by_the_end_of_the_week_it_ends_the_same(books):
    chance = random.Random(5)
    for attempt in range(100):
        task = asyncio.create_task(books.bets.settle_cell(CELL, True))
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
            break
        if attempt in {5, 9}:
            await books.next_week()
    settled = await books.bets.settle_cell(CELL, True)
    assert settled == CellSettlement(BETS, BETS * 15)
    assert (await books.ledger.audit()).counts["paid"] == BETS * 15
