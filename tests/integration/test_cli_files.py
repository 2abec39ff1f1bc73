"""The commands that look after weekly files, on real ones."""

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest
from integration.commands import betcore

from betcore_async.clock import ManualClock
from betcore_async.config import DatabaseSettings
from betcore_async.partitions import PartitionManager

WEEKS = ("2022-W01", "2022-W02")


@pytest.fixture
async def family(tmp_path):
    """Two weeks in a private folder, the first one sealed."""
    folder = tmp_path / "data"
    clock = ManualClock(datetime(2022, 1, 3, tzinfo=UTC))
    async with PartitionManager(DatabaseSettings(path=folder / "bets.db"), clock=clock) as partitions:
        clock.now = datetime(2022, 1, 10, tzinfo=UTC)
        await partitions.rotate_to_new_week()
    return folder


def run(family, *arguments, **variables):
    # No test here needs Redis, so none waits long for it.
    return betcore(*arguments, folder=family.parent, DB_PATH="data/bets.db", REDIS_TIMEOUT="100ms", **variables)


def findings(result):
    report = json.loads(result.out)
    return {found["check"]: (found["level"], found["text"]) for found in report["findings"]}


def test_sound_files_are_sound(family):
    result = run(family, "doctor", "--json")
    assert result.status == 0, result.out
    assert json.loads(result.out)["ok"]
    found = findings(result)
    assert found["integrity"] == ("ok", "2 weekly files intact")
    assert found["weeks"] == ("ok", "an unbroken chain, 2022-W02 is live")
    assert found["audit"][0] == "ok"
    assert found["file modes"][0] == "ok"


def test_the_doctor_finds_the_family_in_a_folder(family, tmp_path):
    result = betcore("doctor", family, "--json", folder=tmp_path, REDIS_TIMEOUT="100ms")
    assert findings(result)["integrity"] == ("ok", "2 weekly files intact")


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_folder_without_weekly_files_is_unusable(tmp_path, name):
    result = betcore("doctor", tmp_path / name, folder=tmp_path)
    assert result.status == 2
    assert str(tmp_path) in result.complaint


@pytest.mark.parametrize(
    "command", [("audit",), ("migrate", "status"), ("partitions", "list"), ("partitions", "stats")]
)
def test_a_folder_in_the_place_of_db_path_is_told(family, command):
    result = betcore(*command, DB_PATH=family)
    assert f"such as {family / 'bets.db'}" in result.out + result.err


def test_where_nothing_was_made_yet_nothing_is_made(tmp_path):
    assert betcore("doctor", folder=tmp_path, REDIS_TIMEOUT="100ms").status == 0
    assert betcore("partitions", "list", folder=tmp_path).out == "there is no weekly file of data/bets.db yet\n"
    assert betcore("migrate", "up", folder=tmp_path).status == 0
    assert "no weekly file of data/bets.db" in betcore("relay", "--off", folder=tmp_path).complaint
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_a_problem_named_by_its_path(family):
    path = family / "bets-2022-W01.db"
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    result = run(family, "doctor", "--json")
    assert result.status == 1
    level, text = findings(result)["integrity"]
    assert level == "problem"
    assert "bets-2022-W01.db" in text


def test_every_line_about_a_damaged_file_names_it(family):
    assert run(family, "partitions", "rotate", "2022-W03").status == 0
    path = family / "bets-2022-W01.db"
    path.chmod(0o600)
    path.write_bytes(b"not a database" + path.read_bytes()[14:])
    problems = {
        check: text for check, (level, text) in findings(run(family, "doctor", "--json")).items() if level == "problem"
    }
    assert problems.keys() == {"integrity", "weeks", "audit"}
    assert all("bets-2022-W01.db" in text for text in problems.values())


def test_two_live_weeks_are_a_problem(family):
    with closing(sqlite3.connect(family / "bets-2022-W02.db")) as live:
        live.execute("UPDATE partition_meta SET predecessor = NULL")
        live.commit()
    shutil.copy(family / "bets-2022-W02.db", family / "bets-2022-W03.db")
    with closing(sqlite3.connect(family / "bets-2022-W03.db")) as live:
        live.execute("UPDATE partition_meta SET week = '2022-W03'")
        live.commit()
    result = run(family, "doctor", "--json")
    assert result.status == 1
    assert "two files claim to be the live week" in result.out


def test_books_that_do_not_balance_are_a_problem(family):
    with closing(sqlite3.connect(family / "bets-2022-W02.db")) as live:
        live.execute("INSERT INTO users VALUES ('u', 'w', 5, 1, 1641772800000000, 1641772800000000)")
        live.commit()
    result = run(family, "doctor", "--json")
    assert result.status == 1
    level, text = findings(result)["audit"]
    assert level == "problem"
    assert "2022-W02" in text


def test_files_open_to_others_are_a_warning(family):
    (family / "bets-2022-W02.db").chmod(0o644)
    result = run(family, "doctor", "--json")
    assert result.status == 0
    level, text = findings(result)["file modes"]
    assert level == "warning"
    assert "bets-2022-W02.db (0644)" in text


def test_a_misspelt_setting_is_told_with_what_was_meant(family):
    result = run(family, "doctor", DB_MAX_OPEN_CONN="3")
    assert "did you mean DB_MAX_OPEN_CONNS?" in result.out + result.err


def test_a_dead_redis_is_a_problem_only_where_one_was_named(family):
    assert findings(run(family, "doctor", "--json", REDIS_ADDR="127.0.0.1:1"))["Redis"][0] == "problem"
    result = run(family, "doctor")
    assert result.status == 0
    assert "Redis" in result.out


def test_partitions_are_listed(family):
    rows = json.loads(run(family, "partitions", "list", "--json").out)
    assert [(row["week"], row["state"]) for row in rows] == [(WEEKS[0], "sealed"), (WEEKS[1], "live")]
    text = run(family, "partitions", "list").out
    assert all(week in text for week in WEEKS)


def test_rotate_goes_to_the_named_week_and_repeats_harmlessly(family):
    first = json.loads(run(family, "partitions", "rotate", "2022-W03", "--json").out)
    assert (first["performed"], first["week"]) == (True, "2022-W03")
    assert run(family, "partitions", "rotate", "2022-W03").out == "nothing to do: 2022-W03 is live\n"


@pytest.mark.parametrize(("week", "text"), [("2022-W01", "is over"), ("soon", "not an ISO week")])
def test_a_rotation_that_cannot_be_is_one_line(family, week, text):
    result = run(family, "partitions", "rotate", week)
    assert result.status == 2
    assert text in result.complaint
