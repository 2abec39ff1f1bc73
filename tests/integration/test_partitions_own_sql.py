"""SQL of the user's own over more files than can be attached: the answer of one big database, or none."""

import asyncio
import random
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weekly_files import ALWAYS, Platform, W, direct, platform

from betcore_async.clock import to_microseconds
from betcore_async.errors import PartitionError, PartitionMissingError
from betcore_async.models import Bet, User
from betcore_async.partitions.merging import ENTRY_COLUMNS, merge_of

WEEKS = 24  # three groups of files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Many weeks of random bets, some of which are decided many weeks later, or never."""
    folder, rolls = tmp_path_factory.mktemp("many"), random.Random(11)

    async def build() -> None:
        async with platform(folder) as it:
            users = [(await it.users.create(f"0x{number}", 10_000)).id for number in range(4)]
            waiting = []
            for number in range(WEEKS):
                for _ in range(rolls.randrange(12)):
                    cell = f"cell-{rolls.randrange(5)}"
                    waiting.append((await it.bets.place(rolls.choice(users), cell, rolls.randrange(1, 40), 1.5)).id)
                    it.clock.advance(timedelta(minutes=rolls.randrange(500)))
                rolls.shuffle(waiting)
                for bet in waiting[: len(waiting) * 2 // 3]:
                    await it.bets.settle(bet, won=rolls.random() < 0.5)
                waiting = waiting[len(waiting) * 2 // 3 :]
                if number < WEEKS - 1:
                    await it.next_week()

    asyncio.run(build())
    return folder


@pytest.fixture(scope="module")
def big(folder):
    """One database with all the rows: each bet as the newest file has it."""
    with closing(sqlite3.connect(":memory:")) as raw:
        for path in sorted(folder.glob("bets-*.db")):
            with direct(path) as week:
                for table in ("bets", "ledger_entries", "users"):
                    rows = week.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()
                    raw.execute(f"CREATE TABLE IF NOT EXISTS all_{table} AS SELECT {columns(week, table)} WHERE 0")
                    raw.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {table}_id ON all_{table} (id)")
                    raw.executemany(
                        f"INSERT OR REPLACE INTO all_{table} VALUES ({', '.join('?' * len(rows[0]))})", rows
                    )
        yield raw


def columns(raw, table):
    names = (row[1] for row in raw.execute(f"PRAGMA table_info({table})"))
    return ", ".join(f"NULL AS {name}" for name in names)


def oracle(big, sql, parameters, span):
    start, end = map(to_microseconds, span)
    big.executescript(
        "DROP VIEW IF EXISTS bets; DROP VIEW IF EXISTS ledger_entries; DROP VIEW IF EXISTS users;"
        f"CREATE VIEW bets AS SELECT {Bet.COLUMNS} FROM all_bets WHERE placed_at >= {start} AND placed_at < {end};"
        f"CREATE VIEW ledger_entries AS SELECT {ENTRY_COLUMNS} FROM all_ledger_entries "
        f"WHERE created_at >= {start} AND created_at < {end} AND ref_type <> 'carry_forward';"
        f"CREATE VIEW users AS SELECT {User.COLUMNS} FROM all_users;"
    )
    cursor = big.execute(sql, parameters)
    return [column[0] for column in cursor.description], cursor.fetchall()


async def ask(it: Platform, sql, parameters=(), span=ALWAYS):
    rows = await it.manager.query(sql, parameters, start=span[0], end=span[1])
    return [tuple(row) for row in rows]


QUERIES = [
    ("SELECT count(*) FROM bets", ()),
    ("SELECT count(*), sum(amount), min(amount), max(placed_at), total(payout_amount), avg(amount) FROM bets;", ()),
    ("SELECT coalesce(sum(amount), 0) - 5 AS staked FROM bets WHERE amount > ?", (1000,)),
    ("SELECT avg(amount), sum(amount), max(amount) FROM bets WHERE amount > 1000", ()),
    ("SELECT count(*) FILTER (WHERE status = 'won') * 100.0 / count(*) AS rate FROM bets", ()),
    ("SELECT max(sum(amount), 10, min(amount)) FROM bets", ()),
    ("SELECT status, count(*) AS n FROM bets GROUP BY status ORDER BY n DESC, status", ()),
    ("SELECT status, count(*) FROM bets GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 2", ()),
    ("SELECT b.cell_id, sum(b.amount) AS amount FROM bets AS b GROUP BY b.cell_id ORDER BY amount, b.cell_id", ()),
    ("SELECT cell_id, count(*) FROM bets GROUP BY cell_id, status ORDER BY cell_id, count(*) LIMIT :n", {"n": 7}),
    ("SELECT placed_at / 86400000000 AS day, sum(amount) FROM bets GROUP BY day ORDER BY day", ()),
    ("SELECT user_id, count(*) FROM bets WHERE status = ? GROUP BY user_id ORDER BY 2, 1 LIMIT ?", ("won", 3)),
    (
        """SELECT u.wallet_address, sum(b.payout_amount) AS won FROM bets b JOIN users AS u ON u.id = b.user_id
        GROUP BY u.wallet_address ORDER BY won DESC NULLS LAST, 1""",
        (),
    ),
    ("SELECT id FROM bets ORDER BY placed_at DESC, id LIMIT ?", (5,)),
    ("SELECT * FROM bets ORDER BY amount, id COLLATE NOCASE DESC", ()),
    ("SELECT *, amount * 2 AS twice FROM bets ORDER BY twice DESC, bets.id LIMIT 9", ()),
    ("SELECT id AS [the id], -amount AS amount FROM bets ORDER BY amount, 1 LIMIT 20", ()),
    ("SELECT id, resolved_at FROM bets ORDER BY resolved_at NULLS LAST, id LIMIT 1000", ()),
    ("SELECT id FROM bets ORDER BY id LIMIT ?", (-1,)),
    ("SELECT id FROM bets ORDER BY id LIMIT 0", ()),
    ("SELECT count(*) FROM bets LIMIT 0", ()),
    ("SELECT ref_type, sum(amount), count(*) FROM ledger_entries GROUP BY ref_type ORDER BY ref_type", ()),
    ("SELECT e.id, u.balance FROM ledger_entries e LEFT JOIN users u ON u.id = e.user_id ORDER BY e.id", ()),
    ("SELECT /* from */ 'x -- GROUP BY' AS text, id -- where\nFROM bets ORDER BY id", ()),
    ('SELECT "status", COUNT ( * ) FROM "bets" GROUP BY "status" ORDER BY "status"', ()),
    ("SELECT 7 AS seven, ((bets.status)), count(*) FROM bets GROUP BY 1, 2 ORDER BY 2, 1", ()),
    ("SELECT CASE WHEN sum(amount) > 10 THEN 'many' ELSE 'few' END AS how FROM bets", ()),
]


@pytest.mark.parametrize(("sql", "parameters"), QUERIES)
@pytest.mark.parametrize("span", [ALWAYS, (W[2].start + timedelta(days=1), W[18].start + timedelta(hours=9))])
async def test_what_can_be_merged_is_what_one_big_database_answers(folder, big, sql, parameters, span):
    async with platform(folder, W[WEEKS - 1]) as it:
        rows = await it.manager.query(sql, parameters, start=span[0], end=span[1])
        names, expected = oracle(big, sql, parameters, span)
        assert [tuple(row) for row in rows] == expected
        assert all(list(row.keys()) == names for row in rows)


@pytest.mark.parametrize("sql", ["SELECT id FROM bets", "SELECT user_id FROM bets WHERE amount > 5 LIMIT 40"])
async def test_rows_without_an_order_are_all_there(folder, big, sql):
    async with platform(folder, W[WEEKS - 1]) as it:
        found, (_, expected) = await ask(it, sql), oracle(big, sql.partition(" LIMIT")[0], (), ALWAYS)
        assert len(found) == (40 if "LIMIT" in sql else len(expected))
        assert "LIMIT" in sql or sorted(found) == sorted(expected)


moments = st.integers(0, WEEKS * 7 * 24).map(lambda hours: W[0].start + timedelta(hours=hours)) | st.sampled_from(
    ALWAYS
)
keys = st.lists(st.sampled_from(["status", "cell_id", "user_id", "amount % 3"]), max_size=2, unique=True)
sums = st.lists(
    st.sampled_from(
        ["count(*)", "sum(amount)", "min(placed_at)", "max(id)", "sum(payout_amount)", "count(resolved_at)"]
    ),
    min_size=1,
    max_size=3,
    unique=True,
)
wheres = st.sampled_from(["", "WHERE status = 'won'", "WHERE amount BETWEEN 10 AND 30", "WHERE status IN ('pending')"])
limits = st.sampled_from(["", "LIMIT 1", "LIMIT 4"])


@settings(max_examples=30)
@given(span=st.tuples(moments, moments), keys=keys, sums=sums, where=wheres, limit=limits)
async def test_random_sums_over_random_weeks_are_those_of_one_big_database(folder, big, span, keys, sums, where, limit):  # noqa: PLR0917 - given by Hypothesis
    span, order = sorted(span), ", ".join(str(number) for number in range(1, len(keys) + len(sums) + 1))
    grouped = f"GROUP BY {', '.join(keys)}" if keys else ""
    sql = f"SELECT {', '.join(keys + sums)} FROM bets {where} {grouped} ORDER BY {order} {limit}"
    rows = (
        f"SELECT id, {', '.join([*keys, 'status'])}, payout_amount FROM bets {where} ORDER BY amount DESC, id {limit}"
    )
    async with platform(folder, W[WEEKS - 1]) as it:
        assert await ask(it, sql, (), span) == oracle(big, sql, (), span)[1]
        assert await ask(it, rows, (), span) == oracle(big, rows, (), span)[1]


REFUSED = {
    "SELECT b.id FROM bets b JOIN ledger_entries e ON e.ref_id = b.id": "named once",
    "SELECT e.id FROM ledger_entries e, bets": "named once",
    "SELECT a.id FROM bets a, bets b": "named once",
    "SELECT id FROM bets WHERE id IN bets": "named once",
    "SELECT id FROM bets WHERE id IN 'bets'": "'bets'",
    "SELECT count(*) FROM bets WHERE cell_id NOT IN cell_settlements": "IN cell_settlements",
    "SELECT count(*) FROM users": "named once",
    "SELECT users.id FROM users LEFT JOIN bets ON user_id = users.id": "named once",
    "SELECT bets.id FROM bets RIGHT JOIN users ON user_id = users.id": "RIGHT JOIN",
    "SELECT 1": "one SELECT",
    "SELECT id FROM bets UNION SELECT id FROM bets": "UNION",
    "WITH b AS (SELECT * FROM bets) SELECT count(*) FROM b": "WITH",
    "SELECT id FROM (SELECT * FROM bets)": "inside another",
    "SELECT id FROM bets WHERE amount = (SELECT max(amount) FROM bets)": "inside another",
    "SELECT id FROM bets WHERE EXISTS (VALUES (1))": "EXISTS",
    "SELECT DISTINCT user_id FROM bets": "DISTINCT",
    "SELECT count(DISTINCT user_id) FROM bets": "DISTINCT",
    "SELECT id, row_number() OVER (ORDER BY id) FROM bets": "row_number",
    "SELECT id, count(*) OVER () AS n FROM bets": "window function",
    "SELECT cell_id FROM bets GROUP BY cell_id HAVING count(*) > 1": "HAVING",
    "SELECT id FROM bets ORDER BY id LIMIT 5 OFFSET 5": "OFFSET",
    "SELECT id FROM bets ORDER BY id LIMIT 5, 5": "LIMIT that is not",
    "SELECT id FROM bets LIMIT 2 + 2": "LIMIT that is not",
    "SELECT id FROM bets ORDER BY random() LIMIT 5": "random",
    "SELECT id FROM bets ORDER BY amount * 2": "ORDER BY amount",
    "SELECT id COLLATE NOCASE AS i FROM bets ORDER BY i": "COLLATE",
    "SELECT group_concat(id) FROM bets": "group_concat",
    "SELECT json_group_array(id) FROM bets": "json_group_array",
    'SELECT "count"(*) FROM bets': '"count"',
    "SELECT [max](amount) FROM bets": "max",
    "SELECT id, max(amount) FROM bets": "neither a count",
    "SELECT cell_id, amount, count(*) FROM bets GROUP BY cell_id": "neither a count",
    "SELECT sum(amount) + amount FROM bets": "beside an aggregate",
    "SELECT sum(amount) + ? FROM bets": "outside WHERE",
    "SELECT id n FROM bets ORDER BY n": "without AS",
    "SELECT upper(status) AS status, count(*) FROM bets GROUP BY status": "name of a column",
    "SELECT amount, -amount AS amount FROM bets ORDER BY amount": "ORDER BY amount",
    "SELECT count(*) FROM bets GROUP BY cell_id ORDER BY status": "not one of the columns",
    "SELECT id FROM bets ORDER BY 7": "ORDER BY 7",
    "SELECT id FROM bets ORDER BY 2, amount": "ORDER BY 2",
    "SELECT id FROM bets ORDER BY 0": "ORDER BY 0",
    "SELECT id FROM bets WHERE id = ?1": "use",
    "SELECT id FROM w2026_20.bets": "named once",
    "SELECT name FROM sqlite_schema": "sqlite_schema",
    "SELECT id FROM bets; SELECT 1": ";",
    "": "one SELECT",
    "DELETE FROM bets": "one SELECT",
    "PRAGMA user_version": "one SELECT",
    "ATTACH DATABASE 'other.db' AS other": "one SELECT",
}


BY_RUNNING = {
    "SELECT amount, -amount AS amount FROM bets ORDER BY amount",
    *(f"SELECT id FROM bets ORDER BY {term}" for term in ("7", "2, amount", "0")),
}


@pytest.mark.parametrize("sql", sorted(REFUSED.keys() - BY_RUNNING))
def test_what_cannot_be_merged_for_certain_is_refused_and_says_why(sql):
    with pytest.raises(PartitionError, match=REFUSED[sql]) as caught:
        merge_of(sql)
    assert "narrow the range" in caught.value.message


async def test_what_is_refused_over_many_files_leaves_nothing_behind_that_changes_the_next_answer(folder):
    async with platform(folder, W[WEEKS - 1]) as it:
        count = await it.manager.count_bets(*ALWAYS)
        for sql in (*BY_RUNNING, "DELETE FROM bets", "SELECT id FROM bets, ledger_entries"):
            with pytest.raises(PartitionError, match=REFUSED.get(sql, "cannot be put together")):
                await ask(it, sql)
            with pytest.raises(sqlite3.OperationalError):
                await ask(it, "SELECT count(*) FROM bets WHERE nothing = 1")
            assert await ask(it, "SELECT count(*) FROM bets") == [(count,)]


@pytest.mark.parametrize("limit", [None, "many", 1.5, True])
async def test_a_limit_that_is_no_whole_number_is_refused(folder, limit):
    async with platform(folder, W[WEEKS - 1]) as it:
        with pytest.raises(PartitionError, match="not a whole number"):
            await ask(it, "SELECT id FROM bets ORDER BY id LIMIT ?", (limit,))


WRITES = [
    "SELECT id FROM bets WHERE load_extension('x')",
    "SELECT load_extension(id) FROM bets",
    "SELECT fts3_tokenizer(id) FROM bets",
    "SELECT id FROM bets ORDER BY writefile(id)",
]


@pytest.mark.parametrize("sql", WRITES)
async def test_functions_that_are_not_known_to_be_harmless_never_run(folder, sql):
    async with platform(folder, W[WEEKS - 1]) as it:
        with pytest.raises(PartitionError):
            await ask(it, sql)


async def test_an_old_range_reaches_no_further_than_its_last_bet_was_open(tmp_path):
    async with platform(tmp_path / "data") as it:
        user = await it.users.create("0xabc", 1000)
        bet = await it.bets.place(user.id, "cell", 10, 2.0)
        for _ in range(3):
            await it.next_week()
        await it.bets.settle(bet.id, won=True)
        for _ in range(12):
            await it.next_week()
        span = (W[0].start, W[2].end)
        assert await ask(it, "SELECT (SELECT status FROM bets), balance FROM users", (), span) == [("won", 1010)]
        attached = set().union(*(scanner._attached for scanner in it.manager._reading.scanners._scanners))
        assert attached == {*W[:4], W[15]}


async def test_where_a_week_is_missing_only_what_fits_one_connection_is_answered(tmp_path):
    async with platform(tmp_path / "data") as it:
        user = await it.users.create("0xabc", 1000)
        for number in range(13):
            bet = await it.bets.place(user.id, "cell", 10, 2.0)
            if number == 5:
                await it.next_week()
                await it.bets.settle(bet.id, won=True)
            await it.next_week()
        await it.manager.detach_partition(W[6])
        sql = "SELECT count(*) FROM bets"
        with pytest.raises(PartitionMissingError):
            await ask(it, sql)
        with pytest.raises(PartitionError, match="weeks missing"):
            await it.manager.query(sql, start=W[0].start, end=ALWAYS[1], allow_partial=True)
        rows = await it.manager.query(sql, start=W[5].start, end=ALWAYS[1], allow_partial=True)
        assert rows[0][0] == 8


async def test_a_question_over_many_files_is_interrupted_by_a_cancel(folder):
    async with platform(folder, W[WEEKS - 1]) as it:
        users = ", ".join(f"users u{number}" for number in range(40))  # 4 to the 40th rows
        work = asyncio.create_task(ask(it, f"SELECT count(*) FROM bets, {users}"))
        await asyncio.wait([work], timeout=0.1)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert await ask(it, "SELECT count(*) FROM bets") == [(await it.manager.count_bets(*ALWAYS),)]


def test_the_text_of_the_user_is_cut_and_never_rewritten():
    merge = merge_of(
        "SELECT  x'AB'  AS y , amount+ 1 FROM bets -- end\n WHERE cell_id = 'it''s; ORDER BY' ORDER BY y ;"
    )
    assert merge.partial == "SELECT x'AB'  AS y , amount+ 1 FROM bets WHERE cell_id = 'it''s; ORDER BY'"
