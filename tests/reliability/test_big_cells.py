"""A cell with very many open bets: settled to the end, with everybody else at work meanwhile.

`pytest tests/reliability/test_big_cells.py --full-size -s` does it with 100,000 bets, and tells how long others waited.
"""

import asyncio
import contextlib
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from ledger_files import CELL, open_books

from betcore_async.stores import CellSettlement, NewBet
from betcore_async.stores import bets as bets_module

TESTS = Path(__file__).parents[1]
BATCH = 10_000


@dataclass(frozen=True)
class Size:
    bets: int
    chunk: int
    users: int
    seconds: float
    """About as long as settling takes; kills come within it."""


SMALL = Size(6_000, 500, 50, 0.1)
FULL = Size(100_000, bets_module.CHUNK, 1_000, 2.0)


@pytest.fixture
def size(request, monkeypatch):
    size = FULL if request.config.getoption("--full-size") else SMALL
    monkeypatch.setattr(bets_module, "CHUNK", size.chunk)
    return size


async def place(books, users, count, amount=10):
    for start in range(0, count, BATCH):
        owners = [users[number % len(users)] for number in range(start, min(start + BATCH, count))]
        placed = await books.bets.place_many([NewBet(owner.id, CELL, amount, 1.5) for owner in owners])
        assert all(bet.is_open for bet in placed)


@pytest.fixture
async def books(tmp_path, size):
    """Books with a big cell, a third of its bets carried over, a tenth of them confirmed."""
    async with open_books(tmp_path) as books:
        users = await asyncio.gather(*(books.users.create(f"0x{number}", 100_000) for number in range(size.users)))
        await place(books, users, size.bets // 3 // size.users * size.users)
        await books.next_week()
        await place(books, users, size.bets - size.bets // 3 // size.users * size.users)
        confirm = "UPDATE bets SET status = 'confirmed', confirmed_at = placed_at WHERE rowid % 10 = 0"
        await books.partitions.write(lambda raw, _: raw.execute(confirm).close())
        yield books
        await books.assert_audit_is_clean()
        each = size.bets // size.users
        for user in users:
            staked, now = 100_000 - each * 10, await books.ledger.balance(user.id)
            assert now in {staked, staked + each * 15}


@pytest.mark.parametrize("won", [True, False])
async def test_every_bet_is_decided_and_other_writers_wait_for_one_chunk_at_most(books, size, won):
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
    assert await settling == CellSettlement(size.bets, size.bets * 15 * won)
    assert decided == size.bets // size.chunk
    assert len(waited) >= decided
    assert max(waited) <= 1


async def test_cut_off_again_and_again_also_by_the_end_of_the_week_it_ends_the_same(books, size):
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
    assert settled == CellSettlement(size.bets, size.bets * 15)
    assert (await books.ledger.audit()).counts["paid"] == size.bets * 15


@contextlib.asynccontextmanager
async def settler(books, size):
    """A process that has begun to settle the cell, dead behind the block."""
    command = (sys.executable, TESTS / "reliability" / "cell_worker.py", books.folder, str(size.chunk))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    worker = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    try:
        assert await worker.stdout.readline() == b"ready\n"
        yield worker
    finally:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        await worker.communicate()


async def test_killed_at_random_and_repeated_it_ends_the_same_while_another_process_writes(books, size):
    chance, waited, finished = random.Random(), [], asyncio.Event()
    user = await books.users.create("0xwriter")
    chunks = []

    async def write_on():
        while not finished.is_set():
            started = time.perf_counter()
            await books.users.deposit(user.id, 1)
            waited.append(time.perf_counter() - started)
            await asyncio.sleep(0.001)  # a busy platform, not an attack

    def settled(raw):
        return raw.execute("SELECT count(*), coalesce(sum(bets), 0) FROM cell_settlements").fetchone()

    writing = asyncio.create_task(write_on())
    for _ in range(3):
        async with settler(books, size):
            await asyncio.sleep(chance.uniform(0, size.seconds / 3))
        number, bets = await books.partitions.read(settled)
        assert bets == number * size.chunk  # each chunk whole
        chunks.append(number)
    async with settler(books, size) as worker:
        answer = (await worker.stdout.readline()).decode()
    finished.set()
    await writing
    assert answer == f"{size.bets} {size.bets * 15}\n"
    assert await books.bets.settle_cell(CELL, True) == CellSettlement(size.bets, size.bets * 15)
    assert await books.ledger.balance(user.id) == len(waited)
    print(  # noqa: T201 - what a run in full size is for
        f"killed after {chunks} of {size.bets // size.chunk} chunks of {size.chunk} bets; of {len(waited)} deposits "
        f"of another process meanwhile the longest took {max(waited):.3f} s"
    )
