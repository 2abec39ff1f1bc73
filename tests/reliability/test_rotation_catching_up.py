"""Whatever is written while a new week is being copied, it ends up as if it had been copied when nobody wrote."""

import asyncio
import contextlib
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlite_files import Gate
from weekly_files import ALWAYS, WEEK, Platform, W, direct, live_weeks, manager_for, platform

from betcore_async.clock import to_microseconds
from betcore_async.errors import BetcoreError, BusyTimeoutError, PoolClosedError
from betcore_async.partitions import carry
from betcore_async.partitions.staging import Staging, Step, build_first
from betcore_async.sqlite.migrations import Migrator

# What a file holds, without what is made up anew for it: the ids of openings, and where among them an entry stands.
CONTENT = {
    "users": "*",
    "bets": "*",
    "cell_settlements": "*",
    "ledger_chain": "seq, upto, hash",
    "outbox": "*",
    "outbox_cursor": "*",
    "ledger_entries": "user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at",
    "partition_meta": "*",
}

WORK = (
    "create", "deposit", "withdraw", "transfer", "place", "place", "unfunded", "confirm", "win", "lose", "cancel",
    "close a cell", "clock back", "clock on",
)  # fmt: skip
some_work = st.lists(st.tuples(st.sampled_from(WORK), st.integers(0, 9), st.integers(0, 9)), max_size=25)


class Worker:
    """Does what a platform does, on users and bets chosen by number."""

    def __init__(self, it: Platform) -> None:
        self.it = it
        self.users: list[str] = []
        self.bets: list[str] = []

    async def do(self, work: list[tuple[str, int, int]]) -> None:
        for name, one, other in work:
            with contextlib.suppress(BetcoreError):  # money that is not there, a bet that is decided: as in life
                await self._do(name, one, other)

    async def _do(self, name: str, one: int, other: int) -> None:
        it = self.it
        if name == "create" or not self.users:
            self.users.append((await it.users.create(f"0x{len(self.users)}", 100)).id)
            return
        user, to = self.users[one % len(self.users)], self.users[other % len(self.users)]
        match name:
            case "deposit":
                await it.users.deposit(user, 1 + other)
            case "withdraw":
                await it.users.withdraw(user, 1 + other)
            case "transfer":
                await it.users.transfer(user, to, 1 + other)
            case "place" | "unfunded":
                amount = 10**6 if name == "unfunded" else 1 + other
                self.bets.append((await it.bets.place(user, f"cell-{other % 4}", amount, 1.5)).id)
            case "close a cell":
                await it.bets.settle_cell(f"cell-{one % 4}", won=other % 2 == 0)
            case "clock back" | "clock on":
                it.clock.now += timedelta(hours=one) * (1 if name == "clock on" else -1)
            case _ if self.bets:
                await self._decide(name, self.bets[(one * 10 + other) % len(self.bets)])

    async def _decide(self, name: str, bet: str) -> None:
        match name:
            case "confirm":
                await self.it.bets.confirm(bet)
            case "cancel":
                await self.it.bets.cancel(bet)
            case _:
                await self.it.bets.settle(bet, won=name == "win")


def content(path: Path) -> dict[str, Any]:
    """Return the rows of each table, and the schema, in no order."""
    with direct(path) as raw:
        rows = {
            table: sorted(raw.execute(f"SELECT {columns} FROM {table}").fetchall(), key=repr)
            for table, columns in CONTENT.items()
        }
        tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        schema = set(raw.execute("SELECT type, name, sql FROM sqlite_schema").fetchall())
    assert tables - {"schema_migrations"} <= CONTENT.keys(), "a table that nobody compares"
    return rows | {"schema": schema}


def staging_for(it: Platform, week: Any, successor: Any) -> Staging:
    return Staging(Step(it.manager._family, week, successor, Migrator().migrations, to_microseconds(successor.start)))


async def copied_among(work: list[list[tuple[str, int, int]]]) -> None:
    """Do the first of `work` before the copy, and the others after it, each followed by catching up."""
    with tempfile.TemporaryDirectory() as folder:
        async with platform(Path(folder)) as it:
            worker = Worker(it)
            await worker.do([("create", 0, 0), ("place", 0, 0)])
            await it.next_week()  # so that a bet was carried over already
            await worker.do(work[0])
            staging, still = (staging_for(it, W[1], W[2]) for _ in range(2))
            with contextlib.closing(staging.open()) as raw:
                staging.copy(raw)
                for number, some in enumerate(work[1:], 2):
                    await worker.do(some)
                    if number < len(work):
                        staging.catch_up(raw)
                carried = staging.complete(raw)
            with contextlib.closing(still.open()) as raw:
                still.copy(raw)
                assert still.complete(raw) == carried
            assert content(staging.path) == content(still.path)
            staging.path.unlink(), still.path.unlink()
            it.clock.now = W[2].start
            await it.manager.rotate_to_new_week()
            report = await it.ledger.audit()
            assert report.ok, report.violations


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(some_work, min_size=2, max_size=4))
@example([
    [("create", 0, 0), ("place", 0, 1), ("place", 1, 2), ("place", 1, 3), ("place", 0, 4)],
    [("confirm", 0, 1), ("lose", 0, 2), ("clock back", 9, 0), ("win", 0, 3), ("cancel", 0, 4), ("place", 0, 5)],
    [("clock back", 9, 9), ("lose", 0, 1), ("close a cell", 1, 1), ("create", 0, 0), ("transfer", 0, 2)],
])  # fmt: skip
def test_a_copy_that_was_caught_up_with_equals_one_made_when_nobody_wrote(work):
    asyncio.run(copied_among(work))


async def test_a_new_week_has_the_schema_of_a_first_one(tmp_path):
    async with platform(tmp_path) as it:
        await it.next_week()
        build_first(tmp_path / "first", W[1], Migrator().migrations, W[1].starts_at)
        assert content(it.file(W[1]))["schema"] == content(tmp_path / "first")["schema"]


async def paused_rotation(it: Platform, monkeypatch: pytest.MonkeyPatch, method: str) -> tuple[Gate, Any]:
    """Begin a rotation that stops where it enters `method`; return the gate that lets it go on, and its task."""
    gate, original = Gate(), getattr(Staging, method)

    def slowly(self: Staging, raw: Any) -> Any:
        gate.pass_through()
        return original(self, raw)

    monkeypatch.setattr(Staging, method, slowly)
    it.clock.advance(WEEK)
    rotating = asyncio.create_task(it.manager.rotate_to_new_week())
    await gate.reached()
    return gate, rotating


@pytest.mark.parametrize("method", ["copy", "catch_up"])
async def test_writers_go_on_while_the_new_week_is_copied(tmp_path, monkeypatch, method):
    async with platform(tmp_path) as it:
        user = await it.users.create("0xabc", 1000)
        lost, kept = [(await it.bets.place(user.id, "cell", 10, 2.0)).id for _ in range(2)]
        gate, rotating = await paused_rotation(it, monkeypatch, method)
        placed = (await it.bets.place(user.id, "cell", 10, 2.0)).id
        await it.bets.settle(lost, won=False)
        newcomer = await it.users.create("0xdef", 5)
        gate.open()
        report = await rotating
        assert (report.users, report.open_bets) == (2, 2)
        assert 0 < report.blocked_seconds < report.seconds
        assert it.manager.current_week == W[1]
        with direct(it.file(W[1])) as raw:
            assert {row[0] for row in raw.execute("SELECT id FROM bets")} == {kept, placed}
        assert (await it.users.get(newcomer.id)) == newcomer
        assert (await it.users.get(user.id)).balance == 970
        assert (await it.manager.query_bets(user.id, *ALWAYS, status="lost")).bets[0].id == lost
        assert (await it.ledger.audit()).ok


@pytest.mark.parametrize("method", ["copy", "catch_up"])
async def test_a_process_starts_while_another_copies_and_leaves_the_copy_alone(tmp_path, monkeypatch, method):
    async with platform(tmp_path) as it:
        user = await it.users.create("0xabc", 1000)
        gate, rotating = await paused_rotation(it, monkeypatch, method)
        left_over = it.manager._family.new_staging(W[2])
        left_over.touch()
        async with platform(tmp_path, busy_timeout=timedelta(seconds=20)) as other:
            bet = await other.bets.place(user.id, "cell", 10, 2.0)
            gate.open()
            assert (await rotating).performed
            assert not left_over.exists()
            other.clock.now = it.clock.now
            assert (await other.bets.settle(bet.id, won=True)).payout_amount == 20
            assert other.manager.current_week == it.manager.current_week == W[1]
        assert (await it.ledger.audit()).ok


async def test_a_process_waits_for_its_start_while_another_hands_over(tmp_path, monkeypatch):
    async with platform(tmp_path) as it:
        await it.users.create("0xabc", 1000)
        gate, rotating = await paused_rotation(it, monkeypatch, "complete")
        with pytest.raises(BusyTimeoutError, match="opening or rotating"):
            await manager_for(tmp_path, it.clock, busy_timeout=timedelta(milliseconds=20)).open()
        patient = manager_for(tmp_path, it.clock, busy_timeout=timedelta(seconds=20))
        opening = asyncio.create_task(patient.open())
        gate.open()
        assert (await rotating).performed
        await opening
        assert patient.current_week == W[1]
        await patient.close()


async def test_a_copy_that_takes_for_ever_can_be_cancelled_and_leaves_nothing(tmp_path, monkeypatch):
    endless = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    begun = asyncio.Event()
    loop, copy_all = asyncio.get_running_loop(), carry.copy_all

    def for_ever(raw: Any, now: int) -> int:
        mark = copy_all(raw, now)
        loop.call_soon_threadsafe(begun.set)
        raw.execute(endless).fetchall()
        return mark

    async with platform(tmp_path) as it:
        await it.users.create("0xabc", 1000)
        monkeypatch.setattr("betcore_async.partitions.staging.copy_all", for_ever)
        it.clock.advance(WEEK)
        rotating = asyncio.create_task(it.manager.rotate_to_new_week())
        await begun.wait()
        assert [path for path in tmp_path.iterdir() if "staging" in path.name]
        rotating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rotating
        assert not [path for path in tmp_path.iterdir() if "staging" in path.name]
        monkeypatch.undo()
        assert live_weeks(tmp_path) == [str(W[0])]
        assert (await it.manager.rotate_to_new_week()).performed


async def test_closing_while_the_new_week_is_copied_leaves_the_old_one_live(tmp_path, monkeypatch):
    async with platform(tmp_path) as it:
        await it.users.create("0xabc", 1000)
        gate, rotating = await paused_rotation(it, monkeypatch, "copy")
        await it.manager.close()
        gate.open()
        with pytest.raises(PoolClosedError):
            await rotating
        assert not [path for path in tmp_path.iterdir() if "staging" in path.name]
        monkeypatch.undo()
        assert live_weeks(tmp_path) == [str(W[0])]
