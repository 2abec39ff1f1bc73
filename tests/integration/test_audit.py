"""The audit: it is silent while the books are right, and names rule, week and row for every fault planted by hand."""

import asyncio
import contextlib
import itertools
import shutil
import sqlite3
from dataclasses import dataclass

import pytest
from ledger_files import CELL, NOON, WEEK, by_hand, open_books, path_of

from betcore_async.clock import ManualClock, to_microseconds
from betcore_async.errors import ModelError, PartitionMissingError
from betcore_async.partitions import Week
from betcore_async.stores import NewBet, Violation, audit_accounts, audit_cells, audit_ids, audit_sums, outbox
from betcore_async.stores.audit import IN_AND_OUT, MOST_PER_RULE
from betcore_async.stores.audit_accounts import FUNDED, RULES, SUM, Accounts
from betcore_async.stores.audit_cells import DECIDED
from betcore_async.stores.audit_chain import HOLDS
from betcore_async.stores.audit_hand_over import ACROSS
from betcore_async.stores.audit_rules import WITHIN

FIRST, SECOND, THIRD = "2026-W47", "2026-W48", "2026-W49"


@dataclass
class Story:
    """Three weeks in which everything happened that can happen."""

    folder: object
    clock: ManualClock
    names: dict[str, str]
    """Ids of users and bets."""

    def __getitem__(self, name):
        return self.names[name]

    def plant(self, week, *statements):
        with by_hand(path_of(self.folder, week)) as raw:
            for sql in statements:
                assert raw.execute(sql, self.names if ":" in sql else ()).rowcount, f"changed nothing: {sql}"

    def value(self, week, sql):
        with by_hand(path_of(self.folder, week)) as raw:
            return raw.execute(sql, self.names if ":" in sql else ()).fetchone()[0]

    def assert_it_leads_to_its_row(self, violation):
        """File, table and id or positions are enough to find the row; one that is not there is in the week before."""
        assert violation.file == path_of(self.folder, violation.week)
        key = {"users": "id", "bets": "id", "ledger_entries": "id", "cell_settlements": "cell_id", "outbox": "seq"}
        if violation.rule == IN_AND_OUT:
            assert (violation.table, violation.subject) == (None, violation.week)
        elif violation.subject.startswith("link "):
            assert violation.table in {"ledger_chain", "ledger_entries"}
            assert (violation.positions is None) == (violation.table == "ledger_chain")
        elif violation.table in key:
            weeks = {week for week in (FIRST, SECOND, THIRD) if week <= violation.week}
            question = f"SELECT count(*) FROM {violation.table} WHERE {key[violation.table]} = '{violation.subject}'"
            assert any(self.value(week, question) for week in weeks)
        else:
            assert violation.table in {"partition_meta", "outbox_cursor"}
        if violation.table == "ledger_entries" and not violation.subject.startswith("link "):
            where = "SELECT id FROM ledger_entries WHERE position BETWEEN {} AND {}".format(*violation.positions)
            assert self.value(violation.week, where) == violation.subject

    async def audit(self, **options):
        async with open_books(self.folder, self.clock) as books:
            return await books.ledger.audit(**options)


async def a_week_of_bets(books, names, label):
    users, bets = books.users, books.bets
    for status in ("open", "confirmed", "won", "lost", "cancelled", "refused"):
        amount = 10**9 if status == "refused" else 100
        names[f"{label}_{status}"] = (await bets.place(names["ann"], CELL, amount, 1.5)).id
    await bets.confirm(names[f"{label}_confirmed"])
    await bets.settle(names[f"{label}_won"], True)
    await bets.settle(names[f"{label}_lost"], False)
    await bets.cancel(names[f"{label}_cancelled"])
    deposit = await users.deposit(names["ann"], 7)
    names[f"{label}_deposit"], names[f"{label}_deposit_ref"] = deposit.id, deposit.ref_id
    await users.withdraw(names["bob"], 3)
    names[f"{label}_transfer"] = (await users.transfer(names["ann"], names["bob"], 11)).id


async def three_weeks(folder):
    clock, names = ManualClock(NOON), {}
    async with open_books(folder, clock) as books:
        for wallet in ("ann", "bob"):
            names[wallet] = (await books.users.create(wallet, 10_000)).id
        await a_week_of_bets(books, names, "first")
        await books.next_week()
        names["eve"] = (await books.users.create("eve", 500)).id
        await books.bets.settle(names["first_open"], True)
        names["cell"] = (await books.bets.place(names["eve"], "a cell", 100, 1.0)).id
        await books.bets.settle_cell("a cell", True)
        await a_week_of_bets(books, names, "second")
        await books.next_week()
        await books.partitions.write(outbox.turn_on)
        await a_week_of_bets(books, names, "third")
        await books.bets.cancel(names["first_confirmed"])
    return Story(folder, clock, names)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return asyncio.run(three_weeks(tmp_path_factory.mktemp("told")))


@pytest.fixture
def story(told, tmp_path):
    """The story of a test's own: its files are copies."""
    shutil.copytree(told.folder, tmp_path, dirs_exist_ok=True)
    return Story(tmp_path, ManualClock(told.clock()), told.names)


async def test_books_that_are_right_pass_and_are_counted(story):
    report = await story.audit()
    assert report.ok
    assert report.violations == ()
    assert report.counts == {
        "weeks": 3,
        "users": 3,
        "held": 20_500 - 1_600 + 700 + 400 + 21 - 9,
        "bets": 19,
        "entries": 3 + 3 * 5 + 4 + 4 + 3 * 4 + 2,
        "opened": 20_500,
        "deposited": 21,
        "withdrawn": 9,
        "staked": 1_600,
        "paid": 700,
        "refunded": 400,
        "money_in": 20_500 + 21 + 700 + 400,
        "money_out": 20_500 + 21 + 700 + 400,
    }


async def test_an_empty_ledger_passes(tmp_path):
    async with open_books(tmp_path) as books:
        report = await books.ledger.audit()
    assert report.ok
    assert report.counts["weeks"] == 1
    assert report.counts["money_in"] == report.counts["money_out"] == 0


ENTRY = "(SELECT id FROM ledger_entries WHERE ref_type = '{kind}' AND ref_id = :{ref})"

# rule, week, id of the row (SQL or a name), statements that plant the fault
FAULTS = [
    ("balance == sum of entries", THIRD, "ann", ["UPDATE users SET balance = balance + 1 WHERE id = :ann"]),
    ("balance == sum of entries", FIRST, "bob", ["UPDATE users SET balance = 0 WHERE id = :bob"]),
    (
        "balance == sum of entries",
        SECOND,
        "ann",
        ["DELETE FROM ledger_entries WHERE id = :second_deposit"],
    ),
    ("versions are dense", SECOND, None, ["DELETE FROM ledger_entries WHERE id = :second_deposit"]),
    (
        "the last entry has the user's version",
        THIRD,
        "bob",
        ["DELETE FROM ledger_entries WHERE user_id = :bob AND ref_type = 'transfer_in'"],
    ),
    (
        "the last entry has the user's version",
        THIRD,
        "eve",
        ["UPDATE users SET version = version + 1 WHERE id = :eve"],
    ),
    (
        "balance_after is the running balance",
        THIRD,
        "third_deposit",
        ["UPDATE ledger_entries SET amount = amount + 1 WHERE id = :third_deposit"],
    ),
    (
        "balance_after is the running balance",
        THIRD,
        "third_deposit",
        ["UPDATE ledger_entries SET balance_after = 0 WHERE id = :third_deposit"],
    ),
    (
        "each user has one opening, and it comes first",
        SECOND,
        "eve",
        ["DELETE FROM ledger_entries WHERE user_id = :eve"],
    ),
    (
        "each user has one opening, and it comes first",
        FIRST,
        "ann",
        ["UPDATE ledger_entries SET ref_type = 'deposit' WHERE user_id = :ann AND version = 1"],
    ),
    (
        "each user has one opening, and it comes first",
        SECOND,
        "ann",
        ["UPDATE ledger_entries SET ref_type = 'opening' WHERE id = :second_deposit"],
    ),
    (
        "a funded bet has its stake",
        SECOND,
        "second_lost",
        ["DELETE FROM ledger_entries WHERE ref_type = 'stake' AND ref_id = :second_lost"],
    ),
    (
        "a funded bet has its stake",
        FIRST,
        "first_open",
        ["UPDATE bets SET amount = amount - 1 WHERE id = :first_open"],
    ),
    (
        "a funded bet has its stake",
        FIRST,
        "first_refused",
        ["UPDATE bets SET status = 'lost' WHERE id = :first_refused"],
    ),
    (
        "a funded bet has its stake",
        FIRST,
        "first_lost",
        ["UPDATE bets SET user_id = :bob WHERE id = :first_lost"],
    ),
    (
        "a stake has its funded bet",
        THIRD,
        ENTRY.format(kind="stake", ref="third_open"),
        ["DELETE FROM bets WHERE id = :third_open"],
    ),
    (
        "a stake has its funded bet",
        THIRD,
        ENTRY.format(kind="stake", ref="third_lost"),
        ["UPDATE bets SET status = 'insufficient_funds' WHERE id = :third_lost"],
    ),
    (
        "a won bet is paid amount × rate",
        SECOND,
        "second_won",
        [
            "UPDATE bets SET payout_amount = 300 WHERE id = :second_won",
            "UPDATE ledger_entries SET amount = 300 WHERE ref_type = 'payout' AND ref_id = :second_won",
        ],
    ),
    (
        "a won bet is paid amount × rate",
        SECOND,
        "first_open",
        ["UPDATE ledger_entries SET amount = 149 WHERE ref_type = 'payout' AND ref_id = :first_open"],
    ),
    (
        "a won bet is paid amount × rate",
        FIRST,
        "first_won",
        ["DELETE FROM ledger_entries WHERE ref_type = 'payout' AND ref_id = :first_won"],
    ),
    (
        "a won bet is paid amount × rate",
        FIRST,
        "first_won",
        ["UPDATE ledger_entries SET user_id = :bob, version = 99 WHERE ref_type = 'payout' AND ref_id = :first_won"],
    ),
    (
        "a payout has its won bet",
        SECOND,
        "'doubled'",
        [
            (
                "INSERT INTO ledger_entries SELECT NULL, 'doubled', user_id, version + 100, amount,"
                " balance_after + amount, ref_type, ref_id || '-again', metadata, created_at FROM ledger_entries"
                " WHERE ref_type = 'payout' AND ref_id = :second_won"
            )
        ],
    ),
    (
        "a payout has its won bet",
        THIRD,
        ENTRY.format(kind="payout", ref="third_won"),
        ["UPDATE bets SET status = 'lost', payout_amount = NULL WHERE id = :third_won"],
    ),
    (
        "a cancelled bet is refunded",
        THIRD,
        "first_confirmed",
        ["DELETE FROM ledger_entries WHERE ref_type = 'refund' AND ref_id = :first_confirmed"],
    ),
    (
        "a cancelled bet is refunded",
        FIRST,
        "first_lost",
        ["UPDATE bets SET status = 'cancelled' WHERE id = :first_lost"],
    ),
    (
        "a refund has its cancelled bet",
        FIRST,
        ENTRY.format(kind="refund", ref="first_cancelled"),
        ["UPDATE bets SET status = 'lost' WHERE id = :first_cancelled"],
    ),
    (
        "a transfer has two sides",
        FIRST,
        "first_transfer",
        ["DELETE FROM ledger_entries WHERE ref_type = 'transfer_in'"],
    ),
    (
        "a transfer has two sides",
        SECOND,
        "second_transfer",
        ["UPDATE ledger_entries SET amount = 12 WHERE ref_type = 'transfer_in'"],
    ),
    (
        "money moves the way its entry says",
        SECOND,
        "second_deposit",
        ["UPDATE ledger_entries SET amount = -7 WHERE id = :second_deposit"],
    ),
    (
        "money moves the way its entry says",
        SECOND,
        "second_deposit",
        ["UPDATE ledger_entries SET ref_type = 'bonus' WHERE id = :second_deposit"],
    ),
    (
        "rows lie in their week",
        SECOND,
        "second_deposit",
        ["UPDATE ledger_entries SET created_at = 0 WHERE id = :second_deposit"],
    ),
    (
        "rows lie in their week",
        SECOND,
        "second_open",
        [f"UPDATE bets SET placed_at = {to_microseconds(NOON + 3 * WEEK)} WHERE id = :second_open"],
    ),
    ("rows lie in their week", FIRST, "first_open", ["UPDATE bets SET placed_at = 5 WHERE id = :first_open"]),
    ("rows lie in their week", FIRST, "first_lost", ["UPDATE bets SET resolved_at = 5 WHERE id = :first_lost"]),
    (
        "the first week carries nothing forward",
        FIRST,
        "(SELECT id FROM ledger_entries WHERE user_id = :bob AND version = 1)",
        ["UPDATE ledger_entries SET ref_type = 'carry_forward' WHERE user_id = :bob AND version = 1"],
    ),
    (
        "rows refer to rows that are there",
        SECOND,
        "second_refused",
        ["UPDATE bets SET user_id = 'nobody' WHERE id = :second_refused"],
    ),
    (
        "rows refer to rows that are there",
        SECOND,
        "(SELECT id FROM ledger_entries WHERE user_id = :eve)",
        ["DELETE FROM users WHERE id = :eve"],
    ),
    (
        "money in == money out",
        THIRD,
        f"'{THIRD}'",
        [
            "UPDATE users SET balance = balance + 50 WHERE id = :eve",
            (
                "UPDATE ledger_entries SET amount = amount + 50, balance_after = balance_after + 50"
                " WHERE user_id = :bob AND ref_type = 'transfer_in'"
            ),
        ],
    ),
    (FUNDED, THIRD, "eve", ["UPDATE users SET balance = -1 WHERE id = :eve"]),
    (
        FUNDED,
        THIRD,
        "third_deposit",
        ["UPDATE ledger_entries SET balance_after = -1 WHERE id = :third_deposit"],
    ),
    (
        "a funded bet has its stake",
        THIRD,
        "third_lost",
        ["UPDATE bets SET placed_at = placed_at + 1 WHERE id = :third_lost"],
    ),
    (
        "a won bet is paid amount × rate",
        THIRD,
        "third_won",
        ["UPDATE bets SET resolved_at = resolved_at + 1 WHERE id = :third_won"],
    ),
    (
        "a cancelled bet is refunded",
        FIRST,
        "first_cancelled",
        ["UPDATE bets SET resolved_at = resolved_at + 1 WHERE id = :first_cancelled"],
    ),
    (
        "a user opens when it was made",
        FIRST,
        "ann",
        ["UPDATE users SET created_at = created_at - 1 WHERE id = :ann"],
    ),
    (
        "the columns of a bet fit its status",
        THIRD,
        "third_lost",
        ["UPDATE bets SET status = 'pending' WHERE id = :third_lost"],
    ),
    (
        "the columns of a bet fit its status",
        THIRD,
        "third_refused",
        ["UPDATE bets SET payout_amount = 5 WHERE id = :third_refused"],
    ),
    ("rows lie in their week", THIRD, "third_lost", ["UPDATE bets SET resolved_at = 5 WHERE id = :third_lost"]),
    (
        "the file says which week it is",
        FIRST,
        f"'{FIRST}'",
        ["UPDATE partition_meta SET starts_at = starts_at - 604800000000"],
    ),
    (
        "the file says which week it is",
        SECOND,
        f"'{SECOND}'",
        ["UPDATE partition_meta SET sealed_at = NULL"],
    ),
    (
        "the first week carries nothing forward",
        SECOND,
        None,
        ["UPDATE partition_meta SET predecessor = NULL"],
    ),
    ("what is to be told is there", THIRD, "'2'", ["DELETE FROM outbox WHERE seq = 1"]),
    (
        "what is to be told is there",
        THIRD,
        "'1'",
        ["UPDATE outbox SET status = 'lost' WHERE seq = 1"],
    ),
    (
        "what was told has happened",
        THIRD,
        f"'{THIRD}'",
        ["UPDATE outbox_cursor SET position = (SELECT max(position) + 1 FROM ledger_entries)"],
    ),
    (
        DECIDED,
        SECOND,
        "'a cell'",
        ["UPDATE cell_settlements SET bets = bets + 1 WHERE cell_id = 'a cell'"],
    ),
    (
        DECIDED,
        SECOND,
        "'a cell'",
        ["UPDATE cell_settlements SET payout = payout + 1 WHERE cell_id = 'a cell'"],
    ),
    (DECIDED, SECOND, "'a cell'", ["UPDATE cell_settlements SET won = 0 WHERE cell_id = 'a cell'"]),
    (
        DECIDED,
        SECOND,
        "'a cell'",
        ["UPDATE cell_settlements SET settled_at = settled_at + 1 WHERE cell_id = 'a cell'"],
    ),
    (DECIDED, SECOND, "'a cell'", ["UPDATE cell_settlements SET upto = '0' WHERE cell_id = 'a cell'"]),
    # Between weeks
    (
        "a user goes on in the next week",
        SECOND,
        "bob",
        ["UPDATE users SET created_at = created_at - 1 WHERE id = :bob"],
    ),
    (
        "an open bet goes on in the next week",
        SECOND,
        "first_confirmed",
        ["UPDATE bets SET status = 'pending', confirmed_at = NULL WHERE id = :first_confirmed"],
    ),
    (
        "a closed cell stays closed in the next week",
        THIRD,
        "'a cell'",
        ["UPDATE cell_settlements SET is_last = 0"],
    ),
    (
        "a cell that begins closed was closed before",
        THIRD,
        "'invented'",
        ["INSERT INTO cell_settlements SELECT 'invented', 1, 0, '', 0, 0, 0, 1, settled_at FROM cell_settlements"],
    ),
    (
        "a balance opens as it closed the week before",
        SECOND,
        "bob",
        ["DELETE FROM ledger_entries WHERE ref_type = 'carry_forward' AND user_id = :bob"],
    ),
    (
        "a balance opens as it closed the week before",
        THIRD,
        "eve",
        [
            "UPDATE ledger_entries SET amount = 501, balance_after = 501 WHERE user_id = :eve",
            "UPDATE users SET balance = 501 WHERE id = :eve",
        ],
    ),
    (
        "a balance opens as it closed the week before",
        THIRD,
        "eve",
        [
            "UPDATE ledger_entries SET version = 2 WHERE user_id = :eve",
            "UPDATE users SET version = 2 WHERE id = :eve",
        ],
    ),
    (
        "a user goes on in the next week",
        THIRD,
        "eve",
        ["DELETE FROM ledger_entries WHERE user_id = :eve", "DELETE FROM users WHERE id = :eve"],
    ),
    (
        "a user goes on in the next week",
        THIRD,
        "eve",
        ["UPDATE users SET wallet_address = 'mallory' WHERE id = :eve"],
    ),
    (
        "what is carried forward was there",
        THIRD,
        "'forged'",
        [
            "INSERT INTO users SELECT 'mallory', 'mallory', 50, 1, created_at, updated_at FROM users WHERE id = :eve",
            (
                "INSERT INTO ledger_entries SELECT NULL, 'forged', 'mallory', 1, 50, 50, ref_type, 'mallory', NULL,"
                " created_at FROM ledger_entries WHERE ref_type = 'carry_forward' AND user_id = :eve"
            ),
        ],
    ),
    ("an open bet goes on in the next week", SECOND, "first_open", ["DELETE FROM bets WHERE id = :first_open"]),
    (
        "an open bet goes on in the next week",
        THIRD,
        "second_confirmed",
        ["DELETE FROM bets WHERE id = :second_confirmed"],
    ),
    (
        "an open bet goes on in the next week",
        THIRD,
        "second_open",
        ["UPDATE bets SET reward_ppm = 9000000 WHERE id = :second_open"],
    ),
    (
        "a carried bet was open before",
        SECOND,
        "'invented'",
        [
            (
                "INSERT INTO bets SELECT 'invented', user_id, cell_id, amount, reward_ppm, 'pending', placed_at,"
                " NULL, NULL, NULL FROM bets WHERE id = :first_confirmed"
            )
        ],
    ),
    (
        "a carried bet was open before",
        SECOND,
        "first_won",
        [
            (
                "INSERT INTO bets SELECT :first_won, user_id, cell_id, amount, reward_ppm, 'pending', placed_at,"
                " NULL, NULL, NULL FROM bets WHERE id = :first_confirmed"
            )
        ],
    ),
    (
        "a settled cell has no open bets",
        SECOND,
        "'a cell'",
        ["UPDATE bets SET cell_id = 'a cell' WHERE id = :second_open"],
    ),
    (
        "a cell is settled one way, chunk after chunk",
        THIRD,
        "'a cell'",
        ["INSERT INTO cell_settlements VALUES ('a cell', 2, 0, '', 0, 0, 0, 0, 0)"],
    ),
    (
        "a closed cell stays closed in the next week",
        THIRD,
        "'a cell'",
        ["DELETE FROM cell_settlements"],
    ),
    (
        "what happened once is in one week",
        SECOND,
        "first_lost",
        ["UPDATE bets SET id = :first_lost WHERE id = :second_lost"],
    ),
    (
        "what happened once is in one week",
        SECOND,
        "second_deposit",
        ["UPDATE ledger_entries SET ref_id = :first_deposit_ref WHERE id = :second_deposit"],
    ),
    (
        audit_ids.ONCE,
        THIRD,
        "first_lost",
        ["UPDATE bets SET id = :first_lost WHERE id = :third_lost"],
    ),
    (
        audit_ids.ONCE,
        THIRD,
        "third_deposit",
        ["UPDATE ledger_entries SET ref_id = :first_deposit_ref WHERE id = :third_deposit"],
    ),
]


def changed(rule, row, table, where, changes):
    """A fault of the live week for each of the columns that a rule compares."""
    return [(rule, THIRD, row, [f"UPDATE {table} SET {change} WHERE {where}"]) for change in changes]


FAULTS += [
    *changed(
        "an open bet goes on in the next week",
        "second_open",
        "bets",
        "id = :second_open",
        ["user_id = :bob", "cell_id = 'another'", "amount = amount + 1", "placed_at = placed_at - 1"],
    ),
    *changed(
        "an open bet goes on in the next week",
        "second_confirmed",
        "bets",
        "id = :second_confirmed",
        ["confirmed_at = confirmed_at + 1", "status = 'pending'"],
    ),
    *changed(
        "a closed cell stays closed in the next week",
        "'a cell'",
        "cell_settlements",
        "cell_id = 'a cell'",
        ["won = 0", "upto = '0'", *(f"{name} = {name} + 1" for name in ("bets", "payout", "unpaid", "settled_at"))],
    ),
    *changed(
        "a balance opens as it closed the week before",
        "bob",
        "ledger_entries",
        "ref_type = 'carry_forward' AND user_id = :bob",
        ["user_id = :eve"],
    ),
    *changed(
        "what is carried forward was written with its week",
        "(SELECT id FROM ledger_entries WHERE ref_type = 'carry_forward' AND user_id = :bob)",
        "ledger_entries",
        "ref_type = 'carry_forward' AND user_id = :bob",
        ["created_at = created_at + 1", "metadata = '{}'"],
    ),
    *changed(
        "a cancelled bet is refunded",
        "third_cancelled",
        "ledger_entries",
        "ref_type = 'refund' AND ref_id = :third_cancelled",
        ["amount = 99", "user_id = :bob, version = 99"],
    ),
    *changed(
        "a transfer has two sides",
        "third_transfer",
        "ledger_entries",
        "ref_type = 'transfer_in'",
        ["user_id = :ann, version = 99"],
    ),
    *changed("rows lie in their week", "third_confirmed", "bets", "id = :third_confirmed", ["confirmed_at = 5"]),
    *changed(
        "the columns of a bet fit its status", "third_open", "bets", "id = :third_open", ["confirmed_at = placed_at"]
    ),
    *changed("the columns of a bet fit its status", "third_lost", "bets", "id = :third_lost", ["status = 'void'"]),
    *changed("the file says which week it is", f"'{THIRD}'", "partition_meta", "id = 1", ["ends_at = starts_at"]),
    *changed("what is to be told is there", "'3'", "outbox", "seq = 3", ["bet_id = 'nobody'"]),
    *changed("what is to be told is there", "'2'", "bets", "id = :third_confirmed", ["confirmed_at = NULL"]),
    *changed("what was told has happened", f"'{THIRD}'", "outbox_cursor", "id = 1", ["seq = 99"]),
]

# Two chunks of the settled cell: number, verdict and end of each
FAULTS += [
    (
        "a cell is settled one way, chunk after chunk",
        THIRD,
        "'a cell'",
        [
            f"UPDATE cell_settlements SET is_last = {first_is_last}",
            f"INSERT INTO cell_settlements VALUES ('a cell', {number}, {won}, '', 0, 0, 0, {is_last}, 0)",
        ],
    )
    for first_is_last, number, won, is_last in [(0, 3, 1, 1), (0, 2, 0, 1), (1, 2, 1, 0)]
]


@pytest.mark.parametrize(
    ("rule", "week", "row", "statements"), FAULTS, ids=[f"{rule} {number}" for number, (rule, *_) in enumerate(FAULTS)]
)
async def test_a_planted_fault_is_named_by_rule_week_and_row(story, rule, week, row, statements):
    if row is not None:
        subject = story.names.get(row) or story.value(week, f"SELECT {row}")
    story.plant(week, *statements)
    report = await story.audit()
    assert not report.ok
    named = {(violation.rule, violation.week, violation.subject) for violation in report.violations}
    if row is None:
        assert (rule, week) in {(violation.rule, violation.week) for violation in report.violations}
    else:
        assert (rule, week, subject) in named
    assert {found.week for found in report.violations} <= {week, Week(week).next().name}
    assert all(violation.detail for violation in report.violations)
    assert report.first == report.violations[0]
    for violation in report.violations:
        story.assert_it_leads_to_its_row(violation)


# What must never pass: the statement, the rule, and the row, in a week that is sealed and in the live one
NEVER = {
    "a changed balance": ("UPDATE users SET balance = balance + 1 WHERE id = :ann", SUM, "ann"),
    "a deleted entry": ("DELETE FROM ledger_entries WHERE id = :{label}_deposit", SUM, "ann"),
    "an edited entry": (
        "UPDATE ledger_entries SET metadata = '{{}}' WHERE id = :{label}_deposit",
        HOLDS,
        "{label}_deposit",
    ),
    "a doubled payout": (
        "UPDATE ledger_entries SET amount = amount * 2 WHERE ref_type = 'payout' AND ref_id = :{label}_won",
        "a won bet is paid amount × rate",
        "{label}_won",
    ),
    "a bet in two homes": (
        "UPDATE bets SET id = :{before}_lost WHERE id = :{label}_lost",
        "what happened once is in one week",
        "{before}_lost",
    ),
    "a broken chain": ("UPDATE ledger_chain SET hash = randomblob(32) WHERE seq = 4", HOLDS, "link 4"),
    "a lost carry-forward": (
        "DELETE FROM ledger_entries WHERE ref_type = 'carry_forward' AND user_id = :bob",
        "a balance opens as it closed the week before",
        "bob",
    ),
}


@pytest.mark.parametrize(("week", "before", "label"), [(SECOND, "first", "second"), (THIRD, "second", "third")])
@pytest.mark.parametrize("fault", NEVER)
async def test_what_must_never_pass_is_found_in_a_sealed_week_and_in_the_live_one(story, fault, week, before, label):
    sql, rule, row = (text.format(before=before, label=label) for text in NEVER[fault])
    story.plant(week, sql)
    report = await story.audit()
    assert (week, rule, story.names.get(row, row)) in {
        (found.week, found.rule, found.subject) for found in report.violations
    }
    assert report.first.week == week
    for violation in report.violations:
        story.assert_it_leads_to_its_row(violation)


async def test_ids_are_looked_up_in_all_weeks_by_pages(story, monkeypatch):
    monkeypatch.setattr(audit_ids, "AT_A_TIME", 2)
    for number, status in enumerate(("lost", "won", "cancelled")):
        story.plant(THIRD, f"UPDATE bets SET id = :first_{status} WHERE id = :third_{status}")
        found = {violation for violation in (await story.audit()).violations if violation.rule == audit_ids.ONCE}
        assert len(found) == number + 1
        assert all(f"was used in {FIRST} already" in violation.detail for violation in found)


def test_every_rule_is_proven_to_find_its_fault():
    proven = {rule for rule, *_ in FAULTS} | {"the week before names this one"}  # below
    assert proven == {*RULES, *WITHIN, *ACROSS, DECIDED, IN_AND_OUT, audit_ids.ONCE}


async def test_a_week_that_names_another_successor_is_told_with_the_week_that_took_over(story):
    story.plant(FIRST, f"UPDATE partition_meta SET successor = '{THIRD}'")
    (found,) = (await story.audit()).violations
    assert (found.week, found.rule, found.subject) == (SECOND, "the week before names this one", FIRST)
    assert THIRD in found.detail


async def test_a_careful_forger_who_corrects_every_later_entry_is_still_found(story):
    # The deposit goes, later entries close ranks, the balance is corrected; nothing in the file itself is amiss.
    version = story.value(SECOND, "SELECT version FROM ledger_entries WHERE id = :second_deposit")
    story.plant(
        SECOND,
        "DELETE FROM ledger_entries WHERE id = :second_deposit",
        f"UPDATE ledger_entries SET version = -version WHERE user_id = :ann AND version > {version}",
        "UPDATE ledger_entries SET version = -version - 1, balance_after = balance_after - 7 WHERE version < 0",
        "UPDATE users SET balance = balance - 7, version = version - 1 WHERE id = :ann",
    )
    report = await story.audit()
    assert {(found.rule, found.week) for found in report.violations} == {
        ("a balance opens as it closed the week before", THIRD),
        (HOLDS, SECOND),
    }


async def test_sums_that_leave_64_bits_are_a_violation_and_no_crash(story):
    story.plant(THIRD, f"UPDATE ledger_entries SET amount = {2**63 - 1} WHERE user_id = :ann AND amount > 0")
    report = await story.audit()
    assert ("balance == sum of entries", THIRD) in {(found.rule, found.week) for found in report.violations}


async def test_a_rule_that_every_row_breaks_is_told_a_few_times(story):
    story.plant(THIRD, "UPDATE ledger_entries SET created_at = 0")
    report = await story.audit()
    told = [found.rule for found in report.violations]
    assert {"rows lie in their week", HOLDS} <= set(told)
    assert max(told.count(rule) for rule in told) == MOST_PER_RULE


async def test_a_damaged_file_is_a_violation_and_the_others_are_still_audited(story):
    path = path_of(story.folder, FIRST)
    path.chmod(0o600)
    path.write_bytes(b"no database at all" * 1000)
    story.plant(THIRD, "UPDATE users SET balance = balance + 1 WHERE id = :ann")
    report = await story.audit()
    rules = {(found.rule, found.week) for found in report.violations}
    assert {
        ("the file can be read", FIRST),
        ("the week before is there", SECOND),
        ("balance == sum of entries", THIRD),
    } <= rules


async def test_pages_overwritten_inside_a_file_are_a_violation(story):
    path = path_of(story.folder, FIRST)
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[4096 * 2 :] = b"\xa5" * (len(content) - 4096 * 2)
    path.write_bytes(content)
    report = await story.audit()
    assert not report.ok
    assert FIRST in {found.week for found in report.violations}


NO_TEXT = "CAST(x'01ff' AS TEXT)"


@pytest.mark.parametrize(
    ("table", "column", "where", "rule"),
    [
        ("ledger_entries", "metadata", "id = :second_deposit", HOLDS),
        ("ledger_entries", "id", "id = :second_deposit", HOLDS),
        ("ledger_entries", "ref_id", "id = :second_deposit", HOLDS),
        ("bets", "id", "id = :second_lost", "a stake has its funded bet"),
        ("bets", "status", "id = :second_lost", "the columns of a bet fit its status"),
        ("users", "wallet_address", "id = :bob", "a user goes on in the next week"),
        ("users", "id", "id = :bob", "a user goes on in the next week"),
    ],
)
async def test_bytes_that_are_no_text_are_found_like_any_other_fault_and_hide_none(story, table, column, where, rule):
    story.plant(SECOND, f"UPDATE {table} SET {column} = {NO_TEXT} WHERE {where}")
    story.plant(SECOND, "UPDATE users SET balance = balance + 1 WHERE id = :ann")
    found = {(violation.week, violation.rule) for violation in (await story.audit()).violations}
    assert {(SECOND, rule), (SECOND, SUM)} <= found
    assert "the file can be read" not in {rule for _, rule in found}


async def test_an_id_that_is_no_text_does_not_end_the_audit(story, monkeypatch):
    monkeypatch.setattr(audit_ids, "AT_A_TIME", 1)
    story.plant(SECOND, f"UPDATE bets SET id = {NO_TEXT} WHERE id = :second_refused")  # which no rule misses
    assert (await story.audit()).ok
    story.plant(SECOND, "UPDATE users SET balance = balance + 1 WHERE id = :ann")
    assert ("balance == sum of entries", SECOND) in {
        (found.rule, found.week) for found in (await story.audit()).violations
    }


async def test_a_week_that_is_gone_is_named(story):
    path_of(story.folder, SECOND).unlink()
    report = await story.audit()
    gone = Violation(
        THIRD,
        "the week before is there",
        SECOND,
        "it cannot be read",
        file=path_of(story.folder, THIRD),
        table="partition_meta",
    )
    assert gone in report.violations


# Some weeks only


@pytest.mark.parametrize(
    "weeks", [[FIRST], [SECOND], [THIRD], [FIRST, SECOND], [SECOND, THIRD], [FIRST, THIRD], [THIRD, FIRST, SECOND], []]
)
async def test_any_choice_of_weeks_adds_up_by_itself(story, weeks):
    report = await story.audit(weeks=weeks)
    assert report.violations == ()
    assert report.counts["weeks"] == len(weeks)
    assert report.counts["money_in"] == report.counts["money_out"]
    assert (report.counts["bets"], report.counts["deposited"]) == (6 * len(weeks) + (SECOND in weeks), 7 * len(weeks))


async def test_only_the_chosen_weeks_are_looked_at(story):
    story.plant(FIRST, "UPDATE ledger_entries SET created_at = 0 WHERE id = :first_deposit")
    assert (await story.audit(weeks=[SECOND, THIRD])).ok
    assert not (await story.audit(weeks=[Week(FIRST)])).ok


async def test_a_hand_over_is_checked_with_the_week_that_took_over(story):
    story.plant(SECOND, "DELETE FROM bets WHERE id = :first_open")
    assert (await story.audit(weeks=[FIRST])).ok
    assert {found.week for found in (await story.audit(weeks=[SECOND])).violations} == {SECOND}


async def test_a_week_that_does_not_exist_is_not_passed(story):
    with pytest.raises(PartitionMissingError) as caught:
        await story.audit(weeks=[FIRST, "2030-W01"])
    assert caught.value.weeks == (Week("2030-W01"),)
    with pytest.raises(ModelError):
        await story.audit(weeks=["last week"])


async def test_progress_is_told_for_every_week(story):
    seen = []
    await story.audit(progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


# While the books are open


async def test_audits_beside_bets_settlements_and_rotations_raise_no_false_alarm(tmp_path):
    async with open_books(tmp_path) as books, open_books(tmp_path, books.clock) as others:
        users = [await books.users.create(f"0x{number}", 10_000) for number in range(5)]
        await books.partitions.write(outbox.turn_on)
        cells, finished, reports, news = itertools.count(), False, [], asyncio.Event()

        async def play(user):
            while not finished:
                bet = await books.bets.place(user.id, CELL, 5, 1.5)
                await others.bets.confirm(bet.id)
                await books.bets.settle(bet.id, True)
                await others.bets.cancel((await books.bets.place(user.id, CELL, 5, 1.5)).id)

        async def settle():
            while not finished:
                cell = f"cell {next(cells)}"
                await others.bets.place_many([NewBet(user.id, cell, 7, 1.5) for user in users * 10])
                await books.bets.settle_cell(cell, next(cells) % 4 > 1)

        async def look(at):
            while not finished:
                reports.append(await at.ledger.audit())
                news.set()

        tasks = [play(user) for user in users] + [settle(), settle(), look(books), look(others)]
        working = [asyncio.create_task(task) for task in tasks]
        for _ in range(4):
            for _ in range(2):
                news.clear()
                await news.wait()
            await books.next_week()
        finished = True
        await asyncio.gather(*working)
        assert {report.violations for report in reports} == {()}
        assert {report.unchecked for report in reports} == {()}
        await books.assert_audit_is_clean()


async def test_a_cancelled_audit_stops_in_the_middle_of_its_work_and_the_next_one_is_whole(story, monkeypatch):
    begun, loop, walk = asyncio.Event(), asyncio.get_running_loop(), Accounts.walk

    def endless(self, raw, schema):
        loop.call_soon_threadsafe(begun.set)
        raw.execute(
            f"WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
            f" SELECT count(*) FROM n JOIN {schema}.users"
        ).fetchall()
        walk(self, raw, schema)

    async with open_books(story.folder, story.clock) as books:
        with monkeypatch.context() as patched:
            patched.setattr(Accounts, "walk", endless)
            auditing = asyncio.create_task(books.ledger.audit())
            await begun.wait()
            auditing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await auditing
        assert (await books.ledger.audit()).ok


def test_no_rule_sorts_or_collects_rows_so_that_memory_does_not_grow(story):
    rules = {**WITHIN, **ACROSS, "users": audit_accounts._USERS, "entries": audit_accounts._ENTRIES}
    rules |= {"chunks": audit_cells._CHUNKS, "decided": audit_cells._DECIDED, "sums": audit_sums._BETS}
    names = {"this": "main", "schema": "main", "before": "before", "starts_at": 0, "ends_at": 0}
    with contextlib.closing(sqlite3.connect(path_of(story.folder, THIRD))) as raw:
        raw.execute("ATTACH ? AS before", (str(path_of(story.folder, SECOND)),))
        for rule, sql in rules.items():
            plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sql.format(**names)}")]
            kept = [step for step in plan if "TEMP B-TREE" in step or "MATERIALIZE" in step or "AUTOMATIC" in step]
            assert kept == [], (rule, plan)
