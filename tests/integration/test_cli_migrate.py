"""`betcore migrate` as its users run it: on weekly files, on files of their own, on nothing."""

import json
import os
import pty
import shutil
import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from integration.commands import COMMAND, betcore, environment

from betcore_async.clock import ManualClock
from betcore_async.config import DatabaseSettings
from betcore_async.partitions import PartitionManager
from betcore_async.sqlite.migrations import Migrator

WEEKS = ("bets-2022-W01.db", "bets-2022-W02.db")
HEAD = Migrator().migrations[-1].version
NEXT = HEAD + 1
NICKNAME = f"{NEXT:04}_nickname"
FIRST = "CREATE TABLE orders (id INTEGER PRIMARY KEY) STRICT;\n"
SECOND = "ALTER TABLE orders ADD COLUMN note TEXT DEFAULT 'a;b';\n"


@pytest.fixture
async def family(tmp_path):
    """Two weeks in tmp_path/data, the first one sealed, and in tmp_path/more one migration more for them."""
    clock = ManualClock(datetime(2022, 1, 3, tzinfo=UTC))
    async with PartitionManager(DatabaseSettings(path=tmp_path / "data" / "bets.db"), clock=clock) as partitions:
        clock.now = datetime(2022, 1, 10, tzinfo=UTC)
        await partitions.rotate_to_new_week()
    more = shutil.copytree(Migrator().source, tmp_path / "more")
    (more / f"{NICKNAME}.up.sql").write_text("ALTER TABLE users ADD COLUMN nickname TEXT;\n")
    (more / f"{NICKNAME}.down.sql").write_text("ALTER TABLE users DROP COLUMN nickname;\n")
    return tmp_path / "data"


@pytest.fixture
def orders(tmp_path):
    """A folder `orders` with two migrations of somebody's own."""
    folder = tmp_path / "orders"
    folder.mkdir()
    for name, up, down in (("0001_first", FIRST, "DROP TABLE orders;"), ("0002_note", SECOND, None)):
        (folder / f"{name}.up.sql").write_text(up)
        if down:
            (folder / f"{name}.down.sql").write_text(down)
    return folder


def migrate(place, *arguments, status=0, **variables):
    result = betcore("migrate", *arguments, folder=place, **variables)
    assert result.status == status, result
    return result


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_an_older_family_is_shown_planned_and_migrated_file_by_file(family, tmp_path):
    variables = {"DB_MIGRATIONS": "more"}
    before = contents(tmp_path)
    rows = json.loads(migrate(tmp_path, "status", "--json", status=3, **variables).out)
    assert [(Path(row["file"]).name, row["version"], row["head"]) for row in rows] == [
        (WEEKS[1], HEAD, NEXT),  # the live one first
        (WEEKS[0], HEAD, NEXT),
    ]
    assert rows[0]["pending"] == [{"version": NEXT, "name": "nickname"}]
    planned = migrate(tmp_path, "plan", **variables).out
    assert planned.count(NICKNAME) == 2
    dry = migrate(tmp_path, "up", "--dry-run", **variables).out
    assert dry.count("ALTER TABLE users ADD COLUMN nickname TEXT;") == 2
    assert contents(tmp_path) == before

    lines = migrate(tmp_path, "up", **variables).out.splitlines()
    assert lines == [f"data/{name}: version {NEXT}, {NICKNAME} up" for name in reversed(WEEKS)]
    assert migrate(tmp_path, "status", **variables).out.count("\n") > 2
    doctor = betcore("doctor", "--json", folder=tmp_path, REDIS_TIMEOUT="100ms", **variables)
    assert doctor.status == 0, doctor.out  # it knows these migrations, too
    back = json.loads(migrate(tmp_path, "goto", str(HEAD), "--yes", "--json", **variables).out)
    assert [(row["week"], row["state"], row["version"]) for row in back] == [
        ("2022-W02", "live", HEAD),
        ("2022-W01", "sealed", HEAD),
    ]
    assert [step["direction"] for step in back[0]["steps"]] == ["down"]
    assert {path.name for path in family.glob("*.db")} == set(WEEKS)


def test_it_goes_on_after_a_file_that_fails_and_fails_at_the_end(family, tmp_path):
    (family / "bets-2021-W52.db").write_bytes(b"not a database at all, but long enough to be taken for one" * 100)
    result = migrate(tmp_path, "up", "--source", "more", "--json", status=1)
    rows = json.loads(result.out)
    assert [row["version"] for row in rows] == [NEXT, NEXT, None]
    assert "bets-2021-W52.db" in rows[2]["error"]
    assert migrate(tmp_path, "status", "--source", "more", status=1).out.count("not a database") == 1
    lines = migrate(tmp_path, "up", "--source", "more", status=1).out.splitlines()
    assert [": failed: " in line for line in lines] == [False, False, True]


@pytest.mark.parametrize("arguments", [("down",), ("goto", "0"), ("down", "--json")])
def test_nothing_is_deleted_without_a_word(family, tmp_path, arguments):
    before = contents(tmp_path)
    result = migrate(tmp_path, *arguments, status=2)
    assert "--yes" in result.complaint
    assert contents(tmp_path) == before


def test_all_the_way_down_leaves_no_weekly_file_and_the_way_up_is_a_new_start(family, tmp_path):
    dry = migrate(tmp_path, "down", "--steps", "9", "--dry-run").out
    assert dry.count("DROP TABLE bets;") == 2
    out = migrate(tmp_path, "down", "--steps", "9", "--yes").out
    assert out.count("(empty, removed)") == 2
    assert migrate(tmp_path, "up").out == migrate(tmp_path, "status").out
    assert list(family.glob("*.db")) == []


def test_where_there_is_no_file_nothing_is_made_and_a_new_week_is_told(tmp_path):
    assert "there is no weekly file of data/bets.db yet" in migrate(tmp_path, "up").out
    assert "there is no weekly file of data/bets.db yet" in migrate(tmp_path, "status").out
    assert json.loads(migrate(tmp_path, "verify", "--json").out) == []
    (row,) = json.loads(migrate(tmp_path, "up", "--dry-run", "--json").out)
    assert Path(row["file"]).name.startswith("bets-20")
    assert row["steps"][0]["sql"] == (Migrator().source / "0001_initial.up.sql").read_text()
    assert "CREATE TABLE bets" in migrate(tmp_path, "up", "--dry-run").out
    assert migrate(tmp_path, "dump").out == (Path(__file__).parent / "schema.sql").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_ones_own_goes_through_its_whole_life(orders, tmp_path):
    own = ("--source", "orders", "--database", "orders.db")
    migrate(tmp_path, "up", "--to", "1", *own)
    assert migrate(tmp_path, "dump", *own).out == "CREATE TABLE orders (id INTEGER PRIMARY KEY) STRICT;\n"
    assert migrate(tmp_path, "up", *own).out == "orders.db: version 2, 0002_note up\n"
    (row,) = json.loads(migrate(tmp_path, "verify", *own, "--json").out)
    assert row == {"file": "orders.db", "error": None, "version": 2, "head": 2}
    refused = migrate(tmp_path, "goto", "0", "--yes", *own, status=1)
    assert "0002_note has no .down.sql" in refused.err + refused.out
    with closing(sqlite3.connect(tmp_path / "orders.db")) as raw:
        raw.execute("CREATE INDEX by_hand ON orders (note)")
    assert "unexpected: index by_hand" in migrate(tmp_path, "verify", *own, status=1).out


def test_a_schema_that_is_there_already_is_adopted(orders, tmp_path):
    with closing(sqlite3.connect(tmp_path / "old.db")) as raw:
        raw.executescript(FIRST)
    own = ("--source", "orders", "--database", "old.db")
    assert "belongs to something else" in migrate(tmp_path, "status", *own, status=1).out
    assert migrate(tmp_path, "baseline", "1", *own).out == "old.db: version 1, recorded\n"
    assert json.loads(migrate(tmp_path, "up", *own, "--json").out)[0]["version"] == 2


def test_new_makes_the_next_pair_in_a_folder_of_ones_own(orders, tmp_path):
    made = json.loads(migrate(tmp_path, "new", "add_total", "--json", DB_MIGRATIONS="orders").out)
    assert made == {"up": "orders/0003_add_total.up.sql", "down": "orders/0003_add_total.down.sql"}
    assert all((tmp_path / path).read_bytes() == b"" for path in made.values())
    assert "holds no statement" in migrate(tmp_path, "status", DB_MIGRATIONS="orders", status=2).complaint
    assert "letters, digits" in migrate(tmp_path, "new", "../x", DB_MIGRATIONS="orders", status=2).complaint


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("up", "--source", "nowhere"), "nowhere cannot be read"),
        (("goto", "7", "--source", "orders", "--database", "a.db"), "there is no version 7"),
    ],
)
def test_what_cannot_be_is_one_line_and_makes_nothing(orders, tmp_path, arguments, complaint):
    result = betcore("migrate", *arguments, folder=tmp_path)
    assert result.status in {1, 2}
    assert complaint in result.err + result.out
    assert "Traceback" not in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["orders"]


def test_a_terminal_gets_a_bar_and_the_same_lines(orders, tmp_path):
    controller, terminal = pty.openpty()
    arguments = ("migrate", "up", "--source", "orders", "--database", "a.db")
    done = subprocess.run(
        [*COMMAND, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=tmp_path,
        env=environment(TERM="xterm", COLUMNS="200"),
        timeout=100,
        check=False,
    )
    shown = os.read(controller, 100_000).decode()
    os.close(terminal)
    os.close(controller)
    assert done.returncode == 0
    assert "migrating" in shown
    assert "100%" in shown
    assert "a.db: version 2, 0001_first up, 0002_note up" in shown
