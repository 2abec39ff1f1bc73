"""Migration files are read, split and refused: no database takes part."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.errors import DuplicateMigrationError, MigrationError, MigrationFileError
from betcore_async.sqlite.migration_files import (
    Migration,
    create_migration,
    load_migrations,
    read_script,
    shipped_folder,
)

TRIGGER = """CREATE TRIGGER bets_are_kept
BEFORE DELETE ON bets
WHEN OLD.note <> 'a;b'
BEGIN
    -- not here; nor here
    UPDATE bets SET note = CASE WHEN note IS NULL THEN ';' ELSE note END WHERE id = OLD.id;
    SELECT RAISE(ABORT, 'bets are kept; END;');
END;"""


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def script_of(tmp_path: Path, text: str | bytes):
    write(tmp_path, {"0001_a.up.sql": text})
    return read_script(tmp_path / "0001_a.up.sql")


def only(folder: Path) -> Migration:
    (migration,) = load_migrations(folder)
    return migration


def test_shipped_migrations_load_and_can_all_be_taken_back():
    migrations = load_migrations(shipped_folder())
    assert [migration.version for migration in migrations] == list(range(1, len(migrations) + 1))
    assert all(migration.down for migration in migrations)


def test_triggers_literals_and_comments_do_not_split_a_statement(tmp_path):
    text = f"""-- first; comment
CREATE TABLE bets (id, note DEFAULT 'x;y' /* ; */, "odd;name", [other;name], `third;name`);;

{TRIGGER}
/* between;
   two */
INSERT INTO bets VALUES ('it''s; -- not a comment', 1, 2, 3, 4); -- behind;
"""
    statements = script_of(tmp_path, text).statements
    assert [(statement.line, statement.keyword) for statement in statements] == [
        (2, "CREATE"),
        (4, "CREATE"),
        (14, "INSERT"),
    ]
    assert statements[1].sql == TRIGGER


def test_crlf_and_bom_change_neither_statements_nor_checksum(tmp_path):
    text = f"-- betcore: no-transaction\nCREATE TABLE bets (id, note);\n{TRIGGER}\nVACUUM;\n"
    plain = script_of(tmp_path, text)
    before = only(tmp_path).checksum
    windows = script_of(tmp_path, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert windows == plain
    assert windows.directives == {"no-transaction"}
    assert only(tmp_path).checksum == before


def test_splitting_many_semicolons_in_a_literal_stays_fast(tmp_path):
    # A splitter that asks about each of them is quadratic: minutes for this file.
    text = "INSERT INTO pages VALUES ('" + "&nbsp;" * 200_000 + "');\n"
    assert len(script_of(tmp_path, text * 2).statements) == 2


literals = st.text(st.sampled_from("ab;'\"-/*\n[]`"), max_size=20).map(lambda text: "'" + text.replace("'", "''") + "'")
names = st.text(st.sampled_from("ab;-'/* ]"), min_size=1, max_size=10).map(lambda text: f'"{text}"')
comments = st.text(st.sampled_from("ab;'\"* "), max_size=10).flatmap(
    lambda text: st.sampled_from([f"--{text}\n", f"/*{text} */", " ", "\n"])
)
pieces = st.lists(st.one_of(literals, names, comments), max_size=6).map(" || ".join)


@given(st.lists(st.tuples(comments, pieces), min_size=1, max_size=5))
def test_what_was_joined_is_split_the_same_again(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("joined")
    wanted = [f"SELECT {inside};" for _, inside in parts]
    text = "".join(outside + sql for (outside, _), sql in zip(parts, wanted, strict=True))
    statements = script_of(folder, text).statements
    assert [statement.sql for statement in statements] == wanted
    lines = text.split("\n")
    assert all(lines[statement.line - 1].find("SELECT") >= 0 for statement in statements)
    assert all(sqlite3.complete_statement(statement.sql) for statement in statements)


@pytest.mark.parametrize("word", ["BEGIN", "commit", "End", "ROLLBACK", "SAVEPOINT a", "RELEASE a", "BEGIN IMMEDIATE"])
def test_file_that_handles_the_transaction_itself_is_refused_with_its_line(tmp_path, word):
    with pytest.raises(MigrationFileError, match="transaction itself") as caught:
        script_of(tmp_path, f"CREATE TABLE a (x);\n\n/* now */ {word};\nSELECT 1;")
    assert caught.value.line == 3
    assert caught.value.path.endswith("0001_a.up.sql")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ATTACH 'other.db' AS other;", "one file"),
        ("PRAGMA foreign_keys = OFF;", "foreign-keys-off"),
        ("PRAGMA /* x */ main . user_version=7;", "keeps the version"),
        ("pragma application_id = 1;", "keeps the mark"),
        ("PRAGMA journal_mode(DELETE);", "WAL"),
        ("VACUUM;", "no-transaction"),
        ("", "no statement"),
        ("-- nothing\n;;", "no statement"),
        ("CREATE TABLE a (x)", "not finished"),
        ("CREATE TABLE a (x); INSERT INTO a VALUES ('open);", "not finished"),
        ("CREATE TABLE a (x);\n/* open", "not finished"),
        ("CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1;", "not finished"),
        ("CREATE TABLE a (x);\n-- betcore: no-transaction\n", "first comment"),
        ("-- betcore: no-transactions\nSELECT 1;", "unknown directive"),
        ("-- betcore: no-transaction\n-- betcore: foreign-keys-off\nSELECT 1;", "exclude each other"),
        (b"CREATE TABLE a (x);\nSELECT '\xff';", "not UTF-8"),
        (b"SELECT 1;\x00DROP TABLE a;", "NUL"),
    ],
)
def test_file_that_cannot_run_safely_is_refused(tmp_path, text, reason):
    with pytest.raises(MigrationFileError, match=reason):
        script_of(tmp_path, text)


def test_pragma_that_only_mentions_a_refused_name_is_allowed(tmp_path):
    assert script_of(tmp_path, "PRAGMA table_info(user_version);").statements[0].pragma == "table_info"


def test_directives_stand_in_the_first_comment(tmp_path):
    script = script_of(tmp_path, "-- Rebuilds bets.\n--betcore:  foreign-keys-off \nSELECT 1;")
    assert (script.transaction, script.foreign_keys) == (True, False)
    script = script_of(tmp_path, "-- betcore: no-transaction\nVACUUM;")
    assert (script.transaction, script.foreign_keys) == (False, True)


@pytest.mark.parametrize(
    "name", ["1_a.up.sql", "0001_a.sql", "0001-a.up.sql", "0001_a.UP.sql", "0000_a.up.sql", "0001_ä.up.sql", "x.sql"]
)
def test_sql_file_with_another_name_is_refused_not_overlooked(tmp_path, name):
    write(tmp_path, {"0001_first.up.sql": "SELECT 1;", name: "SELECT 1;"})
    with pytest.raises(MigrationFileError) as caught:
        load_migrations(tmp_path)
    assert caught.value.path == str(tmp_path / name)


def test_litter_and_documents_beside_migrations_are_left_alone(tmp_path):
    write(tmp_path, {"0001_a.up.sql": "SELECT 1;", "README.md": "", "._0001_a.up.sql": b"\xff", ".x.sql": ""})
    assert only(tmp_path).label == "0001_a"


@pytest.mark.parametrize(
    "files",
    [
        ["0001_a.up.sql", "0001_b.up.sql"],
        ["0001_a.up.sql", "0001_b.down.sql"],
        ["0001_a.up.sql", "00001_a.up.sql"],
    ],
)
def test_number_used_twice_is_refused(tmp_path, files):
    write(tmp_path, dict.fromkeys(files, "SELECT 1;"))
    with pytest.raises(DuplicateMigrationError) as caught:
        load_migrations(tmp_path)
    assert caught.value.version == 1
    assert {Path(caught.value.path).name, Path(caught.value.other).name} == set(files)


def test_down_without_up_is_refused(tmp_path):
    write(tmp_path, {"0001_a.down.sql": "SELECT 1;"})
    with pytest.raises(MigrationFileError, match=r"no \.up\.sql"):
        load_migrations(tmp_path)


@pytest.mark.parametrize("folder", ["missing", "empty", "file"])
def test_folder_without_migrations_is_an_error(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(MigrationFileError) as caught:
        load_migrations(tmp_path / folder)
    assert caught.value.path == str(tmp_path / folder)


def test_checksum_covers_both_directions_and_tells_them_apart(tmp_path):
    seen = set()
    for up, down in [("SELECT 1;", "SELECT 2;"), ("SELECT 2;", "SELECT 1;"), ("SELECT 1; ", "SELECT 2;")]:
        write(tmp_path, {"0001_a.up.sql": up, "0001_a.down.sql": down})
        seen.add(only(tmp_path).checksum)
    assert len(seen) == 3


def test_down_file_that_is_added_later_is_no_edit_but_its_change_is(tmp_path):
    write(tmp_path, {"0001_a.up.sql": "SELECT 1;"})
    without = only(tmp_path).checksum
    write(tmp_path, {"0001_a.down.sql": "SELECT 2;"})
    with_down = only(tmp_path).checksum
    assert only(tmp_path).matches(without)
    write(tmp_path, {"0001_a.down.sql": "SELECT 3;"})
    assert not only(tmp_path).matches(with_down)
    (tmp_path / "0001_a.down.sql").unlink()
    assert not only(tmp_path).matches(with_down)


def test_new_migration_gets_the_next_number_and_cannot_run_while_empty(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert [path.name for path in create_migration(folder, "first")] == ["0001_first.up.sql", "0001_first.down.sql"]
    with pytest.raises(MigrationFileError, match="no statement"):
        load_migrations(folder)
    write(folder, {"0007_later.up.sql": "SELECT 1;"})
    assert create_migration(folder, "next-one")[0].name == "0008_next-one.up.sql"


@pytest.mark.parametrize("name", ["", "a b", "../a", "a.b", "_a", "ä"])
def test_new_migration_with_an_unusable_name_is_refused(tmp_path, name):
    with pytest.raises(MigrationError, match="name"):
        create_migration(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_folder_for_a_new_migration_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MigrationFileError, match=r"file/sql cannot be written to: Not a directory"):
        create_migration(tmp_path / "file" / "sql", "first")
