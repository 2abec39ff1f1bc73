"""What the files of a family are called, and how they get and lose their names."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from betcore_async.errors import BusyTimeoutError, DatabaseError
from betcore_async.partitions import Week
from betcore_async.partitions.files import Family, publish, remove

W27, W28 = Week("2026-W27"), Week("2026-W28")


@pytest.mark.parametrize(
    ("database", "file"),
    [
        ("bets.db", "bets-2026-W27.db"),
        ("bets", "bets-2026-W27"),
        ("a b?c#d%41.db", "a b?c#d%41-2026-W27.db"),
        ('o\'clock "x".sqlite3', 'o\'clock "x"-2026-W27.sqlite3'),
        ("bets.v2.db", "bets.v2-2026-W27.db"),
        (".hidden", ".hidden-2026-W27"),
        ("[a]*+(b).db", "[a]*+(b)-2026-W27.db"),
    ],
)
def test_files_are_named_after_the_database(database, file, tmp_path):
    family = Family(tmp_path / database)
    assert family.path_of(W27) == tmp_path / file
    family.path_of(W27).touch()
    family.new_staging(W28).touch()
    assert family.weekly_files() == {W27: tmp_path / file}
    assert [path.name[:-17] for path in family.staging_files()] == [family.path_of(W28).name]


def test_families_in_one_folder_do_not_see_each_other(tmp_path):
    names = ["bets.db", "bets", "bets.db.db", "bets-2026-W27.db", "other.db", "xbets.db"]
    families = [Family(tmp_path / name) for name in names]
    for family in families:
        family.path_of(W28).touch()
        family.new_staging(W28).touch()
    for family in families:
        assert list(family.weekly_files().values()) == [family.path_of(W28)]
        assert len(family.staging_files()) == 1


def test_what_is_not_named_after_a_week_is_not_a_weekly_file(tmp_path):
    for name in ["bets.db", "bets-2025-W53.db", "bets-2026-W00.db", "bets-2026-W27.db.bak", "bets-2026-W27.db-wal"]:
        (tmp_path / name).touch()
    assert Family(tmp_path / "bets.db").weekly_files() == {}


def test_weekly_files_come_oldest_first(tmp_path):
    family = Family(tmp_path / "bets.db")
    weeks = [W28, Week("2025-W52"), W27, Week("2026-W01")]
    for week in weeks:
        family.path_of(week).touch()
    assert list(family.weekly_files()) == sorted(weeks)


def test_publish_leaves_no_log_of_an_earlier_file_behind(tmp_path):
    # SQLite would play it into the new file.
    final, staging = tmp_path / "bets-2026-W27.db", tmp_path / "staging"
    for side in ("-wal", "-shm", "-journal"):
        final.with_name(final.name + side).write_text("old")
    staging.write_text("new")
    publish(staging, final)
    assert [path.name for path in tmp_path.iterdir()] == [final.name]
    assert final.read_text() == "new"


def test_remove_takes_the_side_files_along(tmp_path):
    for side in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f"a.db{side}").touch()
    remove(tmp_path / "a.db")
    assert list(tmp_path.iterdir()) == []
    remove(tmp_path / "a.db")


async def test_one_holder_of_the_lock_at_a_time(tmp_path):
    family, rival = Family(tmp_path / "bets.db"), Family(tmp_path / "bets.db")
    async with family.alone(timedelta()):
        with pytest.raises(BusyTimeoutError) as caught:
            async with rival.alone(timedelta(milliseconds=10)):
                pytest.fail("two at a time")
        assert caught.value.waited >= 0.01
    async with rival.alone(timedelta()):
        pass
    assert (tmp_path / "bets.db.lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path.parent / "elsewhere")])
async def test_a_lock_that_cannot_be_had_is_told(make, tmp_path):
    make(tmp_path / "bets.db.lock")
    with pytest.raises(DatabaseError, match=r"bets\.db\.lock"):
        async with Family(tmp_path / "bets.db").alone(timedelta()):
            pytest.fail("locked")
    assert not os.path.lexists(tmp_path / "elsewhere")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match="cannot make the folder"):
        Family(tmp_path / "file" / "bets.db").make_folder()
