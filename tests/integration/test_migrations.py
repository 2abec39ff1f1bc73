"""The Migrator on real files: what it applies, takes back, reports and refuses."""

import asyncio
import hashlib
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from betcore_async.clock import ManualClock
from betcore_async.config import DatabaseSettings
from betcore_async.errors import (
    BusyTimeoutError,
    DatabaseError,
    MigrationDownMissingError,
    MigrationEditedError,
    MigrationError,
    MigrationFileError,
    MigrationGapError,
    MigrationMissingError,
    MigrationStatementError,
    NotBetcoreDatabaseError,
    SchemaDriftError,
    SchemaTooNewError,
)
from betcore_async.sqlite import retry
from betcore_async.sqlite.migration_history import APPLICATION_ID
from betcore_async.sqlite.migrations import Migrator, load_migrations, migrate_connection, shipped_folder
from betcore_async.sqlite.rewrite import rewrite

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
IMPATIENT = DatabaseSettings(busy_timeout=timedelta(milliseconds=300))

# Three steps as they are met in real projects: tables, a trigger, a rebuild of a table that others refer to.
TABLES = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT) STRICT;
CREATE TABLE bets (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    note TEXT DEFAULT 'a;b'
) STRICT;
"""
TRIGGER = """
CREATE INDEX bets_by_user ON bets (user_id);
CREATE TRIGGER kept BEFORE DELETE ON bets BEGIN SELECT 1; SELECT RAISE(ABORT, 'kept;'); END;
"""
REBUILD = """-- betcore: foreign-keys-off
CREATE TABLE new_users (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
INSERT INTO new_users SELECT id, coalesce(name, '') FROM users;
DROP TABLE users;
ALTER TABLE new_users RENAME TO users;
"""
BUILD_BACK = """-- betcore: foreign-keys-off
CREATE TABLE old_users (id INTEGER PRIMARY KEY, name TEXT) STRICT;
INSERT INTO old_users SELECT id, name FROM users;
DROP TABLE users;
ALTER TABLE old_users RENAME TO users;
"""
THREE: dict[str, tuple[str, str | None]] = {
    "0001_tables": (TABLES, "DROP TABLE bets;\nDROP TABLE users;"),
    "0002_trigger": (TRIGGER, "DROP TRIGGER kept;\nDROP INDEX bets_by_user;"),
    "0003_rebuild": (REBUILD, BUILD_BACK),
}


def write(folder: Path, migrations: dict[str, tuple[str, str | None]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, (up, down) in migrations.items():
        (folder / f"{name}.up.sql").write_text(up)
        if down is not None:
            (folder / f"{name}.down.sql").write_text(down)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "migrations", THREE)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


def query(database: Path, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        return connection.execute(sql).fetchall()


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


async def test_up_applies_every_step_once_and_says_so(folder, database):
    clock = ManualClock(NOON)
    migrator = Migrator(folder, clock=clock)
    steps = await migrator.up(database)
    assert [(step.version, step.name, step.direction) for step in steps] == [
        (1, "tables", "up"),
        (2, "trigger", "up"),
        (3, "rebuild", "up"),
    ]
    assert [Path(step.path).name for step in steps] == [f"{name}.up.sql" for name in THREE]
    assert {step.applied_at for step in steps} == {NOON}
    clock.advance(timedelta(days=1))
    assert await migrator.up(database) == []
    status = await migrator.status(database)
    assert (status.current, status.head, status.pending, status.up_to_date) == (3, 3, (), True)
    assert list(status.applied) == steps
    assert query(database, "PRAGMA user_version") == [(3,)]
    assert query(database, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert query(database, "PRAGMA journal_mode") == [("wal",)]


async def test_new_file_is_private(folder, database):
    await Migrator(folder).up(database)
    assert database.stat().st_mode & 0o777 == 0o600


async def test_looking_creates_nothing(folder, database):
    migrator = Migrator(folder)
    status = await migrator.status(database)
    assert (status.current, [step.version for step in status.pending]) == (0, [1, 2, 3])
    plan = await migrator.plan(database, 2)
    assert [(step.version, step.direction, step.sql) for step in plan] == [
        (1, "up", THREE["0001_tables"][0]),
        (2, "up", THREE["0002_trigger"][0]),
    ]
    for refused in (migrator.down, migrator.verify, migrator.dump, lambda path: migrator.baseline(path, 1)):
        with pytest.raises(MigrationError, match="no database"):
            await refused(database)
    assert not database.exists()


async def test_looking_at_a_file_changes_no_byte_and_leaves_nothing_beside_it(folder, database):
    migrator = Migrator(folder)
    await migrator.up(database)
    before = digests(database.parent)
    for look in (migrator.status, migrator.plan, migrator.verify, migrator.dump, migrator.up):
        await look(database)
    assert digests(database.parent) == before


async def test_every_version_goes_up_down_and_up_to_the_same_schema(folder, database):
    await up_down_up(Migrator(folder), database)


async def test_every_shipped_down_restores_the_schema_before_it(database):
    await up_down_up(Migrator(), database)


async def up_down_up(migrator: Migrator, database: Path) -> None:
    await migrator.up(database, 0)
    schemas = [""]
    for version in range(1, len(migrator.migrations) + 1):
        (step,) = await migrator.up(database, version)
        assert step.version == version
        schemas.append(await migrator.dump(database))
        assert schemas[version] != schemas[version - 1]
        (step,) = await migrator.down(database)
        assert (step.version, step.direction) == (version, "down")
        assert await migrator.dump(database) == schemas[version - 1]
        await migrator.goto(database, version)
        assert await migrator.dump(database) == schemas[version]
        await migrator.verify(database)
    await migrator.goto(database, 0)
    assert await migrator.dump(database) == ""
    await migrator.up(database)
    assert await migrator.dump(database) == schemas[-1]


async def test_shipped_schema_is_the_one_on_record(database):
    # A change of the schema shows as a change of this file, where a reviewer sees all of it.
    await Migrator().up(database)
    assert await Migrator().dump(database) == (Path(__file__).parent / "schema.sql").read_text()


async def test_dump_makes_the_same_schema_again(database, tmp_path):
    await Migrator().up(database)
    dump = await Migrator().dump(database)
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(copy)) as connection:
        connection.executescript(dump)
    assert await Migrator().dump(copy) == dump


async def test_dump_ignores_layout_but_not_literals(folder, tmp_path):
    text = "CREATE TABLE t (a TEXT DEFAULT 'x  y', \"b c\" INT, CHECK (a <> ')')); CREATE TABLE u (a REFERENCES t);"
    laid_out = """
        CREATE TABLE  t ( a TEXT -- why (not)
            DEFAULT 'x  y' , "b c" /* ) */ INT,
            CHECK (a <> ')')
        );
        CREATE TABLE u (a REFERENCES "t");"""
    texts = [text, laid_out, text.replace("x  y", "x y")]
    dumps = []
    for number, text in enumerate(texts):
        with closing(sqlite3.connect(tmp_path / f"{number}.db")) as connection:
            connection.executescript(text)
        dumps.append(await Migrator(folder).dump(tmp_path / f"{number}.db"))
    assert dumps[0] == dumps[1]
    assert dumps[0] != dumps[2]


async def test_down_takes_back_the_newest_and_never_more_than_there_is(folder, database):
    migrator = Migrator(folder)
    await migrator.up(database)
    assert [step.version for step in await migrator.down(database, 2)] == [3, 2]
    assert [step.version for step in await migrator.down(database, 9)] == [1]
    assert await migrator.down(database) == []
    assert query(database, "PRAGMA user_version") == [(0,)]
    with pytest.raises(MigrationError, match="at least 1"):
        await migrator.down(database, 0)


async def test_up_to_a_version_behind_does_nothing(folder, database):
    migrator = Migrator(folder)
    await migrator.up(database)
    assert await migrator.up(database, 1) == []
    for version in (-1, 4):
        with pytest.raises(MigrationError, match="versions go from 0 to 3"):
            await migrator.up(database, version)
        with pytest.raises(MigrationError, match="versions go from 0 to 3"):
            await migrator.goto(database, version)


async def test_missing_down_is_found_before_anything_is_taken_back(folder, database):
    (folder / "0002_trigger.down.sql").unlink()
    migrator = Migrator(folder)
    await migrator.up(database)
    with pytest.raises(MigrationDownMissingError) as caught:
        await migrator.goto(database, 0)
    assert caught.value.version == 2
    assert (await migrator.status(database)).current == 3
    # The way out: a down file that is added later is no edit.
    write(folder, THREE)
    assert len(await Migrator(folder).goto(database, 0)) == 3


async def test_failed_statement_is_named_and_its_migration_undone(folder, database):
    write(
        folder,
        {"0004_bad": ("-- x\nCREATE TABLE extra (a);\n\n/* y */ INSERT INTO extra\nVALUES (1), (1, 2);", None)},
    )
    migrator = Migrator(folder)
    with pytest.raises(MigrationStatementError, match="all VALUES must have the same number of terms") as caught:
        await migrator.up(database)
    assert (caught.value.statement, caught.value.line) == (2, 4)
    assert caught.value.path == str(folder / "0004_bad.up.sql")
    assert (await migrator.status(database)).current == 3
    assert "extra" not in await migrator.dump(database)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO users (id, name) VALUES (?, 'x');",
        "INSERT OR ROLLBACK INTO users (id, name) VALUES (1, 'x'), (1, 'y');",
        "CREATE TRIGGER t AFTER INSERT ON extra BEGIN SELECT RAISE(ROLLBACK, ''); END; INSERT INTO extra VALUES (1);",
        "PRAGMA defer_foreign_keys = ON; INSERT INTO bets (user_id) VALUES (7);",
        "DROP TABLE schema_migrations;",
        "DELETE FROM schema_migrations WHERE version = 3;",
    ],
)
async def test_migration_that_fails_in_an_unusual_way_leaves_nothing_behind(folder, database, sql):
    write(folder, {"0004_odd": ("CREATE TABLE extra (a);\n" + sql, None)})
    migrator = Migrator(folder)
    await migrator.up(database, 3)
    with pytest.raises(MigrationError):
        await migrator.up(database)
    assert (await migrator.verify(database)).current == 3
    assert "extra" not in await migrator.dump(database)


async def test_edited_file_is_refused_until_it_is_put_back_or_accepted(folder, database):
    await Migrator(folder).up(database, 2)
    up = folder / "0002_trigger.up.sql"
    up.write_text(THREE["0002_trigger"][0] + "\n-- edited")
    migrator = Migrator(folder)
    for attempt in (migrator.up, migrator.down, migrator.status, migrator.plan, migrator.verify):
        with pytest.raises(MigrationEditedError) as caught:
            await attempt(database)
        assert (caught.value.version, caught.value.path) == (2, str(up))
    await migrator.baseline(database, 2)
    assert [step.version for step in await migrator.up(database)] == [3]


async def test_gap_missing_file_and_newer_schema_are_told_apart(folder, database):
    await Migrator(folder).up(database)
    texts = {path: path.read_text() for path in folder.iterdir()}
    for path in folder.glob("0003*"):
        path.unlink()
    with pytest.raises(SchemaTooNewError) as newer:
        await Migrator(folder).up(database)
    assert (newer.value.version, newer.value.head, newer.value.path) == (3, 2, str(database))
    assert str(database) in str(newer.value)
    for path, text in texts.items():
        path.write_text(text)
    for path in folder.glob("0002*"):
        path.unlink()
    with pytest.raises(MigrationMissingError, match="0002_trigger") as missing:
        await Migrator(folder).up(database)
    assert (missing.value.version, missing.value.path) == (2, "0002_trigger.up.sql")
    assert missing.value.database == str(database)
    with pytest.raises(MigrationGapError, match="0002") as gap:
        await Migrator(folder).up(database.with_name("new.db"))
    assert (gap.value.version, gap.value.path) == (2, str(folder / "0003_rebuild.up.sql"))
    assert not database.with_name("new.db").exists()


async def test_history_with_a_hole_is_refused(folder, database):
    await Migrator(folder).up(database)
    query(database, "DELETE FROM schema_migrations WHERE version = 2")
    with pytest.raises(MigrationGapError, match="never applied"):
        await Migrator(folder).status(database)


async def test_records_that_contradict_each_other_are_refused(folder, database):
    await Migrator(folder).up(database)
    query(database, "PRAGMA user_version = 2")
    with pytest.raises(MigrationError, match="contradicts itself") as caught:
        await Migrator(folder).up(database)
    assert (caught.value.user_version, caught.value.version) == (2, 3)
    await Migrator(folder).baseline(database, 3)
    await Migrator(folder).verify(database)


FOREIGN = {
    "mark": "PRAGMA application_id = 252006673; CREATE TABLE a (x);",
    "tables": "CREATE TABLE a (x);",
    "other tool": "CREATE TABLE schema_migrations (version TEXT);",
    "mark alone": "PRAGMA application_id = 1;",
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_database_of_something_else_is_refused_untouched(folder, database, kind, journal):
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.executescript(FOREIGN[kind])
    before = digests(database.parent)[database.name]
    migrator = Migrator(folder)
    for attempt in (migrator.up, migrator.down, migrator.status, migrator.plan, migrator.verify):
        with pytest.raises(NotBetcoreDatabaseError) as caught:
            await attempt(database)
        assert caught.value.path == str(database)
    assert digests(database.parent)[database.name] == before


async def test_file_that_is_no_database_is_refused_untouched(folder, database):
    database.write_text("this is a letter, not a database\n" * 100)
    with pytest.raises(NotBetcoreDatabaseError, match="not a database"):
        await Migrator(folder).up(database)
    assert database.read_text().startswith("this is a letter")
    assert sorted(path.name for path in database.parent.iterdir()) == ["a.db", "migrations"]


async def test_paths_that_cannot_be_opened_are_database_errors(folder, tmp_path):
    for path in (tmp_path, tmp_path / "no" / "such" / "folder.db"):
        with pytest.raises(DatabaseError):
            await Migrator(folder).up(path)


async def test_baseline_adopts_a_schema_that_was_made_in_another_way(folder, database):
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(THREE["0001_tables"][0])
    migrator = Migrator(folder)
    for version in (0, 4):
        with pytest.raises(MigrationError, match="versions go from 1 to 3"):
            await migrator.baseline(database, version)
    status = await migrator.baseline(database, 1)
    assert (status.current, [step.version for step in status.pending]) == (1, [2, 3])
    await migrator.up(database)
    await migrator.verify(database)
    with pytest.raises(MigrationError, match="history up to version 3"):
        await migrator.baseline(database, 1)


async def test_baseline_refuses_the_database_of_another_tool(folder, database):
    for kind in ("mark", "other tool"):
        database.unlink(missing_ok=True)
        with closing(sqlite3.connect(database)) as connection:
            connection.executescript(FOREIGN[kind])
        before = digests(database.parent)
        with pytest.raises(NotBetcoreDatabaseError):
            await Migrator(folder).baseline(database, 1)
        assert digests(database.parent) == before


async def test_verify_names_what_was_changed_by_hand(folder, database):
    migrator = Migrator(folder)
    await migrator.up(database)
    query(database, "DROP INDEX bets_by_user")
    query(database, "CREATE TABLE scratch (x)")
    query(database, "ALTER TABLE bets ADD COLUMN odd TEXT")
    with pytest.raises(SchemaDriftError) as caught:
        await migrator.verify(database)
    assert caught.value.missing == ["index bets_by_user"]
    assert caught.value.unexpected == ["table scratch"]
    assert caught.value.changed == ["table bets"]


async def test_table_rebuild_keeps_the_rows_that_refer_to_it(folder, database):
    migrator = Migrator(folder)
    await migrator.up(database, 2)
    query(database, "INSERT INTO users VALUES (1, NULL)")
    query(database, "INSERT INTO bets (user_id) VALUES (1)")
    await migrator.up(database)
    # With foreign keys on, DROP TABLE would have deleted the bet through ON DELETE CASCADE.
    assert query(database, "SELECT count(*) FROM bets") == [(1,)]


async def test_rebuild_that_loses_parents_is_refused_and_undone(folder, database):
    write(folder, {"0004_loss": ("-- betcore: foreign-keys-off\nDELETE FROM users;", None)})
    migrator = Migrator(folder)
    await migrator.up(database, 2)
    query(database, "INSERT INTO users VALUES (1, NULL)")
    query(database, "INSERT INTO bets (user_id) VALUES (1)")
    with pytest.raises(MigrationStatementError, match="bets row 1 refers to nothing in users"):
        await migrator.up(database)
    assert (await migrator.status(database)).current == 3
    assert query(database, "SELECT count(*) FROM users") == [(1,)]


@pytest.mark.parametrize("bad", ["SELECT no_such_function();", "DELETE FROM users;", "DROP TABLE bets;"])
@pytest.mark.parametrize("switch", ["ON", "OFF"])
def test_foreign_keys_are_back_whatever_became_of_the_migration(folder, bad, switch):
    write(folder, {"0004_odd": (f"-- betcore: foreign-keys-off\n{bad}", None)})
    migrations = load_migrations(folder)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA foreign_keys = {switch}")
        migrate_connection(connection, migrations, 2)
        connection.execute("INSERT INTO users VALUES (1, 'x')")
        connection.execute("INSERT INTO bets (user_id) VALUES (1)")
        try:
            migrate_connection(connection, migrations)
        except MigrationStatementError:
            assert "DROP" not in bad
        else:
            assert "DROP" in bad
        assert not connection.in_transaction
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (int(switch == "ON"),)


@pytest.mark.parametrize("journal", ["OFF", "MEMORY", "DELETE", "WAL"])
def test_connection_of_any_journal_mode_is_brought_to_head(tmp_path, journal):
    migrations = load_migrations(shipped_folder())
    with closing(sqlite3.connect(tmp_path / "staging.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        assert len(migrate_connection(connection, migrations)) == len(migrations)
        assert migrate_connection(connection, migrations) == []
        connection.execute("BEGIN")
        with pytest.raises(MigrationError, match="not inside a transaction"):
            migrate_connection(connection, migrations)


NO_TRANSACTION = (
    "-- betcore: no-transaction\n"
    "PRAGMA auto_vacuum = INCREMENTAL;\n"
    "CREATE TABLE log (x);\n"
    "INSERT INTO log VALUES (1);\n"
    "VACUUM;\n"
    "INSERT INTO log SELECT {column} FROM log;\n"
    "INSERT INTO log VALUES (3);"
)


async def test_script_without_a_transaction_runs_what_a_transaction_refuses(folder, database):
    write(
        folder, {"0004_vacuum": (NO_TRANSACTION.format(column="x + 1"), "-- betcore: no-transaction\nDROP TABLE log;")}
    )
    migrator = Migrator(folder)
    await migrator.up(database)
    assert query(database, "PRAGMA auto_vacuum") == [(2,)]
    assert query(database, "SELECT x FROM log") == [(1,), (2,), (3,)]
    assert (await migrator.verify(database)).unfinished is None
    assert query(database, "SELECT name FROM sqlite_schema WHERE name LIKE '%unfinished%'") == []
    await migrator.down(database)
    assert (await migrator.verify(database)).current == 3


async def test_cut_script_without_a_transaction_is_reported_and_resumed_behind_what_was_done(folder, database):
    path = folder / "0004_vacuum.up.sql"
    write(
        folder, {"0004_vacuum": (NO_TRANSACTION.format(column="wrong"), "-- betcore: no-transaction\nDROP TABLE log;")}
    )
    migrator = Migrator(folder, clock=ManualClock(NOON))
    with pytest.raises(MigrationStatementError) as caught:
        await migrator.up(database)
    assert (caught.value.statement, caught.value.line) == (5, 6)
    status = await migrator.status(database)
    assert (status.current, status.up_to_date) == (3, False)
    assert (status.unfinished.version, status.unfinished.direction, status.unfinished.statements_done) == (4, "up", 4)
    for attempt in (migrator.down(database), migrator.goto(database, 1), migrator.up(database, 3)):
        if attempt.__name__ == "up":
            assert await attempt == []
            continue
        with pytest.raises(MigrationError, match="go up to finish it first"):
            await attempt

    path.write_text(NO_TRANSACTION.format(column="x + 1").replace("VALUES (1)", "VALUES (9)"))
    with pytest.raises(MigrationEditedError, match="statement 4"):
        await Migrator(folder).up(database)
    path.write_text(NO_TRANSACTION.format(column="x + 1"))  # the culprit may be mended, what was done may not
    (step,) = await Migrator(folder, clock=ManualClock(NOON + timedelta(seconds=3))).up(database)
    assert (step.version, step.duration_ms) == (4, 3000)
    assert query(database, "SELECT x FROM log") == [(1,), (2,), (3,)]
    assert (await Migrator(folder).verify(database)).up_to_date


async def test_cut_step_down_is_resumed_and_keeps_up_from_running(folder, database):
    down = "-- betcore: no-transaction\nDROP TABLE log;\nDROP TABLE extra;"
    write(folder, {"0004_log": ("CREATE TABLE log (x);", down)})
    migrator = Migrator(folder)
    await migrator.up(database)
    with pytest.raises(MigrationStatementError):
        await migrator.down(database)
    status = await migrator.status(database)
    assert (status.current, status.unfinished.direction, status.unfinished.statements_done) == (4, "down", 1)
    with pytest.raises(MigrationError, match="go down to finish it first"):
        await migrator.up(database)
    query(database, "CREATE TABLE extra (x)")
    assert [step.version for step in await migrator.down(database)] == [4]
    assert (await migrator.verify(database)).current == 3


async def test_lock_of_another_is_waited_out(folder, database, monkeypatch):
    refused = asyncio.Event()
    monkeypatch.setattr(retry, "backoff", lambda _: refused.set() or 0.001)
    await Migrator(folder).up(database, 1)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyTimeoutError) as caught:
            await Migrator(folder, settings=IMPATIENT).up(database)
        assert caught.value.waited >= 0.3
        assert caught.value.attempts > 1
        waiting = asyncio.ensure_future(Migrator(folder).up(database))
        refused.clear()
        await refused.wait()
        other.execute("COMMIT")
        assert [step.version for step in await waiting] == [2, 3]


async def test_nothing_to_do_needs_no_lock(folder, database):
    await Migrator(folder).up(database)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await Migrator(folder, settings=IMPATIENT).up(database) == []


async def test_running_process_keeps_the_migrations_it_started_with(folder, database):
    migrator = Migrator(folder)
    await migrator.up(database, 2)
    write(folder, {"0004_later": ("CREATE TABLE later (x);", None)})
    await migrator.up(database)
    assert (await Migrator(folder).status(database)).current == 3


async def test_sealed_file_is_replaced_by_a_migrated_copy(folder, database):
    migrator = Migrator(folder)
    await migrator.up(database, 1)
    query(database, "PRAGMA journal_mode = DELETE")
    database.chmod(0o400)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
        assert len(await migrator.up(database)) == 2
        assert reader.execute("SELECT count(*) FROM schema_migrations").fetchone() == (1,)  # the old file, whole
    assert database.stat().st_mode & 0o777 == 0o400
    assert (await migrator.verify(database)).current == 3
    assert query(database, "PRAGMA journal_mode") == [("delete",)]
    await migrator.down(database, 2)
    await migrator.baseline(database, 1)
    assert sorted(path.name for path in database.parent.iterdir()) == ["a.db", "migrations"]


async def test_sealed_file_stays_as_it_was_when_its_migration_fails(folder, database):
    write(folder, {"0004_bad": ("CREATE TABLE extra (x); SELECT no_such_function();", None)})
    migrator = Migrator(folder)
    await migrator.up(database, 1)
    query(database, "PRAGMA journal_mode = DELETE")
    database.chmod(0o400)
    before = digests(database.parent)
    with pytest.raises(MigrationStatementError):
        await migrator.up(database)
    assert digests(database.parent) == before


async def test_sealed_file_with_changes_beside_it_is_not_replaced(database):
    query(database, "CREATE TABLE t (x)")
    log = database.with_name("a.db-wal")
    log.write_bytes(b"commits that are not in the file yet")  # would be played into whatever takes the file's place
    before = digests(database.parent)
    with pytest.raises(DatabaseError, match="chmod u\\+w"):
        await rewrite(database, lambda _: [1])
    assert digests(database.parent) == before


async def test_sealed_file_with_nothing_to_change_is_not_replaced(folder, database):
    await Migrator(folder).up(database)
    query(database, "PRAGMA journal_mode = DELETE")
    database.chmod(0o400)
    inode = database.stat().st_ino
    assert await rewrite(database, lambda _: []) == []
    await Migrator(folder).baseline(database, 3)  # on record already
    assert database.stat().st_ino == inode
    (folder / "0003_rebuild.up.sql").write_text(REBUILD + "-- edited")
    await Migrator(folder).baseline(database, 3)
    assert database.stat().st_ino != inode
    assert (await Migrator(folder).verify(database)).current == 3


async def test_sealed_file_migrated_by_many_at_once_takes_each_step_once(folder, database):
    await Migrator(folder).up(database, 1)
    query(database, "PRAGMA journal_mode = DELETE")
    database.chmod(0o400)
    # One of them knows fewer migrations: its copy must not take the place of a newer one.
    older = shutil.copytree(folder, folder.with_name("older"))
    for path in older.glob("0003*"):
        path.unlink()
    migrators = [Migrator(source) for source in (folder, older, folder, older, folder)]
    taken = await asyncio.gather(*(migrator.up(database) for migrator in migrators), return_exceptions=True)
    assert {type(steps) for steps in taken} <= {list, SchemaTooNewError}  # the older code may come too late
    steps = sorted(step.version for steps in taken if isinstance(steps, list) for step in steps)
    assert steps == [2, 3]
    assert (await Migrator(folder).verify(database)).current == 3
    assert sorted(path.name for path in database.parent.iterdir()) == ["a.db", "migrations", "older"]


async def test_folder_that_cannot_be_used_is_an_error_of_its_own(tmp_path, database):
    with pytest.raises(MigrationFileError):
        await Migrator(tmp_path / "nowhere").up(database)
    assert not database.exists()
