"""One change of the schema over all weekly files: in which order, what is told and left alone, what is read then."""

import asyncio
import hashlib
import shutil
import sqlite3
import stat
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from weekly_files import ALWAYS, W, build_successor, direct, manager_for, names_in, platform

from betcore_async.clock import ManualClock
from betcore_async.config import DatabaseSettings
from betcore_async.errors import (
    BusyTimeoutError,
    MigrationError,
    MigrationStatementError,
    NotBetcoreDatabaseError,
    PartitionDamagedError,
    PartitionMissingError,
)
from betcore_async.partitions import PartitionState
from betcore_async.partitions.files import Family
from betcore_async.partitions.meta import SEAL
from betcore_async.partitions.migrating import migrate_all, move_all
from betcore_async.partitions.staging import Staging
from betcore_async.sqlite.migrations import Migrator

# Columns in another order, one of them in the middle that older code does not know: read by position, all is mixed up.
REBUILD = """-- betcore: foreign-keys-off
CREATE TABLE new_bets (
    payout_amount INTEGER, placed_at INTEGER NOT NULL, note TEXT DEFAULT 'x', id TEXT PRIMARY KEY,
    resolved_at INTEGER, status TEXT NOT NULL, reward_ppm INTEGER NOT NULL, amount INTEGER NOT NULL,
    cell_id TEXT NOT NULL, confirmed_at INTEGER, user_id TEXT NOT NULL REFERENCES users (id)
) STRICT;
INSERT INTO new_bets (id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at, payout_amount)
    SELECT id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at, payout_amount FROM bets;
DROP TABLE bets;
ALTER TABLE new_bets RENAME TO bets;
CREATE INDEX bets_by_user ON bets (user_id, placed_at, id);
"""
NICKNAME = "ALTER TABLE users ADD COLUMN nickname TEXT;"
HEAD = Migrator().migrations[-1].version
NEXT = HEAD + 1
ONE_BET_A_CELL = "CREATE UNIQUE INDEX one_bet_a_cell ON bets (cell_id);"


@pytest.fixture
async def weeks(tmp_path):
    """A folder with W[0] and W[1] sealed and W[2] live; W[0] has two bets on one cell, each week has one of its own."""
    folder = tmp_path / "data"
    async with platform(folder) as it:
        user = await it.users.create("0xabc", 1000)
        for cell in ("twice", "twice"):
            bet = await it.bets.place(user.id, cell, 10, 2.0)
            await it.bets.settle(bet.id, True)
        await it.next_week()
        await it.bets.settle((await it.bets.place(user.id, "second", 20, 2.0)).id, False)
        await it.next_week()
        await it.bets.place(user.id, "third", 30, 2.0)
    return folder


@pytest.fixture
def with_another(tmp_path):
    """Return a function that makes a Migrator of the shipped migrations and one more."""

    def make(up: str, down: str = "SELECT 1;") -> Migrator:
        folder = tmp_path / "migrations"
        shutil.copytree(Migrator().source, folder)
        (folder / f"{NEXT:04}_another.up.sql").write_text(up)
        (folder / f"{NEXT:04}_another.down.sql").write_text(down)
        return Migrator(folder)

    return make


def path_of(folder: Path, week) -> Path:
    return folder / f"bets-{week}.db"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content(path: Path) -> list[str]:
    with direct(path) as raw:
        return list(raw.iterdump())


def version_of(path: Path) -> int:
    with direct(path) as raw:
        return raw.execute("PRAGMA user_version").fetchone()[0]


async def test_the_live_file_goes_first_and_every_file_is_told(weeks, with_another):
    told = []
    results = await migrate_all(Family(weeks / "bets.db"), with_another(NICKNAME), on_result=told.append)
    assert results == told
    live, sealed = PartitionState.LIVE, PartitionState.SEALED
    assert [(result.week, result.state) for result in results] == [(W[2], live), (W[1], sealed), (W[0], sealed)]
    assert [(result.version, [step.version for step in result.steps]) for result in results] == [(NEXT, [NEXT])] * 3
    assert [result.error for result in results] == [None] * 3
    assert {version_of(path_of(weeks, week)) for week in W[:3]} == {NEXT}
    assert stat.S_IMODE(path_of(weeks, W[0]).stat().st_mode) == 0o400
    assert names_in(weeks) == {f"bets-{week}.db" for week in W[:3]}
    again = await migrate_all(Family(weeks / "bets.db"), Migrator(weeks.parent / "migrations"))
    assert [(result.version, result.steps, result.error) for result in again] == [(NEXT, (), None)] * 3


async def test_nothing_is_made_where_there_are_no_files(tmp_path):
    assert await migrate_all(Family(tmp_path / "bets.db"), Migrator()) == []
    assert await migrate_all(Family(tmp_path / "no" / "folder" / "bets.db"), Migrator()) == []
    assert list(tmp_path.iterdir()) == []


async def test_a_failing_week_keeps_no_other_from_its_turn(weeks, with_another):
    before = content(path_of(weeks, W[0]))
    results = await migrate_all(Family(weeks / "bets.db"), with_another(ONE_BET_A_CELL))
    assert [(result.week, result.version) for result in results] == [(W[2], NEXT), (W[1], NEXT), (W[0], HEAD)]
    assert [type(result.error) for result in results] == [type(None), type(None), MigrationStatementError]
    assert "UNIQUE constraint failed" in results[2].error.message
    assert content(path_of(weeks, W[0])) == before
    assert names_in(weeks) == {f"bets-{week}.db" for week in W[:3]}


async def test_when_the_live_file_fails_nothing_else_is_touched(weeks, with_another):
    sealed = [path_of(weeks, week) for week in W[:2]]
    before = [digest(path) for path in sealed]
    migrator = with_another(f"{NICKNAME} SELECT no_such_function() FROM bets WHERE cell_id = 'third';")
    results = await migrate_all(Family(weeks / "bets.db"), migrator)
    assert isinstance(results[0].error, MigrationStatementError)
    assert [result.version for result in results] == [HEAD] * 3
    for result in results[1:]:
        assert isinstance(result.error, MigrationError)
        assert f"not touched, because {path_of(weeks, W[2])} failed" in result.error.message
    assert [digest(path) for path in sealed] == before
    assert version_of(path_of(weeks, W[2])) == HEAD


async def test_steps_taken_before_the_one_that_failed_show_in_the_version(weeks, with_another):
    migrator = with_another(NICKNAME)
    (migrator.source / f"{NEXT + 1:04}_bad.up.sql").write_text("SELECT no_such_function();")
    (live, *_) = await migrate_all(Family(weeks / "bets.db"), migrator)
    assert (live.version, type(live.error)) == (NEXT, MigrationStatementError)


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is a letter, not a database\n" * 200)


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE letters (x)")


def _link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere.db"
    _foreign(elsewhere)
    path.symlink_to(elsewhere)


def _another_week(path: Path) -> None:
    shutil.copy(path.parent / f"bets-{W[0]}.db", path)


@pytest.mark.parametrize("make", [_garbage, _foreign, _link, _another_week, Path.touch], ids=lambda make: make.__name__)
async def test_what_is_no_file_of_that_week_is_told_and_not_touched(weeks, with_another, make):
    strange = path_of(weeks, W[9])
    make(strange)
    before = digest(strange)
    results = await migrate_all(Family(weeks / "bets.db"), with_another(NICKNAME))
    found = {result.week: result for result in results}
    assert isinstance(found[W[9]].error, PartitionDamagedError)
    assert found[W[9]].version is None
    assert str(strange) in found[W[9]].error.message
    assert [found[week].version for week in W[:3]] == [NEXT] * 3
    assert digest(strange) == before


async def test_a_sealed_file_that_was_not_made_read_only_yet_is_so_afterwards(weeks, with_another):
    path = path_of(weeks, W[1])
    path.chmod(0o600)
    with direct(path) as raw:
        assert raw.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    inode = path.stat().st_ino
    results = await migrate_all(Family(weeks / "bets.db"), with_another(NICKNAME))
    assert [result.version for result in results] == [NEXT] * 3
    assert path.stat().st_ino != inode  # a copy took its place
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    with direct(path) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("delete",)


async def test_a_sealed_file_that_is_still_open_elsewhere_is_changed_in_place(weeks, with_another):
    path = path_of(weeks, W[1])
    path.chmod(0o600)
    with direct(path) as reader:
        assert reader.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        reader.execute("BEGIN")
        (seen,) = reader.execute("SELECT count(*) FROM bets").fetchone()
        inode = path.stat().st_ino
        results = await migrate_all(Family(weeks / "bets.db"), with_another(NICKNAME))
        assert [(result.version, result.error) for result in results] == [(NEXT, None)] * 3
        assert path.stat().st_ino == inode
        assert reader.execute("SELECT count(*) FROM bets").fetchone() == (seen,)
    async with platform(
        weeks, W[2], migrator=Migrator(weeks.parent / "migrations")
    ) as it:  # the next start ends what was begun
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
        assert await it.manager.count_bets(*ALWAYS) == 4


async def test_files_brought_below_the_first_version_hold_nothing_and_are_removed(weeks):
    family, migrator = Family(weeks / "bets.db"), Migrator()
    results = await move_all(family, migrator, lambda path: migrator.down(path, 9))
    assert [result.version for result in results] == [0, 0, 0]
    assert names_in(weeks) == set()
    async with platform(weeks, W[3]) as it:
        assert await it.manager.count_bets(*ALWAYS) == 0


async def test_a_cancelled_fan_out_leaves_whole_files_and_can_be_repeated(weeks, with_another):
    migrator, family = with_another(REBUILD), Family(weeks / "bets.db")
    first_told = asyncio.Event()
    work = asyncio.ensure_future(migrate_all(family, migrator, on_result=lambda _: first_told.set()))
    await first_told.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert version_of(path_of(weeks, W[2])) == NEXT
    assert names_in(weeks) == {f"bets-{week}.db" for week in W[:3]}
    assert [result.version for result in await migrate_all(family, migrator)] == [NEXT] * 3


async def test_two_at_once_wait_for_each_other(weeks, with_another):
    migrator, family = with_another(REBUILD), Family(weeks / "bets.db")
    both = await asyncio.gather(migrate_all(family, migrator), migrate_all(family, migrator))
    assert [[result.version for result in results] for results in both] == [[NEXT] * 3] * 2
    # Each step was taken once, by one of the two.
    assert [sum(len(result.steps) for result in results) for results in both] in ([3, 0], [0, 3])


async def test_a_family_that_another_holds_for_long_is_told(weeks, tmp_path):
    family = Family(weeks / "bets.db")
    hasty = Migrator(settings=DatabaseSettings(busy_timeout=timedelta(milliseconds=20)))
    async with family.alone(hasty.settings.busy_timeout):
        with pytest.raises(BusyTimeoutError):
            await migrate_all(family, hasty)


# What a service reads then


async def test_columns_are_never_mixed_up_by_their_position(weeks, with_another):
    async with platform(weeks, W[2]) as it:
        (user_id,) = {
            row["user_id"] for row in await it.manager.query("SELECT * FROM bets", start=ALWAYS[0], end=ALWAYS[1])
        }
        before = await it.manager.query_bets(user_id, *ALWAYS)
        totals = await it.manager.sum_bets(*ALWAYS)
    async with platform(weeks, W[2], migrator=with_another(REBUILD)) as it:
        assert (await it.manager.query_bets(user_id, *ALWAYS)).bets == before.bets
        assert await it.manager.sum_bets(*ALWAYS) == totals
        rows = await it.manager.query("SELECT * FROM bets ORDER BY placed_at, id", start=ALWAYS[0], end=ALWAYS[1])
        assert [(row["id"], row["amount"], row["payout_amount"]) for row in rows] == [
            (bet.id, bet.amount, bet.payout_amount)
            for bet in sorted(before.bets, key=lambda bet: (bet.placed_at, bet.id))
        ]
        assert await it.bets.get(before.bets[0].id) == before.bets[0]
        placed = await it.bets.place(user_id, "rebuilt", 5, 3.0)
        assert (await it.bets.settle(placed.id, True)).payout_amount == 15
        await it.next_week()  # copies users and open bets from a file of the new shape
        assert (await it.bets.get(before.bets[0].id)).amount == before.bets[0].amount
        assert (await it.ledger.audit()).ok


async def test_a_sealed_week_that_cannot_be_migrated_keeps_nothing_but_itself_from_being_read(weeks, with_another):
    migrator = with_another(ONE_BET_A_CELL)
    async with platform(weeks, W[2], migrator=migrator) as it:
        (problem,) = [info.problem for info in await it.manager.partitions() if info.problem]
        assert f"schema version {HEAD}, this code needs {NEXT}" in problem
        assert await it.manager.count_bets(W[1].start, W[2].end) == 2
        with pytest.raises(PartitionMissingError, match="betcore migrate up") as caught:
            await it.manager.count_bets(*ALWAYS)
        assert caught.value.weeks == (W[0],)
        assert await it.manager.count_bets(*ALWAYS, allow_partial=True) == 2


async def test_without_migrating_at_the_start_an_older_sealed_week_is_an_error_that_names_it(weeks, with_another):
    migrator = with_another(REBUILD)
    await migrator.up(path_of(weeks, W[2]))
    await migrator.up(path_of(weeks, W[1]))
    async with manager_for(weeks, ManualClock(W[2].start), migrator, migrate=False) as manager:
        assert await manager.count_bets(W[1].start, W[2].end) == 2
        with pytest.raises(PartitionMissingError, match=f"{path_of(weeks, W[0])} has schema version {HEAD}"):
            await manager.count_bets(*ALWAYS)
    assert version_of(path_of(weeks, W[0])) == HEAD


async def test_a_sealed_week_of_a_newer_schema_is_an_error_that_names_it(weeks, with_another):
    await with_another(REBUILD).up(path_of(weeks, W[0]))
    async with platform(weeks, W[2]) as it:
        assert await it.manager.count_bets(W[1].start, W[2].end) == 2
        with pytest.raises(PartitionMissingError, match=f"schema version {NEXT}, this code knows {HEAD}"):
            await it.manager.count_bets(*ALWAYS)


async def test_a_week_that_comes_back_after_an_upgrade_is_migrated(weeks, with_another):
    async with platform(weeks, W[2]) as it:
        await it.manager.detach_partition(W[0])
        away = path_of(weeks, W[0]).rename(weeks.parent / "away.db")
    async with platform(weeks, W[2], migrator=with_another(REBUILD)) as it:
        assert await it.manager.count_bets(*ALWAYS, allow_partial=True) == 2
        assert (await it.manager.attach_partition(W[0], away)).schema_version == NEXT
        assert await it.manager.count_bets(*ALWAYS) == 4
    assert version_of(away) == NEXT


async def test_a_week_that_cannot_be_migrated_does_not_come_back(weeks, with_another):
    async with platform(weeks, W[2]) as it:
        await it.manager.detach_partition(W[0])
        away = path_of(weeks, W[0]).rename(weeks.parent / "away.db")
    async with platform(weeks, W[2], migrator=with_another(ONE_BET_A_CELL)) as it:
        with pytest.raises(MigrationStatementError):
            await it.manager.attach_partition(W[0], away)
        assert await it.manager.count_bets(*ALWAYS, allow_partial=True) == 2
    assert version_of(away) == HEAD


async def test_a_live_week_that_an_older_release_made_is_migrated_when_it_is_followed(weeks, with_another, monkeypatch):
    monkeypatch.setattr(Staging, "_insist_same_schema", lambda *_: None)  # one that went ahead all the same
    async with platform(weeks, W[2], migrator=with_another(NICKNAME)) as it:
        it.clock.now = W[3].start
        await asyncio.to_thread(rotate, weeks)
        user = await it.users.create("0xdef", 5)
        assert it.manager.current_week == W[3]
        assert version_of(path_of(weeks, W[3])) == NEXT
        assert await it.users.get(user.id) == user


def rotate(weeks: Path) -> None:
    """Make W[3] the live week, as a process does that knows the shipped migrations only."""
    with direct(path_of(weeks, W[2])) as raw:
        raw.execute("BEGIN IMMEDIATE")
        build_successor(weeks, W[3], W[2])
        raw.execute(SEAL, (W[3].name, W[3].starts_at))
        raw.execute("COMMIT")


async def test_a_foreign_file_is_its_own_error_where_the_migrator_meets_it(weeks, with_another):
    strange = path_of(weeks, W[9])
    _foreign(strange)
    with pytest.raises(NotBetcoreDatabaseError):
        await with_another(NICKNAME).up(strange)
