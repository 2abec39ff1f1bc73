"""Weeks go to the archive and come back: proven there before they leave, and never lost to whatever is wrong."""

import asyncio
import errno
import hashlib
import json
import os
import resource
import shutil
import threading
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from weekly_files import ALWAYS, WEEK, W, direct, manager_for, names_in, platform

from betcore_async.clock import ManualClock
from betcore_async.config import DatabaseSettings, PartitionSettings
from betcore_async.errors import (
    ArchiveDamagedError,
    ArchiveError,
    BusyTimeoutError,
    PartitionArchivedError,
    PartitionDamagedError,
    PartitionError,
    PartitionMissingError,
    SchemaTooNewError,
)
from betcore_async.partitions import PartitionManager, PartitionState
from betcore_async.partitions import archive_steps as steps
from betcore_async.sqlite.connection import open_raw
from betcore_async.stores import audit
from betcore_async.stores.sqlite_reads import CLOCK_SKEW

pytestmark = pytest.mark.usefixtures("object_stores")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Six weeks, each with a settled bet and one that is open to the end; W[0] to W[2] are old enough to go."""
    folder = tmp_path_factory.mktemp("template") / "data"

    async def make():
        async with platform(folder) as it:
            user = await it.users.create("0xabc", 10_000)
            for week in W[:6]:
                if week != W[0]:
                    await it.next_week()
                await it.bets.settle((await it.bets.place(user.id, "cell", 100, 2.0)).id, won=True)
                await it.bets.place(user.id, "open", 1, 2.0)
            return user.id

    return folder, asyncio.run(make())


@pytest.fixture
async def weeks(template, tmp_path):
    folder, user = template
    async with platform(shutil.copytree(folder, tmp_path / "data"), W[5]) as it:
        it.user = user
        yield it


def archive_of(it):
    return it.folder / "bets.db-archive"


def object_of(it, week):
    (found,) = (archive_of(it) / str(week)).glob("*.zst")
    return found


async def bets_of(it, **options):
    return await it.manager.query_bets(it.user, *ALWAYS, **options)


async def reopened(it, **others):
    """Another manager of the same files, as another process has one."""
    settings = PartitionSettings(**others)
    return PartitionManager(it.manager._database, settings, clock=it.clock)


def contents(path):
    with closing(open_raw(path, readonly=True)) as raw:
        return "\n".join(raw.iterdump())


# The way there and back


async def test_a_week_goes_to_the_archive_and_comes_back_byte_by_byte(weeks):
    before, file = await bets_of(weeks), contents(weeks.file(W[1]))
    info = await weeks.manager.archive(W[1])
    assert (info.week, info.performed) == (W[1], True)
    assert info.archived_size == object_of(weeks, W[1]).stat().st_size < info.size
    assert not weeks.file(W[1]).exists()
    restored = await weeks.manager.restore(str(W[1]))
    assert (restored.week, restored.state, restored.size) == (W[1], PartitionState.SEALED, info.size)
    assert hashlib.sha256(weeks.file(W[1]).read_bytes()).hexdigest() == info.sha256
    assert contents(weeks.file(W[1])) == file
    assert await bets_of(weeks) == before
    assert (await weeks.ledger.audit()).ok


def open_files():
    return {str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux what is open")
async def test_queries_let_go_of_a_week_that_is_archived(weeks):
    await asyncio.gather(*(bets_of(weeks) for _ in range(4)))
    span = {"start": W[0].start, "end": W[5].end}
    assert await weeks.manager.query("SELECT count(*) FROM bets", **span)
    name = weeks.file(W[1]).name
    assert any(name in found for found in open_files())
    queries = []

    def told(progress):
        if progress.stage == "compress":  # what was let go at the start is opened again
            queries.append(asyncio.ensure_future(bets_of(weeks, allow_partial=True)))

    await weeks.manager.archive(W[1], on_progress=told)
    assert {len(page.bets) for page in await asyncio.gather(*queries)} <= {10, 12}
    assert not any(name in found for found in open_files())  # nor as "(deleted)", which would keep the space


async def test_what_the_archive_and_its_records_hold_is_for_the_owner_alone(weeks):
    await weeks.manager.archive(W[0])
    for path in (archive_of(weeks), *archive_of(weeks).rglob("*"), *weeks.folder.glob("*.archived")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert names_in(archive_of(weeks) / str(W[0])) == {"manifest.json", object_of(weeks, W[0]).name}
    await weeks.manager.restore(W[0])
    assert weeks.file(W[0]).stat().st_mode & 0o777 == 0o400


async def test_archiving_and_restoring_again_do_nothing(weeks):
    first = await weeks.manager.archive(W[0])
    again = await weeks.manager.archive(W[0])
    assert (again.performed, again.object, again.sha256) == (False, first.object, first.sha256)
    restored = await weeks.manager.restore(W[0])
    assert await weeks.manager.restore(W[0]) == restored


async def test_a_restored_week_is_archived_again_without_an_upload(weeks):
    first = await weeks.manager.archive(W[0])
    uploaded = object_of(weeks, W[0]).stat()
    await weeks.manager.restore(W[0])
    again = await weeks.manager.archive(W[0])
    assert (again.performed, again.object) == (True, first.object)
    assert object_of(weeks, W[0]).stat().st_ino == uploaded.st_ino
    assert not weeks.file(W[0]).exists()


async def test_progress_is_told_on_the_loop_and_reaches_the_end_of_each_stage(weeks):
    seen = []

    def told(progress):
        assert threading.current_thread() is threading.main_thread()
        seen.append(progress)

    await weeks.manager.archive(W[0], on_progress=told)
    await weeks.manager.restore(W[0], on_progress=told)
    await weeks.manager.archive(W[0], on_progress=told)
    await asyncio.sleep(0)
    assert list(dict.fromkeys(progress.stage for progress in seen)) == [
        *("check", "compress", "read back", "restore", "compare")
    ]
    ends = {progress.stage: (progress.done, progress.total) for progress in seen if progress.stage != "check"}
    assert all(done == total for done, total in ends.values())


async def test_an_older_schema_is_migrated_when_it_comes_back(weeks, tmp_path):
    source = tmp_path / "migrations"
    shutil.copytree(weeks.manager._migrator.source, source)
    await weeks.manager.archive(W[1])
    await weeks.manager.close()
    head = weeks.manager._head
    (source / f"{head + 1:04}_nickname.up.sql").write_text("ALTER TABLE users ADD COLUMN nickname TEXT;\n")
    (source / f"{head + 1:04}_nickname.down.sql").write_text("ALTER TABLE users DROP COLUMN nickname;\n")
    async with manager_for(weeks.folder, weeks.clock, migrations=source) as manager:
        assert {info.week: info.schema_version for info in await manager.partitions()}[W[1]] == head
        assert (await manager.restore(W[1])).schema_version == head + 1
        assert "nickname" in contents(weeks.file(W[1]))
        again = await manager.archive(W[1])  # another file than the one in the archive, of the same week
        assert (again.performed, again.schema_version) == (True, head + 1)
        assert names_in(archive_of(weeks) / str(W[1])) == {"manifest.json", object_of(weeks, W[1]).name}
        assert (await manager.verify(W[1])).ok


# What is refused


async def test_the_live_week_is_not_archived(weeks):
    with pytest.raises(PartitionError, match="only sealed weeks"):
        await weeks.manager.archive(W[5])


async def test_a_week_whose_ids_may_be_repeated_stays(weeks):
    assert timedelta(microseconds=steps.REPEATS) >= CLOCK_SKEW
    with pytest.raises(PartitionError, match="a week later"):
        await weeks.manager.archive(W[3])
    assert weeks.file(W[3]).exists()
    assert not archive_of(weeks).joinpath(str(W[3])).exists()


async def test_an_id_of_an_archived_week_is_never_used_twice(weeks):
    (bet,) = (await weeks.manager.query_bets(weeks.user, W[1].start, W[1].end, status="won")).bets
    await weeks.manager.archive(W[1])
    balance = (await weeks.users.get(weeks.user)).balance
    with pytest.raises(PartitionArchivedError) as caught:
        await weeks.bets.place(weeks.user, "cell", 100, 2.0, id=bet.id)
    assert W[1] in caught.value.weeks
    with pytest.raises(PartitionArchivedError):
        await weeks.bets.get(bet.id)
    assert (await weeks.users.get(weeks.user)).balance == balance
    await weeks.bets.place(weeks.user, "cell", 100, 2.0)  # what is new goes on


async def test_a_week_that_is_not_there_is_missing(weeks):
    with pytest.raises(PartitionMissingError):
        await weeks.manager.archive(W[30])
    for ask in (weeks.manager.restore, weeks.manager.verify):
        with pytest.raises(PartitionMissingError, match="is not in the archive"):
            await ask(W[0].previous())
    with pytest.raises(PartitionError, match="after the live week"):
        await weeks.manager.restore(W[30])


async def test_a_week_attached_from_elsewhere_is_not_moved(weeks, tmp_path):
    await weeks.manager.detach_partition(W[1])
    moved = weeks.file(W[1]).rename(tmp_path / "moved.db")
    await weeks.manager.attach_partition(W[1], moved)
    with pytest.raises(PartitionError, match="attached from elsewhere"):
        await weeks.manager.archive(W[1])


async def test_a_damaged_file_is_not_archived(weeks):
    path = weeks.file(W[1])
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[-4096:] = b"\xff" * 4096
    path.write_bytes(data)
    path.chmod(0o400)
    with pytest.raises(PartitionDamagedError):
        await weeks.manager.archive(W[1])
    assert path.read_bytes() == data
    assert list(archive_of(weeks).rglob("*.zst")) == []


def in_wal_mode(path):
    """Make of a finalized file what it is while somebody still has it open from before it was sealed."""
    path.chmod(0o600)
    with closing(open_raw(path, readonly=False)) as raw:
        raw.execute("PRAGMA journal_mode = WAL")
    return open_raw(path, readonly=False)


async def test_a_week_that_does_not_say_when_it_was_sealed_is_told_as_damaged(weeks):
    path = weeks.file(W[0])
    path.chmod(0o600)
    with direct(path) as raw:
        raw.execute("DROP TRIGGER partition_meta_sealed_is_final")
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute("UPDATE partition_meta SET sealed_at = NULL")
    assert await weeks.manager.weeks_to_archive(1) == [W[0], W[1], W[2]]
    with pytest.raises(PartitionDamagedError, match="does not say when it was sealed"):
        await weeks.manager.archive(W[0])
    assert path.exists()


async def test_a_week_that_others_have_open_goes_and_they_can_read_on(weeks):
    with closing(in_wal_mode(weeks.file(W[1]))) as other:
        other.execute("BEGIN")
        before = other.execute("SELECT count(*), sum(amount) FROM bets").fetchone()
        await weeks.manager.archive(W[1])
        assert other.execute("SELECT count(*), sum(amount) FROM bets").fetchone() == before
    await weeks.manager.restore(W[1])
    assert weeks.file(W[1]).read_bytes()[18:20] == b"\x01\x01"  # not in WAL mode: reading it leaves nothing beside it
    assert len((await bets_of(weeks)).bets) == 12


async def test_a_week_of_which_a_part_is_still_in_its_wal_stays(weeks):
    path = weeks.file(W[1])
    with closing(in_wal_mode(path)) as reader, closing(open_raw(path, readonly=False)) as writer:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM bets").fetchone()
        writer.execute("UPDATE users SET updated_at = updated_at + 1")
        with pytest.raises(PartitionError, match="from its -wal"):
            await weeks.manager.archive(W[1])
        assert path.exists()
    assert (await weeks.manager.archive(W[1])).performed


async def test_two_databases_in_one_archive_do_not_overwrite_each_other(weeks, tmp_path):
    await weeks.manager.archive(W[1])
    settings = PartitionSettings(archive_url=str(archive_of(weeks)))
    clock = ManualClock(W[0].start)
    async with PartitionManager(DatabaseSettings(path=tmp_path / "bets.db"), settings, clock=clock) as other:
        for week in W[1:6]:
            clock.now = week.start
            await other.rotate_to_new_week()
        with pytest.raises(ArchiveError, match="of another database"):
            await other.archive(W[1])
        (tmp_path / f"bets-{W[1]}.db").unlink()
        await other._refresh()
        with pytest.raises(PartitionMissingError):
            await other.query_bets("nobody", *ALWAYS)
    assert (await weeks.manager.verify(W[1])).ok


async def test_a_file_that_was_changed_while_it_was_archived_stays(weeks, monkeypatch):
    take_away = steps.take_away

    def migrated_first(family, entry, seen, manifest):
        copy = entry.path.with_name("copy")
        shutil.copy(entry.path, copy)
        copy.replace(entry.path)
        take_away(family, entry, seen, manifest)

    monkeypatch.setattr("betcore_async.partitions.archive.take_away", migrated_first)
    with pytest.raises(PartitionError, match="changed while it was archived"):
        await weeks.manager.archive(W[1])
    assert len((await bets_of(weeks)).bets) == 12


async def test_a_week_of_a_newer_release_is_told_as_such_before_it_is_downloaded(weeks, tmp_path):
    source = shutil.copytree(weeks.manager._migrator.source, tmp_path / "migrations")
    head = weeks.manager._head
    (source / f"{head + 1:04}_nickname.up.sql").write_text("ALTER TABLE users ADD COLUMN nickname TEXT;\n")
    (source / f"{head + 1:04}_nickname.down.sql").write_text("ALTER TABLE users DROP COLUMN nickname;\n")
    elsewhere = shutil.copytree(weeks.folder, tmp_path / "elsewhere")
    async with manager_for(elsewhere, weeks.clock, migrations=source) as newer:
        await newer.archive(W[1])
    shutil.copytree(elsewhere / "bets.db-archive", archive_of(weeks))
    weeks.file(W[1]).unlink()
    await weeks.manager._refresh()
    stages = []
    with pytest.raises(SchemaTooNewError, match=f"schema version {head + 1}, this code knows {head}; upgrade it"):
        await weeks.manager.restore(W[1], on_progress=lambda progress: stages.append(progress.stage))
    assert stages == []
    assert not list(weeks.folder.glob("*.restoring*"))


# Queries


async def test_a_query_that_reaches_archived_weeks_names_them_and_the_place(weeks):
    whole = await bets_of(weeks)
    for week in W[1:3]:
        await weeks.manager.archive(week)
    with pytest.raises(PartitionArchivedError) as caught:
        await bets_of(weeks)
    assert (caught.value.weeks, caught.value.location) == ((W[1], W[2]), str(archive_of(weeks)))
    page = await bets_of(weeks, allow_partial=True)
    assert page.missing_weeks == (W[1], W[2])
    assert page.bets == [bet for bet in whole.bets if not W[1].start <= bet.placed_at < W[2].end]
    live = await weeks.manager.query_bets(weeks.user, W[5].start, W[5].end)
    assert (len(live.bets), live.missing_weeks) == (2, ())


async def test_every_way_to_ask_says_so(weeks):
    await weeks.manager.archive(W[1])
    manager, span = weeks.manager, {"start": W[0].start, "end": W[5].end}
    for asked in (
        manager.count_bets(**span),
        manager.sum_bets(**span, user_id=weeks.user),
        manager.query("SELECT count(*) FROM bets", **span),
        anext(manager.iterate_bets(**span)),
        weeks.ledger.entries(weeks.user),
        weeks.bets.history(weeks.user),
    ):
        with pytest.raises(PartitionArchivedError) as caught:
            await asked
        assert caught.value.weeks == (W[1],)
    assert (await manager.sum_bets(**span, allow_partial=True)).missing_weeks == (W[1],)


async def test_sql_of_ones_own_leaves_out_the_bets_of_an_archived_week_that_went_on_open_too(weeks):
    await weeks.manager.archive(W[1])
    span = {"start": W[0].start, "end": W[5].end}
    rows = await weeks.manager.query("SELECT id FROM bets", **span, allow_partial=True)
    assert rows.missing_weeks == (W[1],)
    assert {row["id"] for row in rows} == {bet.id for bet in (await bets_of(weeks, allow_partial=True)).bets}
    (row,) = await weeks.manager.query("SELECT count(*) AS n FROM bets", **span, allow_partial=True)
    assert row["n"] == await weeks.manager.count_bets(**span, allow_partial=True) == 10


async def test_archived_and_missing_weeks_together_are_missing(weeks):
    await weeks.manager.archive(W[1])
    weeks.file(W[2]).unlink()
    async with await reopened(weeks) as manager:
        with pytest.raises(PartitionMissingError) as caught:
            await manager.query_bets(weeks.user, *ALWAYS)
        assert caught.value.weeks == (W[1], W[2])
        with pytest.raises(PartitionArchivedError):
            await manager.query_bets(weeks.user, W[1].start, W[1].end)
        with pytest.raises(PartitionMissingError):
            await manager.query_bets(weeks.user, W[2].start, W[2].end)


async def test_a_restart_knows_what_was_archived_without_asking_the_archive(weeks):
    await weeks.manager.archive(W[0])
    before = await weeks.manager.partitions()
    await weeks.manager.close()
    archive_of(weeks).rename(weeks.folder / "away")
    async with await reopened(weeks) as manager:
        info = (await manager.partitions())[0]
        assert info == before[0]
        assert (info.week, info.state, info.location, info.bets) == (W[0], "archived", str(archive_of(weeks)), 2)
        with pytest.raises(PartitionArchivedError):
            await manager.query_bets(weeks.user, W[0].start, W[0].end)
        await manager.rotate_to_new_week()


async def test_what_another_process_archives_and_restores_is_noticed(weeks):
    async with await reopened(weeks) as other:
        asked = (weeks.user, *ALWAYS)
        before = await other.query_bets(*asked)
        await weeks.manager.archive(W[1])
        await other._refresh()  # it had the file open, and could have gone on with it
        with pytest.raises(PartitionArchivedError):
            await other.query_bets(*asked)
        assert (await other.query_bets(*asked, allow_partial=True)).missing_weeks == (W[1],)
        await weeks.manager.restore(W[1])
        assert await other.query_bets(*asked, allow_partial=True) == before
        assert await other.query_bets(*asked) == before


async def test_a_query_brings_back_what_it_needs_where_that_is_wanted(weeks):
    before = await bets_of(weeks)
    for week in W[:3]:
        await weeks.manager.archive(week)
    async with await reopened(weeks, restore_on_demand=True) as manager:
        one, partial = await asyncio.gather(
            manager.query_bets(weeks.user, W[1].start, W[1].end),
            manager.query_bets(weeks.user, W[0].start, W[0].end, allow_partial=True),
        )
        assert (len(one.bets), partial.missing_weeks) == (2, (W[0],))
        assert not weeks.file(W[0]).exists()
        assert await asyncio.gather(*(manager.query_bets(weeks.user, *ALWAYS) for _ in range(3))) == [before] * 3


async def test_the_audit_goes_on_over_what_is_here(weeks):
    await weeks.manager.archive(W[1])
    report = await weeks.ledger.audit()
    assert report.ok, report.violations
    with pytest.raises(PartitionArchivedError):
        await weeks.ledger.audit(weeks=[W[1]])


async def test_an_audit_lets_weeks_go_while_it_runs(weeks):
    await weeks.manager.archive(W[2])
    await weeks.manager.restore(W[2])  # from now on, without its file, it is archived

    def progress(done, of):
        if done == 1:
            weeks.file(W[2]).unlink()

    def lost(done, of):
        weeks.file(W[3]).unlink(missing_ok=True)

    async with await reopened(weeks) as other, asyncio.timeout(30):  # which has no file open yet
        report = await audit.run(other, progress=progress)
    assert report.ok, report.violations
    assert report.counts["weeks"] == 5
    async with await reopened(weeks) as other, asyncio.timeout(30):
        report = await audit.run(other, progress=lost)
    assert (str(W[3]), "it is not here any more") in {(found.week, found.detail) for found in report.violations}


async def test_an_archived_week_can_be_attached_but_not_detached(weeks, tmp_path):
    copy = tmp_path / "copy.db"
    shutil.copy(weeks.file(W[1]), copy)
    await weeks.manager.archive(W[1])
    with pytest.raises(PartitionError, match="was archived"):
        await weeks.manager.detach_partition(W[1])
    await weeks.manager.attach_partition(W[1], copy)
    assert len((await bets_of(weeks)).bets) == 12


# Damage


def flip(path, place):
    mode = path.stat().st_mode
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x01
    path.write_bytes(data)
    path.chmod(mode)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("what", ["object", "manifest"])
async def test_a_flipped_bit_in_the_archive_is_found_and_never_restored(weeks, what, part):
    await weeks.manager.archive(W[1])
    assert (await weeks.manager.verify(W[1])).ok
    path = object_of(weeks, W[1]) if what == "object" else archive_of(weeks) / str(W[1]) / "manifest.json"
    flip(path, int(path.stat().st_size * part))
    report = await weeks.manager.verify(W[1])
    assert not report.ok
    assert str(W[1]) in report.problems[0]
    with pytest.raises(ArchiveDamagedError):
        await weeks.manager.restore(W[1])
    assert not weeks.file(W[1]).exists()
    assert not list(weeks.folder.glob("*.restoring*"))


@pytest.mark.parametrize("loss", ["object", "manifest", "half the object"])
async def test_what_is_gone_from_the_archive_is_told(weeks, loss):
    await weeks.manager.archive(W[1])
    path = object_of(weeks, W[1])
    if loss == "half the object":
        os.truncate(path, path.stat().st_size // 2)
    else:
        (path if loss == "object" else path.with_name("manifest.json")).unlink()
    report = await weeks.manager.verify(W[1])
    assert not report.ok
    with pytest.raises((ArchiveDamagedError, PartitionMissingError)):
        await weeks.manager.restore(W[1])


@pytest.mark.parametrize("loss", ["flipped bit", "no object"])
async def test_a_week_that_is_here_is_uploaded_anew_where_the_archive_has_lost_it(weeks, loss):
    first = await weeks.manager.archive(W[1])
    await weeks.manager.restore(W[1])
    path = object_of(weeks, W[1])
    if loss == "no object":
        path.unlink()
    else:
        flip(path, path.stat().st_size // 2)
    again = await weeks.manager.archive(W[1])
    assert (again.performed, again.sha256) == (True, first.sha256)
    assert again.object != first.object
    assert (await weeks.manager.verify(W[1])).ok
    assert names_in(archive_of(weeks) / str(W[1])) == {"manifest.json", object_of(weeks, W[1]).name}
    await weeks.manager.restore(W[1])
    assert len((await bets_of(weeks)).bets) == 12


async def test_a_damaged_record_is_told_and_made_anew_by_restoring(weeks):
    await weeks.manager.archive(W[1])
    record = weeks.folder / f"bets-{W[1]}.db.archived"
    flip(record, 100)
    async with await reopened(weeks) as manager:
        with pytest.raises(PartitionMissingError, match="is damaged"):
            await manager.query_bets(weeks.user, *ALWAYS)
        await manager.restore(W[1])
        assert len((await manager.query_bets(weeks.user, *ALWAYS)).bets) == 12
        assert record.read_bytes() == (archive_of(weeks) / str(W[1]) / "manifest.json").read_bytes()


async def test_a_lost_record_is_no_loss(weeks):
    await weeks.manager.archive(W[1])
    (weeks.folder / f"bets-{W[1]}.db.archived").unlink()
    async with await reopened(weeks) as manager:
        with pytest.raises(PartitionMissingError):
            await manager.query_bets(weeks.user, *ALWAYS)
        await manager.restore(W[1])
        assert len((await manager.query_bets(weeks.user, *ALWAYS)).bets) == 12


async def test_something_else_in_place_of_the_week_is_not_overwritten(weeks):
    await weeks.manager.archive(W[1])
    weeks.file(W[1]).write_bytes(b"mine")
    with pytest.raises(PartitionError, match="move it away"):
        await weeks.manager.restore(W[1])
    assert weeks.file(W[1]).read_bytes() == b"mine"


# Stores that refuse


@contextmanager
def limit(size):
    """Let no file grow beyond `size` bytes, as a full disk would not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_is_told_and_loses_nothing(weeks):
    before = await bets_of(weeks)
    with limit(1000), pytest.raises(ArchiveError):
        await weeks.manager.archive(W[1])
    assert weeks.file(W[1]).exists()
    assert await bets_of(weeks) == before
    await weeks.manager.archive(W[1])
    with limit(10_000), pytest.raises(ArchiveError, match=os.strerror(errno.EFBIG)):
        await weeks.manager.restore(W[1])
    assert not list(weeks.folder.glob("*.restoring*"))
    await weeks.manager.restore(W[1])
    assert await bets_of(weeks) == before


async def test_an_archive_that_cannot_be_used_is_told_and_loses_nothing(weeks, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    before = await bets_of(weeks)
    async with await reopened(weeks, archive_url=str(tmp_path / "file")) as manager:
        for ask in (manager.archive, manager.verify):
            with pytest.raises(ArchiveError) as caught:
                await ask(W[1])
            assert caught.value.location == str(tmp_path / "file")
    assert await bets_of(weeks) == before


async def test_a_relative_archive_stays_where_it_was_when_the_process_changes_its_folder(weeks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with await reopened(weeks, archive_url="attic") as manager:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        assert (await manager.archive(W[1])).location == str(tmp_path / "attic")
        monkeypatch.chdir(tmp_path)
        await manager.restore(W[1])
    assert not list((tmp_path / "elsewhere").iterdir())


# Cancelling and rivals


@pytest.mark.parametrize("stage", ["check", "compress", "read back", "restore"])
async def test_cancelled_at_any_stage_nothing_is_lost_and_a_repeat_goes_on(weeks, stage):
    before = await bets_of(weeks)
    work = weeks.manager.archive
    if stage == "restore":
        await weeks.manager.archive(W[1])
        work = weeks.manager.restore

    def told(progress):
        if progress.stage == stage:
            task.cancel()

    task = asyncio.ensure_future(work(W[1], on_progress=told))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list(weeks.folder.glob("*.restoring*"))
    if stage != "restore":
        assert (await bets_of(weeks, allow_partial=True)).missing_weeks in {(), (W[1],)}
        await weeks.manager.archive(W[1])
    await weeks.manager.restore(W[1])
    assert await bets_of(weeks) == before


async def test_rivals_take_turns(weeks):
    async with await reopened(weeks) as other:
        infos = await asyncio.gather(*(manager.archive(W[1]) for manager in (weeks.manager, other) * 2))
        assert sorted(info.performed for info in infos) == [False, False, False, True]
        await asyncio.gather(*(manager.restore(W[1]) for manager in (weeks.manager, other)))
    assert len((await bets_of(weeks)).bets) == 12


async def test_a_rival_that_works_for_long_is_waited_for_within_the_busy_budget(weeks):
    async with manager_for(weeks.folder, weeks.clock, busy_timeout="20ms") as other, weeks.manager._archiving():
        with pytest.raises(BusyTimeoutError, match="archiving or restoring"):
            await other.archive(W[1])
        async with platform(weeks.folder, W[5]):  # a start does not wait
            pass


async def test_a_rotation_goes_on_while_a_week_is_archived(weeks):
    rotated = asyncio.Event()

    def told(progress):
        if progress.stage == "compress" and not rotated.is_set():
            rotated.set()

    weeks.clock.advance(WEEK)
    archiving = asyncio.ensure_future(weeks.manager.archive(W[1], on_progress=told))
    await rotated.wait()
    assert (await weeks.manager.rotate_to_new_week()).performed
    assert (await archiving).performed


# Retention


async def test_retention_archives_the_weeks_older_than_those_to_keep(weeks):
    manager = weeks.manager
    assert await manager.weeks_to_archive() == []
    assert await manager.weeks_to_archive(1) == [W[0], W[1], W[2]]  # W[3] was sealed too short ago
    assert await manager.weeks_to_archive(4) == [W[0]]
    assert [info.week for info in await manager.archive_old_weeks(3)] == [W[0], W[1]]
    assert await manager.weeks_to_archive(3) == []
    async with await reopened(weeks, keep_weeks=1) as other:
        assert [info.week for info in await other.archive_old_weeks()] == [W[2]]
    with pytest.raises(PartitionError, match="at least 1"):
        await manager.weeks_to_archive(0)


async def test_with_all_archived_that_may_go_the_platform_goes_on(weeks):
    await weeks.manager.archive_old_weeks(1)
    await weeks.next_week()
    await weeks.next_week()
    await weeks.manager.archive_old_weeks(1)
    assert (await weeks.ledger.audit()).ok
    async with platform(weeks.folder, W[7]) as again:
        states = {info.week: info.state for info in await again.manager.partitions()}
        assert states == dict.fromkeys(W[:5], "archived") | dict.fromkeys(W[5:7], "sealed") | {W[7]: "live"}
        for week in W[:5]:
            await again.manager.restore(week)
        assert len((await again.manager.query_bets(weeks.user, *ALWAYS)).bets) == 12
        assert (await again.ledger.audit()).ok


async def test_a_manifest_says_what_is_in_the_file(weeks):
    info = await weeks.manager.archive(W[2])
    said = json.loads((archive_of(weeks) / str(W[2]) / "manifest.json").read_text())["manifest"]
    assert (said["week"], said["predecessor"], said["successor"]) == (str(W[2]), str(W[1]), str(W[3]))
    assert (said["starts_at"], said["ends_at"]) == (W[2].starts_at, W[2].ends_at)
    assert (said["users"], said["bets"], said["open_bets"]) == (1, 4, 3)
    assert (said["object"], said["sha256"]) == (info.object, info.sha256)
