"""Migrations as real projects write them: rebuilds, triggers that keep tables in step, full-text search, backfills."""

import sqlite3
from contextlib import closing

import pytest

from betcore_async.errors import MigrationStatementError
from betcore_async.sqlite.migrations import Migrator

# A shop, in the order in which such a schema grows. Literals, comments and triggers are full of semicolons on purpose.
SHOP = {
    "0001_shop": (
        """
        /* Customers; orders; lines. */
        CREATE TABLE customers (
            id    INTEGER PRIMARY KEY,
            email TEXT NOT NULL UNIQUE COLLATE NOCASE CHECK (email LIKE '%_@_%'), -- no more; no less
            plan  TEXT NOT NULL DEFAULT 'free;trial'
        );
        CREATE TABLE orders (
            id          INTEGER PRIMARY KEY,
            customer_id INTEGER NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
            state       TEXT NOT NULL DEFAULT 'open',
            total       REAL NOT NULL DEFAULT 0
        );
        CREATE TABLE lines (
            order_id INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
            place    INTEGER NOT NULL,
            cents    INTEGER NOT NULL,
            note     TEXT,
            PRIMARY KEY (order_id, place)
        ) WITHOUT ROWID;
        INSERT INTO customers (id, email) VALUES (1, 'a;b@example.org'), (2, 'it''s@example.org');
        INSERT INTO orders (id, customer_id, total) VALUES (1, 1, 12.5), (2, 2, 0.1);
        INSERT INTO lines VALUES (1, 1, 1000, 'red;'), (1, 2, 250, NULL), (2, 1, 10, '-- no comment');
        """,
        "DROP TABLE lines; DROP TABLE orders; DROP TABLE customers;",
    ),
    "0002_totals": (
        """
        CREATE TRIGGER lines_add_up AFTER INSERT ON lines
        BEGIN
            UPDATE orders
            SET total = total + NEW.cents / 100.0, state = CASE WHEN state = 'empty' THEN 'open' ELSE state END
            WHERE id = NEW.order_id;
        END;
        CREATE TRIGGER lines_are_fixed BEFORE UPDATE ON lines WHEN OLD.cents <> NEW.cents
        BEGIN
            SELECT RAISE(ABORT, 'no; never');
        END;
        CREATE VIEW sums AS SELECT order_id, sum(cents) AS cents FROM lines GROUP BY order_id;
        CREATE INDEX orders_open ON orders (customer_id) WHERE state = 'open';
        """,
        "DROP INDEX orders_open; DROP VIEW sums; DROP TRIGGER lines_are_fixed; DROP TRIGGER lines_add_up;",
    ),
    # The twelve steps of https://www.sqlite.org/lang_altertable.html, for money that was a float.
    "0003_cents": (
        """-- betcore: foreign-keys-off
        DROP VIEW sums;
        DROP TRIGGER lines_add_up;
        CREATE TABLE new_orders (
            id          INTEGER PRIMARY KEY,
            customer_id INTEGER NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
            state       TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('empty', 'open', 'paid')),
            cents       INTEGER NOT NULL DEFAULT 0 CHECK (cents >= 0)
        ) STRICT;
        INSERT INTO new_orders SELECT id, customer_id, state, CAST(round(total * 100) AS INTEGER) FROM orders;
        DROP TABLE orders;
        ALTER TABLE new_orders RENAME TO orders;
        CREATE INDEX orders_open ON orders (customer_id) WHERE state = 'open';
        CREATE TRIGGER lines_add_up AFTER INSERT ON lines
        BEGIN
            UPDATE orders SET cents = cents + NEW.cents WHERE id = NEW.order_id;
        END;
        CREATE VIEW sums AS SELECT order_id, sum(cents) AS cents FROM lines GROUP BY order_id;
        """,
        """-- betcore: foreign-keys-off
        DROP VIEW sums;
        DROP TRIGGER lines_add_up;
        CREATE TABLE old_orders (
            id          INTEGER PRIMARY KEY,
            customer_id INTEGER NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
            state       TEXT NOT NULL DEFAULT 'open',
            total       REAL NOT NULL DEFAULT 0
        );
        INSERT INTO old_orders SELECT id, customer_id, state, cents / 100.0 FROM orders;
        DROP TABLE orders;
        ALTER TABLE old_orders RENAME TO orders;
        CREATE INDEX orders_open ON orders (customer_id) WHERE state = 'open';
        CREATE TRIGGER lines_add_up AFTER INSERT ON lines
        BEGIN
            UPDATE orders
            SET total = total + NEW.cents / 100.0, state = CASE WHEN state = 'empty' THEN 'open' ELSE state END
            WHERE id = NEW.order_id;
        END;
        CREATE VIEW sums AS SELECT order_id, sum(cents) AS cents FROM lines GROUP BY order_id;
        """,
    ),
    "0004_search": (
        """
        CREATE VIRTUAL TABLE notes USING fts5 (note, content='', tokenize="unicode61 remove_diacritics 2");
        INSERT INTO notes (rowid, note) SELECT order_id * 1000 + place, note FROM lines WHERE note IS NOT NULL;
        CREATE TRIGGER lines_are_found AFTER INSERT ON lines WHEN NEW.note IS NOT NULL
        BEGIN
            INSERT INTO notes (rowid, note) VALUES (NEW.order_id * 1000 + NEW.place, NEW.note);
        END;
        """,
        "DROP TRIGGER lines_are_found; DROP TABLE notes;",
    ),
    "0005_history": (
        """
        CREATE TABLE changes (at INTEGER NOT NULL DEFAULT (unixepoch()), what TEXT NOT NULL CHECK (what GLOB '*:*'));
        CREATE TRIGGER customers_are_watched AFTER UPDATE OF plan ON customers
        BEGIN
            INSERT INTO changes (what) SELECT 'plan:' || NEW.id || OLD.plan || '; ' || NEW.plan;
            DELETE FROM changes WHERE rowid <= (SELECT max(rowid) - 100 FROM changes);
        END;
        UPDATE customers SET plan = 'begin; commit; end;' WHERE id = 1;
        WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 250)
        INSERT INTO changes (what) SELECT 'n:' || n FROM numbers;
        """,
        "DROP TRIGGER customers_are_watched; DROP TABLE changes;",
    ),
    "0006_tidy": ("-- betcore: no-transaction\nANALYZE;\nVACUUM;", "SELECT 1;"),
}


@pytest.fixture(params=["lf", "crlf and bom"])
def folder(tmp_path, request):
    folder = tmp_path / "migrations"
    folder.mkdir()
    for name, texts in SHOP.items():
        for direction, text in zip(("up", "down"), texts, strict=True):
            content = text.encode()
            if request.param != "lf":
                content = b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")
            (folder / f"{name}.{direction}.sql").write_bytes(content)
    return folder


async def test_a_schema_grows_over_rebuilds_with_all_its_rows_and_goes_back(folder, tmp_path):
    database, migrator = tmp_path / "shop.db", Migrator(folder)
    assert [step.version for step in await migrator.up(database)] == [1, 2, 3, 4, 5, 6]
    await migrator.verify(database)
    with closing(sqlite3.connect(database, isolation_level=None)) as raw:
        raw.execute("PRAGMA foreign_keys = ON")
        assert raw.execute("SELECT id, cents FROM orders").fetchall() == [(1, 1250), (2, 10)]
        assert raw.execute("SELECT count(*) FROM lines").fetchone() == (3,)  # none fell to the CASCADE of the rebuild
        raw.execute("INSERT INTO lines VALUES (2, 2, 90, 'Crème brûlée; twice')")
        assert raw.execute("SELECT cents FROM orders WHERE id = 2").fetchone() == (100,)
        assert raw.execute("SELECT rowid FROM notes WHERE notes MATCH 'brulee'").fetchall() == [(2002,)]
        with pytest.raises(sqlite3.IntegrityError, match="no; never"):
            raw.execute("UPDATE lines SET cents = 0")
        changes = [what for (what,) in raw.execute("SELECT what FROM changes WHERE what LIKE 'plan%'")]
        assert changes == ["plan:1free;trial; begin; commit; end;"]
        raw.execute("DELETE FROM customers WHERE id = 1")
        assert raw.execute("SELECT count(*) FROM lines").fetchone() == (2,)
    await migrator.goto(database, 2)
    with closing(sqlite3.connect(database)) as raw:
        assert raw.execute("SELECT id, total FROM orders").fetchall() == [(2, 1.0)]
    await migrator.up(database)
    await migrator.verify(database)


async def test_every_version_goes_down_and_up_to_the_same_schema(folder, tmp_path):
    database, migrator = tmp_path / "shop.db", Migrator(folder)
    for version in range(1, 7):
        before = await migrator.schema(version - 1)
        await migrator.up(database, version)
        assert await migrator.dump(database) == await migrator.schema(version)
        await migrator.down(database)
        assert await migrator.dump(database) == before
        await migrator.up(database, version)


async def test_a_rebuild_that_forgets_rows_others_refer_to_is_undone(folder, tmp_path):
    database = tmp_path / "shop.db"
    (folder / "0007_careless.up.sql").write_text("""-- betcore: foreign-keys-off
        CREATE TABLE new_customers (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE);
        INSERT INTO new_customers SELECT id, email FROM customers WHERE id = 1;
        DROP TABLE customers;
        ALTER TABLE new_customers RENAME TO customers;
    """)
    migrator = Migrator(folder)
    with pytest.raises(MigrationStatementError, match="without their parents: orders row 2"):
        await migrator.up(database)
    assert (await migrator.verify(database)).current == 6
    with closing(sqlite3.connect(database)) as raw:
        assert raw.execute("SELECT count(*) FROM customers").fetchone() == (2,)
