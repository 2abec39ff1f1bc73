"""What a start makes of the folder it finds: cleaned up, told by name, or refused, and never silently mixed."""

import asyncio
import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from sqlite_files import Holder, until
from weekly_files import (
    ALWAYS,
    HEAD,
    NEXT,
    W,
    build_successor,
    direct,
    live_weeks,
    manager_for,
    names_in,
    platform,
    states,
)

from betcore_async.clock import ManualClock
from betcore_async.errors import (
    BusyTimeoutError,
    DatabaseError,
    MigrationError,
    PartitionDamagedError,
    PartitionError,
    PartitionMissingError,
    PoolClosedError,
    RotationError,
)
from betcore_async.partitions import PartitionState, catalog
from betcore_async.partitions.files import Family
from betcore_async.partitions.staging import build_first
from betcore_async.sqlite.migrations import Migrator


@pytest.fixture
async def weeks(tmp_path):
    """A folder with the weeks W[0] and W[1] sealed, W[2] live, a user and an open bet."""
    folder = tmp_path / "data"
    async with platform(folder) as it:
        user = await it.users.create("0xabc", 1000)
        await it.bets.place(user.id, "open", 100, 2.0)
        await it.next_week(), await it.next_week()
    return folder


def build_file(folder: Path, week, predecessor=None) -> Path:
    """Make the file that a rotation leaves behind when it is cut before its commit."""
    if predecessor:
        return build_successor(folder, week, predecessor)
    path = folder / f"bets-{week}.db"
    build_first(path, week, Migrator().migrations, week.starts_at)
    return path


async def listed(it) -> dict:
    return {info.week: info for info in await it.manager.partitions()}


# Left-overs


async def test_the_first_start_makes_a_private_file_for_the_current_week(tmp_path):
    folder = tmp_path / "deep" / "data"
    async with platform(folder) as it:
        assert it.manager.current_week == W[0]
        assert stat.S_IMODE(it.file(W[0]).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert names_in(folder) == {f"bets-{W[0]}.db"}


async def test_a_later_start_goes_on_with_the_live_week_whatever_the_clock_says(weeks):
    for week in (W[1], W[2], W[30]):
        async with platform(weeks, week) as it:
            assert it.manager.current_week == W[2]


async def test_a_start_removes_what_a_cut_rotation_left(weeks):
    before = names_in(weeks)
    build_file(weeks, W[3], W[2])
    shutil.copy(weeks / f"bets-{W[2]}.db", Family(weeks / "bets.db").new_staging(W[3]))
    async with platform(weeks, W[2]) as it:
        assert it.manager.current_week == W[2]
        assert names_in(weeks) == before


async def test_a_rotation_takes_the_place_of_one_that_was_cut(weeks):
    async with platform(weeks, W[2]) as it:
        orphan = build_file(weeks, W[3], W[2])
        orphan.with_name(orphan.name + "-wal").write_bytes(b"a log of another file")
        other, staging = build_file(weeks, W[5], W[2]), Family(weeks / "bets.db").new_staging(W[3])
        staging.touch()
        await it.users.create("0xdef", 5)
        await it.next_week()
        assert (await it.users.by_wallet("0xdef")).balance == 5
        assert not other.exists()
        assert not staging.exists()
        assert (await it.ledger.audit()).ok


async def test_a_live_week_is_not_taken_for_an_orphan_when_the_week_before_is_damaged(weeks):
    (weeks / f"bets-{W[1]}.db").chmod(0o600)
    (weeks / f"bets-{W[1]}.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(PartitionDamagedError, match=r"W\d\d\.db cannot be used \(.*\), so nobody can say whether"):
        await manager_for(weeks, ManualClock(W[2].start)).open()
    with direct(weeks / f"bets-{W[2]}.db") as raw:  # something came in since: it was live
        raw.execute("INSERT INTO users VALUES ('u', 'w', 0, 1, 0, 0)")
        raw.execute(
            "INSERT INTO ledger_entries SELECT NULL, 'e', 'u', 1, 0, 0, 'opening', 'u', NULL, starts_at "
            "FROM partition_meta"
        )
    async with platform(weeks, W[2]) as it:
        assert it.manager.current_week == W[2]
        found = await listed(it)
        assert found[W[1]].state is PartitionState.DAMAGED
        assert "not a database" in found[W[1]].problem
        with pytest.raises(PartitionMissingError, match="not a database"):
            await it.manager.count_bets(*ALWAYS)


async def test_a_live_week_is_kept_when_an_older_copy_takes_the_place_of_the_week_before(weeks, tmp_path):
    path, copy, aside = weeks / f"bets-{W[2]}.db", tmp_path / "copy", tmp_path / "aside"
    shutil.copy(path, copy)
    async with platform(weeks, W[2]) as it:
        await it.next_week()
        user = await it.users.create("0xdef", 5)
    path.rename(aside)
    shutil.copy(copy, path)
    with pytest.raises(PartitionDamagedError, match=f"does not name it: bring back the {W[2]}"):
        await manager_for(weeks, ManualClock(W[3].start)).open()
    aside.rename(path)
    async with platform(weeks, W[3]) as it:
        assert await it.users.get(user.id) == user


async def test_a_look_that_overlaps_a_rotation_sees_the_week_that_took_over(weeks, monkeypatch):
    path, inspect = weeks / f"bets-{W[2]}.db", catalog.inspect
    stale = [inspect(path, W[2], HEAD)]  # as it was read just before it was sealed
    async with platform(weeks, W[2]) as it:
        await it.next_week()
        await it.users.create("0xdef", 5)
        await until(lambda: not it.manager._reading.retiring)  # a look would be kept waiting by it
        monkeypatch.setattr(
            catalog,
            "inspect",
            lambda path, week, head: stale.pop() if week == W[2] and stale else inspect(path, week, head),
        )
        discovery = catalog.discover(Family(weeks / "bets.db"), HEAD)
    assert (discovery.live, discovery.orphans, stale) == (W[3], [], [])


def cut_while_writing(path: Path) -> None:
    """Leave behind what a process does that is killed while it takes a sealed week out of WAL mode: a hot journal."""
    path.chmod(0o600)
    program = (
        "import os, sqlite3, sys\n"
        "raw = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "raw.execute('PRAGMA cache_size = 1')\n"
        "raw.execute('BEGIN IMMEDIATE')\n"
        "raw.execute('CREATE TABLE t (x)')\n"
        "for _ in range(9):\n"
        "    raw.execute('INSERT INTO t VALUES (randomblob(9000))')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, path], check=False)
    assert path.with_name(path.name + "-journal").stat().st_size > 0


async def test_a_hot_journal_is_rolled_back_at_the_start(weeks):
    cut_while_writing(weeks / f"bets-{W[0]}.db")
    async with platform(weeks, W[2]) as it:
        assert (await listed(it))[W[0]].state is PartitionState.SEALED
        assert await it.manager.count_bets(*ALWAYS) == 1
        assert not (weeks / f"bets-{W[0]}.db-journal").exists()


async def test_a_hot_journal_that_another_process_leaves_is_rolled_back_by_a_query(weeks):
    async with platform(weeks, W[2]) as it:
        cut_while_writing(weeks / f"bets-{W[0]}.db")
        assert await it.manager.count_bets(*ALWAYS) == 1
        assert not (weeks / f"bets-{W[0]}.db-journal").exists()


async def test_sealed_weeks_are_plain_read_only_files_after_the_next_start(weeks):
    async with platform(weeks, W[2]):
        for week in (W[0], W[1]):
            path = weeks / f"bets-{week}.db"
            assert stat.S_IMODE(path.stat().st_mode) == 0o400
            with direct(path) as raw:
                assert raw.execute("PRAGMA journal_mode").fetchone() == ("delete",)
            assert not list(weeks.glob(f"{path.name}-*"))


# What belongs to something else


def foreign_database(path: Path) -> None:
    with direct(path) as raw:
        raw.execute("CREATE TABLE theirs (x)")


def newer_schema(path: Path) -> None:
    with direct(path) as raw:
        raw.execute(f"PRAGMA application_id = {0x42657443}")
        raw.execute("PRAGMA user_version = 99")


def strange_meta(path: Path) -> None:
    with direct(path) as raw:
        raw.execute(f"PRAGMA application_id = {0x42657443}")
        raw.execute(f"PRAGMA user_version = {HEAD}")
        for table in ("users", "bets", "ledger_entries"):
            raw.execute(f"CREATE TABLE {table} (id)")
        raw.execute("CREATE TABLE partition_meta (id, week, state, predecessor, successor)")
        raw.execute("INSERT INTO partition_meta VALUES (1, 27, 'asleep', x'00', 3.5)")


def endless_view(path: Path) -> None:
    with direct(path) as raw:
        raw.execute(f"PRAGMA application_id = {0x42657443}")
        raw.execute(f"PRAGMA user_version = {HEAD}")
        for table in ("users", "bets", "ledger_entries"):
            raw.execute(f"CREATE TABLE {table} (id)")
        raw.execute(
            "CREATE VIEW partition_meta AS WITH RECURSIVE n(id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM n) "
            "SELECT id, 'x' AS week, 'live' AS state, NULL AS predecessor, NULL AS successor FROM n"
        )


def other_week(path: Path) -> None:
    shutil.copy(path.parent / f"bets-{W[0]}.db", path)


FOREIGN = {
    "text": lambda path: path.write_text("not a database, but long enough to be read as one" * 100),
    "empty": lambda path: path.touch(),
    "folder": lambda path: path.mkdir(),
    "link": lambda path: path.symlink_to(path.parent / f"bets-{W[0]}.db"),
    "dangling link": lambda path: path.symlink_to(path.parent / "nowhere"),
    "pipe": os.mkfifo,
    "database": foreign_database,
    "newer schema": newer_schema,
    "strange meta": strange_meta,
    "endless view": endless_view,
    "other week": other_week,
}
SINGLE = sorted(FOREIGN.keys() - {"other week", "link"})


def fingerprint(path: Path) -> object:
    if path.is_symlink():
        return path.readlink()
    return path.read_bytes() if path.is_file() else stat.S_IFMT(path.stat().st_mode)


@pytest.mark.parametrize("kind", FOREIGN)
async def test_what_is_not_ours_is_told_by_name_and_left_alone(kind, weeks):
    path = weeks / f"bets-{W[6]}.db"
    FOREIGN[kind](path)
    before = fingerprint(path)
    async with platform(weeks, W[2]) as it:
        found = (await listed(it))[W[6]]
        assert found.state is PartitionState.DAMAGED
        assert str(path) in found.problem or "not a database" in found.problem
        assert await it.manager.count_bets(*ALWAYS) == 1  # it is not a week of ours: nothing is missing
        it.clock.now = W[6].start
        with pytest.raises(RotationError, match="move it away") as caught:
            await it.manager.rotate_to_new_week()
        assert caught.value.path == path
        assert it.manager.current_week == W[2]
        await it.users.create("0xdef", 1)
        assert fingerprint(path) == before
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        assert (await it.manager.rotate_to_new_week()).performed


@pytest.mark.parametrize("kind", SINGLE)
async def test_a_folder_that_holds_only_what_is_not_ours_is_refused(kind, tmp_path):
    path = tmp_path / f"bets-{W[0]}.db"
    FOREIGN[kind](path)
    before = fingerprint(path)
    with pytest.raises(PartitionDamagedError, match="no weekly file can take writes") as caught:
        await manager_for(tmp_path, ManualClock(W[0].start)).open()
    assert caught.value.path == path
    assert fingerprint(path) == before
    assert names_in(tmp_path) == {path.name}


async def test_two_live_weeks_are_refused(tmp_path):
    build_file(tmp_path, W[0])
    build_file(tmp_path, W[3])
    with pytest.raises(PartitionDamagedError, match="two files claim to be the live week"):
        await manager_for(tmp_path, ManualClock(W[3].start)).open()


async def test_a_live_week_that_went_away_is_not_begun_anew(weeks):
    (weeks / f"bets-{W[2]}.db").unlink()
    with pytest.raises(PartitionDamagedError, match=f"in favour of {W[2]}, whose file is not there"):
        await manager_for(weeks, ManualClock(W[2].start)).open()
    assert states(weeks) == {str(W[0]): "sealed", str(W[1]): "sealed"}


async def test_old_weeks_that_were_moved_away_are_missed_but_not_needed(weeks):
    (weeks / f"bets-{W[0]}.db").unlink()
    (weeks / f"bets-{W[1]}.db").unlink()
    async with platform(weeks, W[2]) as it:
        assert it.manager.current_week == W[2]
        with pytest.raises(PartitionMissingError) as caught:
            await it.manager.count_bets(*ALWAYS)
        assert caught.value.weeks == (W[1],)


async def test_families_in_one_folder_do_not_mix(tmp_path):
    clock = ManualClock(W[0].start)
    names = ("bets.db", "bets-other.db", "bets-2026-W20.db")
    async with contextlib.AsyncExitStack() as stack:
        managers = [await stack.enter_async_context(manager_for(tmp_path, clock, name=name)) for name in names]
        clock.now = W[1].start
        assert (await managers[0].rotate_to_new_week()).performed
        assert [manager.current_week for manager in managers] == [W[1], W[0], W[0]]
        assert [len(await manager.partitions()) for manager in managers] == [2, 1, 1]


@pytest.mark.parametrize(
    "name", ["a b?c#d%41&x=y.db", 'o\'clock "x".sqlite3', "bets", "ä→.db", "[a]*+(b).db", ";--.db"]
)
async def test_odd_names_work_all_the_way(name, tmp_path):
    folder = tmp_path / "odd?mode=ro#%20 '\"" / "x"
    clock = ManualClock(W[0].start)
    manager = manager_for(folder, clock, name=name)
    async with manager:
        for week in W[1:3]:
            clock.now = week.start
            await manager.rotate_to_new_week()
        assert [info.week for info in await manager.partitions()] == W[:3]
        assert await manager.count_bets(*ALWAYS) == 0
        info = (await manager.partitions())[0]
        await manager.detach_partition(W[0])
        await manager.attach_partition(W[0], info.path)
    async with manager:
        assert manager.current_week == W[2]


async def test_a_folder_with_two_slashes_before_it_is_that_folder(tmp_path):
    folder = Path(f"/{tmp_path}")
    assert str(folder).startswith("//")
    await test_odd_names_work_all_the_way("bets.db", folder)


async def test_a_folder_whose_name_is_not_in_utf_8_is_refused_in_one_sentence(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    with pytest.raises(DatabaseError, match="not a name in UTF-8"):
        await manager_for(folder, ManualClock(W[0].start)).open()
    assert not list(folder.glob("*.db"))


async def test_a_relative_path_stays_where_it_was_when_the_process_changes_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with platform(Path("data")) as it:
        user = await it.users.create("0xabc", 1000)
        (tmp_path / "other" / "data").mkdir(parents=True)
        monkeypatch.chdir("other")
        await it.next_week()
        await it.bets.place(user.id, "cell", 100, 2.0)
        assert await it.manager.count_bets(*ALWAYS) == 1
    assert not list((tmp_path / "other" / "data").iterdir())
    assert (tmp_path / "data" / f"bets-{W[1]}.db").exists()


# Folders and rivals


async def test_a_folder_that_cannot_be_written_is_refused_in_one_sentence(weeks, request):
    # As a user without rights, since root writes anywhere; in a place that he can reach.
    place = Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: shutil.rmtree(place))
    place.chmod(0o755)
    weeks = shutil.copytree(weeks, place / "data")
    program = (
        "import asyncio, os, pathlib, sys\n"
        "from betcore_async.config import DatabaseSettings\n"
        "from betcore_async.errors import DatabaseError\n"
        "from betcore_async.partitions import PartitionManager\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "if os.getuid() == 0:\n"
        "    os.setuid(65534)\n"
        "else:\n"
        "    path.parent.chmod(0o500)\n"
        "try:\n"
        "    asyncio.run(PartitionManager(DatabaseSettings(path=path)).open())\n"
        "except DatabaseError as error:\n"
        "    sys.exit(str(error))\n"
    )
    (weeks / "bets.db.lock").unlink()
    weeks.chmod(0o755)
    command = [sys.executable, "-c", program, weeks / "bets.db"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    weeks.chmod(0o700)
    assert done.stderr == f"cannot use the lock file {weeks / 'bets.db.lock'}: Permission denied\n"


async def test_a_data_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(DatabaseError, match="cannot make the folder"):
        await manager_for(tmp_path / "data", ManualClock(W[0].start)).open()


async def test_a_start_waits_for_a_lock_on_a_file_and_gives_up_in_the_end(weeks):
    path = weeks / f"bets-{W[1]}.db"
    path.chmod(0o600)
    statements = ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE")
    holder = Holder(path, *statements)
    impatient = manager_for(weeks, ManualClock(W[2].start), busy_timeout=timedelta(milliseconds=50))
    with pytest.raises(BusyTimeoutError):
        await impatient.open()
    patient = manager_for(weeks, ManualClock(W[2].start), busy_timeout=timedelta(seconds=20))
    opening = asyncio.create_task(patient.open())
    await asyncio.sleep(0)
    holder.let_go()
    await opening
    await patient.close()


async def test_a_start_gives_up_while_another_process_holds_the_family(weeks):
    async with Family(weeks / "bets.db").alone(timedelta()):
        manager = manager_for(weeks, ManualClock(W[2].start), busy_timeout=timedelta(milliseconds=20))
        with pytest.raises(BusyTimeoutError) as caught:
            await manager.open()
        assert caught.value.waited >= 0.02
    async with manager:
        assert manager.current_week == W[2]


async def test_many_starts_at_once_make_one_first_week(tmp_path):
    clock = ManualClock(W[0].start)
    managers = [manager_for(tmp_path, clock) for _ in range(8)]
    await asyncio.gather(*(manager.open() for manager in managers))
    assert live_weeks(tmp_path) == [str(W[0])]
    await asyncio.gather(*(manager.close() for manager in managers))


async def test_a_manager_is_opened_once_and_closed_as_often_as_you_like(weeks):
    manager = manager_for(weeks, ManualClock(W[2].start))
    results = await asyncio.gather(manager.open(), manager.open(), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), PartitionError]
    await asyncio.gather(manager.close(), manager.close())
    await manager.close()
    for call in (manager.partitions, manager.rotate_to_new_week, manager.health):
        with pytest.raises(PoolClosedError):
            await call()
    with pytest.raises(PoolClosedError):
        await manager.write(lambda *_: None)
    async with manager:
        assert manager.current_week == W[2]


async def test_a_manager_opened_again_forgets_what_was_attached_and_detached(weeks):
    manager = manager_for(weeks, clock := ManualClock(W[2].start))
    async with manager:
        await manager.detach_partition(W[0])
        moved = (weeks / f"bets-{W[1]}.db").rename(weeks.parent / "moved")
        await manager.detach_partition(W[1])
        await manager.attach_partition(W[1], moved)
    async with manager:
        clock.now = W[3].start
        await manager.rotate_to_new_week()
        assert [info.week for info in await manager.partitions()] == [W[0], W[2], W[3]]


# Migrations


@pytest.fixture
def newer(tmp_path) -> Migrator:
    """Migrations with one more than are shipped."""
    shutil.copytree(Migrator().source, tmp_path / "migrations")
    (tmp_path / "migrations" / f"{NEXT:04}_more.up.sql").write_text("ALTER TABLE users ADD COLUMN nickname TEXT;\n")
    return Migrator(tmp_path / "migrations")


async def test_older_files_are_migrated_at_the_start_and_new_weeks_born_at_head(weeks, newer):
    async with platform(weeks, W[2], migrator=newer) as it:
        assert {info.schema_version for info in (await listed(it)).values()} == {NEXT}
        await it.next_week()
        assert {info.schema_version for info in (await listed(it)).values()} == {NEXT}
        for week in W[:4]:
            with direct(it.file(week)) as raw:
                assert raw.execute("SELECT count(nickname) FROM users").fetchone() == (0,)
        assert stat.S_IMODE(it.file(W[0]).stat().st_mode) == 0o400
        assert await it.manager.count_bets(*ALWAYS) == 1
        assert (await it.ledger.audit()).ok


async def test_migrating_at_the_start_can_be_refused(weeks, newer):
    with pytest.raises(MigrationError, match="betcore migrate up"):
        await manager_for(weeks, ManualClock(W[2].start), newer, migrate=False).open()


async def test_files_of_a_newer_schema_are_refused_by_older_code(weeks, newer):
    async with platform(weeks, W[2], migrator=newer):
        pass
    with pytest.raises(PartitionDamagedError, match=f"schema version {NEXT}, this code knows {HEAD}"):
        await manager_for(weeks, ManualClock(W[2].start)).open()


async def test_many_starts_at_once_migrate_without_treading_on_each_other(weeks, newer):
    clock = ManualClock(W[2].start)
    managers = [manager_for(weeks, clock, newer, busy_timeout=timedelta(seconds=20)) for _ in range(5)]
    await asyncio.gather(*(manager.open() for manager in managers))
    for manager in managers:
        assert {info.schema_version for info in await manager.partitions()} == {NEXT}
    await asyncio.gather(*(manager.close() for manager in managers))
