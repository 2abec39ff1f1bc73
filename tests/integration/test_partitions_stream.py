"""Bets of any range come part by part: each once, in bounded memory, with nothing left open when the reader leaves."""

import asyncio
import tracemalloc
from contextlib import aclosing

import pytest
from sqlite_files import Gate, until
from weekly_files import ALWAYS, W, direct, platform

from betcore_async.errors import ModelError, PartitionMissingError
from betcore_async.models import Bet, BetStatus
from betcore_async.partitions import stream

ROWS = 20_000  # of a week


@pytest.fixture
async def it(tmp_path):
    """Three weeks with bets of two users; in each week one stays open and is won two weeks later."""
    async with platform(tmp_path / "data") as it:
        it.names = [(await it.users.create(f"0x{number}", 10_000)).id for number in range(2)]
        waiting = []
        for _ in range(3):
            for number in range(5):
                waiting.append((await it.bets.place(it.names[number % 2], "cell", 10 + number, 2.0)).id)
                if number:
                    await it.bets.settle(waiting.pop(), won=False)
            if len(waiting) > 2:
                await it.bets.settle(waiting.pop(0), won=True)
            await it.next_week()
        await until(lambda: not it.manager._reading.retiring)  # which may hold up a question, and have it asked again
        yield it


async def collected(it, **chosen):
    return [bet async for bet in it.manager.iterate_bets(*ALWAYS, **chosen)]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("status", [None, BetStatus.WON, BetStatus.LOST, BetStatus.PENDING])
async def test_every_bet_comes_once_with_its_latest_outcome(it, newest_first, chunk, status):
    chosen = {"newest_first": newest_first, "chunk": chunk, "status": status}
    expected = []
    for user in it.names:
        bets = (await it.manager.query_bets(user, *ALWAYS, status=status, newest_first=newest_first)).bets
        assert await collected(it, user_id=user, **chosen) == bets
        expected += bets
    found = await collected(it, **chosen)
    assert found == sorted(
        expected, key=lambda bet: bet.id, reverse=newest_first
    )  # made by one process: ids are in order
    assert {None: 15, "won": 1, "lost": 12, "pending": 2}[status] == len(found)


async def test_a_reader_that_leaves_early_reads_no_further_and_leaves_nothing_behind(it, monkeypatch):
    read, next_part = [], stream.next_part
    monkeypatch.setattr("betcore_async.partitions.router.next_part", lambda *a: read.append(1) or next_part(*a))
    async for _ in it.manager.iterate_bets(*ALWAYS, chunk=2):
        break
    async with aclosing(it.manager.iterate_bets(*ALWAYS, chunk=2)) as bets:
        await anext(bets)
        await anext(bets)
    assert len(read) == 2
    await it.next_week()  # nothing is held that would keep the week from being sealed and made read-only


async def test_a_cancelled_reader_stops_what_is_read_for_it(it):
    gate = Gate()

    async def read():
        async for _ in it.manager.iterate_bets(*ALWAYS, chunk=2):
            await it.manager.scan(lambda *_: gate.pass_through())

    reading = asyncio.create_task(read())
    await gate.reached()
    reading.cancel()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert len(await collected(it)) == 15


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_rotation_between_two_parts_neither_hides_nor_doubles_a_bet(it, newest_first):
    await it.bets.place(it.names[0], "cell", 50, 2.0)
    await it.bets.place(it.names[1], "cell", 60, 2.0)
    before = {bet.id for bet in await collected(it)}
    found = []
    async for bet in it.manager.iterate_bets(*ALWAYS, chunk=2, newest_first=newest_first):
        found.append(bet.id)
        if len(found) in {1, 9}:
            await it.next_week()
            await it.bets.place(it.names[0], "new", 1, 2.0)
    assert len(found) == len(set(found))
    assert before <= set(found)
    assert len(found) == len(before) + (0 if newest_first else 2)


async def test_a_missing_week_ends_the_stream_with_its_name(it):
    await it.manager.detach_partition(W[1])
    with pytest.raises(PartitionMissingError) as caught:
        await collected(it)
    assert caught.value.weeks == (W[1],)


@pytest.mark.parametrize("chunk", [0, -1])
async def test_a_chunk_below_one_is_refused(it, chunk):
    with pytest.raises(ModelError, match="chunk must be at least 1"):
        await collected(it, chunk=chunk)


async def test_a_stream_of_any_length_needs_less_than_ten_megabytes(it):
    with direct(it.file(W[3])) as raw:
        raw.execute(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            f"INSERT INTO bets ({Bet.COLUMNS}) SELECT printf('bulk-%08d', i), ?, 'cell', 10, 1900000, 'lost', "
            "starts_at + i, starts_at + i, NULL FROM n, partition_meta",
            (ROWS, it.names[0]),
        )
    for chosen in ({}, {"user_id": it.names[0]}):
        count = 0
        tracemalloc.start()
        try:
            async for _ in it.manager.iterate_bets(*ALWAYS, **chosen):
                count += 1
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count >= ROWS
        assert peak < 5_000_000  # bytes of Python; SQLite itself keeps 64 kB of each file
