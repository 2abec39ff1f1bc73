"""What the owner of a pool has called first and last in every write transaction."""

import asyncio

import pytest

from betcore_async.errors import PartitionSealedError
from betcore_async.sqlite.pool import SQLitePool

INSERT = "INSERT INTO notes (what) VALUES (?)"


async def opened(tmp_path, **hooks):
    async with SQLitePool(tmp_path / "a.db") as pool:
        await pool.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, what TEXT)")
    return SQLitePool(tmp_path / "a.db", **hooks)


async def noted(pool):
    return [row["what"] for row in await pool.fetch_all("SELECT what FROM notes ORDER BY id")]


async def test_hooks_come_first_and_last_in_every_transaction_and_commit_with_it(tmp_path):
    pool = await opened(
        tmp_path,
        after_begin=lambda raw: raw.execute(INSERT, ("first",)),
        before_commit=lambda raw: raw.execute(INSERT, ("last",)),
    )
    async with pool:
        await asyncio.gather(*(pool.execute(INSERT, (name,)) for name in "abc"))  # one group
        async with pool.transaction() as transaction:
            await transaction.execute(INSERT, ("d",))
        assert await noted(pool) == ["first", "a", "b", "c", "last", "first", "d", "last"]
        with pytest.raises(ZeroDivisionError):
            async with pool.transaction():
                raise ZeroDivisionError
        assert len(await noted(pool)) == 8


class Sealed:
    def __init__(self):
        self.on = True
        self.asked = 0

    def __call__(self, raw):
        self.asked += 1
        if self.on:
            raw.execute(INSERT, ("too early",))
            raise PartitionSealedError("sealed", successor=None)


async def test_what_after_begin_refuses_is_refused_to_the_whole_line_at_once_and_nothing_is_left(tmp_path):
    sealed = Sealed()
    async with await opened(tmp_path, after_begin=sealed) as pool:
        told = await asyncio.gather(*(pool.execute(INSERT, (name,)) for name in "abc"), return_exceptions=True)
        assert [type(error) for error in told] == [PartitionSealedError] * 3
        assert sealed.asked == 1
        with pytest.raises(PartitionSealedError):
            async with pool.transaction():
                pytest.fail("a transaction was opened")
        sealed.on = False
        await pool.execute(INSERT, ("later",))
        assert await noted(pool) == ["later"]
        assert pool.stats().broken == 0


async def test_a_hook_that_breaks_is_told_and_undoes_everything(tmp_path):
    broken = [True]

    def hook(raw):
        if broken[0]:
            raise KeyError("hook")

    for kind in ("after_begin", "before_commit"):
        broken[0] = True
        (tmp_path / "a.db").unlink(missing_ok=True)
        async with await opened(tmp_path, **{kind: hook}) as pool:
            told = await asyncio.gather(*(pool.execute(INSERT, (name,)) for name in "abc"), return_exceptions=True)
            assert [type(error) for error in told] == [KeyError] * 3
            broken[0] = False
            await pool.execute(INSERT, ("later",))
            assert await noted(pool) == ["later"]
