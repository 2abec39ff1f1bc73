"""The hash chain of the ledger: every path that writes entries extends it, and nothing else fits into it."""

import asyncio
import contextlib
import hashlib
import json
import shutil
from itertools import pairwise

import pytest
from ledger_files import CELL, NOON, WEEK, by_hand, open_books, path_of

from betcore_async.clock import ManualClock
from betcore_async.config import Durability
from betcore_async.errors import InsufficientFundsError
from betcore_async.partitions.chain import CHAINED, ROWS_AT_A_TIME
from betcore_async.sqlite.migrations import Migrator
from betcore_async.stores import NewBet
from betcore_async.stores.audit_chain import GOES_ON, HOLDS

FIRST, SECOND, THIRD = "2026-W47", "2026-W48", "2026-W49"
LINKS = "SELECT seq, upto, hash FROM ledger_chain ORDER BY seq"


def rows(folder, week, sql):
    with by_hand(path_of(folder, week)) as raw:
        found = raw.execute(sql).fetchall()
        raw.execute("ROLLBACK")
        raw.execute("BEGIN")
    return found


def recomputed(folder, week, start):
    """The hashes of a week's links as its documentation says, with the standard library alone."""
    last, upto, hashes = start, 0, []
    for seq, end, _ in rows(folder, week, LINKS):
        if seq > 0:
            entries = rows(
                folder,
                week,
                f"SELECT {CHAINED} FROM ledger_entries WHERE position BETWEEN {upto + 1} AND {end} ORDER BY position",
            )
            arrays = [entries[at : at + ROWS_AT_A_TIME] for at in range(0, len(entries), ROWS_AT_A_TIME)]
            text = "".join(json.dumps(array, separators=(",", ":"), ensure_ascii=False) for array in arrays)
            last = hashlib.sha256(last + text.encode()).digest()
        hashes.append(last)
        upto = end
    return hashes


@pytest.fixture
async def weeks(tmp_path):
    """Three weeks with a few groups each; the second has two of several thousand entries."""
    clock = ManualClock(NOON)
    async with open_books(tmp_path, clock) as books:
        users = [await books.users.create(f"0x{number} \"\x7f\\é€😀\t'", 10_000) for number in range(3)]
        first = await books.bets.place(users[0].id, CELL, 10, 1.5)
        await books.next_week()
        await books.bets.place_many(
            NewBet(users[number % 3].id, CELL, 1, 1.5) for number in range(2 * ROWS_AT_A_TIME + 1)
        )
        await books.bets.settle_cell(CELL, won=True)
        await books.next_week()
        for user in users:
            await books.users.deposit(user.id, 5)
        await books.bets.cancel((await books.bets.place(users[1].id, "another cell", 7, 2.0)).id)
        assert (await books.bets.get(first.id)).payout_amount == 15
    return tmp_path


async def broken(folder):
    async with open_books(folder, ManualClock(NOON + 2 * WEEK)) as books:
        found = (await books.ledger.audit()).violations
    return [(fault.rule, fault.week, fault.subject, fault.detail) for fault in found if fault.rule in {HOLDS, GOES_ON}]


async def test_the_chain_is_what_its_documentation_says_in_every_week(weeks):
    assert await broken(weeks) == []
    last = bytes(32)
    for week in (FIRST, SECOND, THIRD):
        hashes = [row[2] for row in rows(weeks, week, LINKS)]
        assert hashes == recomputed(weeks, week, last)
        last = hashes[-1]
    assert rows(weeks, SECOND, LINKS)[0][1] == 3  # behind the openings
    sizes = [row[1] for row in rows(weeks, SECOND, LINKS)]
    assert max(later - earlier for earlier, later in pairwise(sizes)) > 2 * ROWS_AT_A_TIME


async def test_a_group_is_one_link_and_a_failed_member_leaves_no_trace_in_it(tmp_path):
    async with open_books(tmp_path) as books:
        rich, poor = await books.users.create("rich", 100), await books.users.create("poor")
        for _ in range(2):  # at first without savepoints, then with them
            answers = await asyncio.gather(
                *(books.users.deposit(rich.id, 1) for _ in range(5)),
                books.users.withdraw(poor.id, 1),
                *(books.users.deposit(rich.id, 1) for _ in range(5)),
                return_exceptions=True,
            )
            assert [type(answer) for answer in answers].count(InsufficientFundsError) == 1
        await books.bets.settle_cell("nothing", won=True)  # a transaction without entries is no link
        assert (await books.ledger.audit()).ok
    links = rows(tmp_path, FIRST, LINKS)
    assert links[-1][1] == rows(tmp_path, FIRST, "SELECT count(*) FROM ledger_entries")[0][0] == 22
    assert len(links) < 10


async def test_an_interactive_transaction_extends_the_chain_and_a_rolled_back_one_does_not(tmp_path):
    entry = (
        "INSERT INTO ledger_entries (id, user_id, version, amount, balance_after, ref_type, ref_id, created_at) "
        "SELECT 'by hand', id, 2, 1, 101, 'deposit', 'ref', updated_at FROM users"
    )
    async with open_books(tmp_path) as books:
        await books.users.create("0xabc", 100)
        pool = books.partitions._writing().current.pool
        with contextlib.suppress(LookupError):
            async with pool.transaction() as transaction:
                await transaction.execute(entry)
                raise LookupError
        async with pool.transaction(durability=Durability.FULL) as transaction:
            await transaction.execute(entry)
            await transaction.execute("UPDATE users SET balance = 101, version = 2")
        assert (await books.ledger.audit()).ok
    assert [row[:2] for row in rows(tmp_path, FIRST, LINKS)] == [(1, 1), (2, 2)]


async def test_a_vacuum_and_a_copy_by_vacuum_leave_the_chain_whole(weeks):
    for week, sql in ((FIRST, "VACUUM"), (SECOND, "VACUUM"), (THIRD, f"VACUUM INTO '{weeks / 'copy.db'}'")):
        with by_hand(path_of(weeks, week)) as raw:
            raw.execute("COMMIT")
            raw.execute(sql)
            raw.execute("BEGIN")
    shutil.move(weeks / "copy.db", path_of(weeks, THIRD))
    assert await broken(weeks) == []
    async with open_books(weeks, ManualClock(NOON + 2 * WEEK)) as books:
        await books.users.deposit((await books.users.create("0xnew")).id, 1)
    assert await broken(weeks) == []


# Planted faults: statements, week, and what is found: rule, week, subject, in the detail
EDIT = "UPDATE ledger_entries SET created_at = created_at + 1 WHERE position = {}"
SLIPPED_IN = (
    "INSERT INTO ledger_entries SELECT {0}, 'new {0}', user_id, version + 100000 + {0}, amount, balance_after,"
    " 'deposit', 'x {0}', metadata, created_at FROM ledger_entries WHERE position = 1"
)
FAULTS = {
    "an edited entry": (SECOND, EDIT.format(5), [(HOLDS, SECOND, None, "give")]),
    "an entry hidden behind the beginning": (
        SECOND,
        "UPDATE ledger_chain SET upto = 4 WHERE seq = 0",
        [(HOLDS, SECOND, None, "entry 4 is outside"), (HOLDS, SECOND, "link 1", "give")],
    ),
    "a deleted entry": (
        THIRD,
        "DELETE FROM ledger_entries WHERE position = 5",
        [(HOLDS, THIRD, "link 2", "entry 5 is missing")],
    ),
    "a deleted entry amid a large group": (
        SECOND,
        "DELETE FROM ledger_entries WHERE position = 1234",
        [(HOLDS, SECOND, None, "entry 1234 is missing")],
    ),
    "the last entry deleted": (
        FIRST,
        "DELETE FROM ledger_entries WHERE position = 4",
        [(HOLDS, FIRST, "link 4", "entry 4 is missing")],
    ),
    "two entries swapped": (
        THIRD,
        (
            "UPDATE ledger_entries SET position = -4 WHERE position = 4",
            "UPDATE ledger_entries SET position = 4 WHERE position = 5",
            "UPDATE ledger_entries SET position = 5 WHERE position = -4",
        ),
        [(HOLDS, THIRD, None, "link 1 of entry 4"), (HOLDS, THIRD, None, "link 2 of entry 5")],
    ),
    "a forged link": (
        THIRD,
        "UPDATE ledger_chain SET hash = randomblob(32) WHERE seq = 3",
        [(HOLDS, THIRD, "link 3", "its entries and the next link give")],
    ),
    "the last link forged": (
        THIRD,
        "UPDATE ledger_chain SET hash = randomblob(32) WHERE seq = 5",
        [(HOLDS, THIRD, None, "link 5 of entry 8")],
    ),
    "a group forged up to its link": (
        THIRD,
        (EDIT.format(5), "UPDATE ledger_chain SET hash = randomblob(32) WHERE seq = 2"),
        [(HOLDS, THIRD, None, "link 2 of entry 5"), (HOLDS, THIRD, None, "link 3 of entry 6")],
    ),
    "a link taken out": (THIRD, "DELETE FROM ledger_chain WHERE seq = 3", [(HOLDS, THIRD, "link 3", "is missing")]),
    "the last link taken out": (
        FIRST,
        "DELETE FROM ledger_chain WHERE seq = 4",
        [(HOLDS, FIRST, None, "outside of the chain"), (GOES_ON, SECOND, "link 0", "ended at")],
    ),
    "a group missing, entries and link": (
        THIRD,
        ("DELETE FROM ledger_entries WHERE position = 6", "DELETE FROM ledger_chain WHERE seq = 3"),
        [(HOLDS, THIRD, "link 3", "is missing")],
    ),
    "the last group missing, entries and link": (
        FIRST,
        ("DELETE FROM ledger_entries WHERE position = 4", "DELETE FROM ledger_chain WHERE seq = 4"),
        [(GOES_ON, SECOND, "link 0", "ended at")],
    ),
    "a week that begins elsewhere": (
        SECOND,
        "UPDATE ledger_chain SET hash = zeroblob(32) WHERE seq = 0",
        [(GOES_ON, SECOND, "link 0", "it begins at 00000000")],
    ),
    "a first week that begins elsewhere": (
        FIRST,
        "INSERT INTO ledger_chain SELECT 0, 0, hash FROM ledger_chain WHERE seq = 3",
        [(GOES_ON, FIRST, "link 0", "nothing is before it")],
    ),
    "the first links of a first week melted into its beginning": (
        FIRST,
        (
            "DELETE FROM ledger_chain WHERE seq < 3",
            "UPDATE ledger_chain SET seq = seq - 3",
            "UPDATE ledger_entries SET metadata = '{}' WHERE position = 1",
        ),
        [(GOES_ON, FIRST, "link 0", "nothing is before it")],
    ),
    "the beginning of a week taken out": (
        SECOND,
        "DELETE FROM ledger_chain WHERE seq = 0",
        [(HOLDS, SECOND, "link 1", "give"), (GOES_ON, SECOND, "link 0", "it begins at 00000000")],
    ),
    "an entry slipped in": (
        FIRST,
        (
            "INSERT INTO ledger_entries SELECT 99, 'new', user_id, 99, amount, balance_after, ref_type, 'x', metadata,"
            " created_at FROM ledger_entries WHERE position = 1"
        ),
        [(HOLDS, FIRST, "new", "entry 99 is outside")],
    ),
    "entries slipped in before the first one": (
        FIRST,
        (SLIPPED_IN.format(0), SLIPPED_IN.format(-7)),
        [(HOLDS, FIRST, "new -7", "entry -7 is outside"), (HOLDS, FIRST, "new 0", "entry 0 is outside")],
    ),
    "an entry slipped in before the openings": (
        SECOND,
        SLIPPED_IN.format(0),
        [(HOLDS, SECOND, "new 0", "entry 0 is outside")],
    ),
    "an entry slipped in among the openings": (
        THIRD,
        ("UPDATE ledger_entries SET position = 0 WHERE position = 2", SLIPPED_IN.format(2)),
        [(HOLDS, THIRD, None, "entry 0 is outside"), (HOLDS, THIRD, "new 2", "entry 2 is outside")],
    ),
    "a last link that reaches over what is still to come": (
        THIRD,
        "UPDATE ledger_chain SET upto = upto + 3 WHERE seq = 5",
        [(HOLDS, THIRD, "link 5", "ends at entry 11, the last one there is 8")],
    ),
    "the whole chain taken out": (
        SECOND,
        "DELETE FROM ledger_chain",
        [*[(HOLDS, SECOND, None, "is outside")] * 10, (GOES_ON, SECOND, "link 0", ""), (GOES_ON, THIRD, "link 0", "")],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_planted_fault_is_found_and_named(weeks, fault):
    week, statements, expected = FAULTS[fault]
    with by_hand(path_of(weeks, week)) as raw:
        for statement in (statements,) if isinstance(statements, str) else statements:
            assert raw.execute(statement).rowcount
    found = await broken(weeks)
    assert [fault[:2] for fault in found] == [fault[:2] for fault in expected]
    for (*_, subject, detail), (*_, wanted, text) in zip(found, expected, strict=True):
        assert wanted in {None, subject}
        assert text in detail


async def test_a_ledger_from_before_the_chain_begins_it_where_it_is_migrated(tmp_path):
    clock, migrator = ManualClock(NOON), Migrator()
    async with open_books(tmp_path, clock) as books:
        user = await books.users.create("0xabc", 100)
        await books.next_week()
        await books.users.deposit(user.id, 5)
    for week in (SECOND, FIRST):
        await migrator.goto(path_of(tmp_path, week), 1)
        assert rows(tmp_path, week, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%chain%'") == [(0,)]
    async with open_books(tmp_path, clock) as books:
        assert (await books.ledger.audit()).ok
        await books.users.deposit(user.id, 6)
        await books.next_week()
        await books.users.deposit(user.id, 7)
        assert (await books.ledger.audit()).ok
        assert [entry.amount for entry in await books.ledger.entries(user.id)] == [7, 6, 5, 100]
    assert rows(tmp_path, FIRST, LINKS) == [(0, 1, bytes(32))]
    assert [row[:2] for row in rows(tmp_path, SECOND, LINKS)] == [(0, 2), (1, 3)]
    with by_hand(path_of(tmp_path, SECOND)) as raw:
        raw.execute("UPDATE ledger_entries SET metadata = '{}' WHERE amount = 6")
    ((rule, week, _, detail),) = await broken(tmp_path)
    assert (rule, week, detail[:17]) == (HOLDS, SECOND, "link 1 of entry 3")


@pytest.mark.parametrize("sql", ["UPDATE ledger_chain SET upto = 0", "DELETE FROM ledger_chain"])
async def test_the_chain_itself_refuses_to_be_changed(tmp_path, sql):
    async with open_books(tmp_path) as books:
        await books.users.create("0xabc", 100)
        with pytest.raises(Exception, match="chain of the ledger is never"):
            await books.partitions.write(lambda raw, _: raw.execute(sql))
