"""The audit against somebody who may write to the files and knows how they are made, and what is beyond its sight."""

import asyncio
import contextlib
import shutil
import sqlite3

import pytest
from ledger_files import CELL, NOON, WEEK, by_hand, open_books, path_of

from betcore_async.clock import ManualClock
from betcore_async.partitions import PartitionState
from betcore_async.partitions.chain import NOTHING, ChainLink, hash_of, links
from betcore_async.stores import Unchecked, outbox
from betcore_async.stores.audit_accounts import SUM
from betcore_async.stores.audit_chain import GOES_ON, HOLDS

FIRST, SECOND = "2026-W47", "2026-W48"
OPENS = "a balance opens as it closed the week before"


async def two_weeks(folder):
    """A sealed week and a live one, in which events are told. Each change is a link of the chain of its own."""
    async with open_books(folder, ManualClock(NOON)) as books:
        await books.partitions.write(outbox.turn_on)
        names = {wallet: (await books.users.create(wallet, 1_000)).id for wallet in ("ann", "bob")}
        for week in ("first", "second"):
            if week == "second":
                await books.next_week()
            names[f"{week}_cancelled"] = (await books.bets.place(names["ann"], CELL, 100, 1.5)).id
            names[f"{week}_lost"] = (await books.bets.place(names["ann"], CELL, 10, 1.5)).id
            await books.bets.settle(names[f"{week}_lost"], False)
            await books.bets.cancel(names[f"{week}_cancelled"])
            names[f"{week}_deposit"] = (await books.users.deposit(names["bob"], 5)).id
    return names


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    return folder, asyncio.run(two_weeks(folder))


@pytest.fixture
def weeks(written, tmp_path):
    folder, names = written
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path, names


async def audited(folder):
    async with open_books(folder, ManualClock(NOON + WEEK)) as books:
        return await books.ledger.audit()


async def told(folder):
    return [(found.week, found.rule, found.subject) for found in (await audited(folder)).violations]


def take_out_a_cancelled_bet(raw, names, week):
    """Remove a bet that moved no money in the end, with all that tells of it, and let the later entries close ranks."""
    bet = names[f"{week}_cancelled"]
    raw.execute("DELETE FROM ledger_entries WHERE ref_id = ?", (bet,))
    raw.execute("DELETE FROM bets WHERE id = ?", (bet,))
    for table in ("version", "position"):
        user = "user_id = :ann" if table == "version" else "TRUE"
        rows = raw.execute(f"SELECT id, {table} FROM ledger_entries WHERE {user} ORDER BY {table}", names).fetchall()
        for number, (entry, _) in enumerate(rows, start=rows[0][1]):
            raw.execute(f"UPDATE ledger_entries SET {table} = ? WHERE id = ?", (number, entry))
    (last,) = raw.execute("SELECT max(version) FROM ledger_entries WHERE user_id = :ann", names).fetchone()
    raw.execute("UPDATE users SET version = ? WHERE id = ?", (last, names["ann"]))
    balance = 0
    for entry, amount in raw.execute(
        "SELECT id, amount FROM ledger_entries WHERE user_id = :ann ORDER BY version", names
    ).fetchall():
        balance += amount
        raw.execute("UPDATE ledger_entries SET balance_after = ? WHERE id = ?", (balance, entry))


def forge_chain(raw):
    """Compute all links of a file anew, one for each entry behind its beginning."""
    last = next((link for link in links(raw, "main") if link.seq == 0), NOTHING)
    raw.execute("DELETE FROM ledger_chain WHERE seq > 0")
    for (position,) in raw.execute(
        "SELECT position FROM ledger_entries WHERE position > ? ORDER BY position", (last.upto,)
    ).fetchall():
        last = ChainLink(last.seq + 1, position, hash_of(raw, "main", last, position))
        raw.execute("INSERT INTO ledger_chain VALUES (?, ?, ?)", (last.seq, last.upto, last.hash))


async def test_a_bet_taken_out_of_a_sealed_week_with_its_chain_forged_is_told_by_the_next_week(weeks):
    folder, names = weeks
    with by_hand(path_of(folder, FIRST)) as raw:
        take_out_a_cancelled_bet(raw, names, "first")
        forge_chain(raw)
    assert await told(folder) == [(SECOND, OPENS, names["ann"]), (SECOND, GOES_ON, "link 0")]


async def test_a_live_week_cut_off_at_its_end_is_told_by_what_was_told_of_it(weeks):
    folder, names = weeks
    path = path_of(folder, SECOND)
    async with open_books(folder, ManualClock(NOON + WEEK)) as books:  # a relay was here
        await books.partitions.write(lambda raw, _: tell_all(raw))

    with by_hand(path) as raw:
        cut_off(raw, names)
    assert await told(folder) == [(SECOND, "what was told has happened", SECOND)]


def tell_all(raw):
    raw.execute(
        "UPDATE outbox_cursor SET week = (SELECT week FROM partition_meta), seq = (SELECT max(seq) FROM outbox),"
        " position = (SELECT max(position) FROM ledger_entries)"
    )


def cut_off(raw, names):
    """Make the live file what it was before its last deposit."""
    raw.execute("DELETE FROM ledger_entries WHERE id = :second_deposit", names)
    raw.execute("DELETE FROM ledger_chain WHERE seq = (SELECT max(seq) FROM ledger_chain)")
    raw.execute("UPDATE users SET balance = balance - 5, version = version - 1 WHERE id = :bob", names)


async def test_beyond_its_sight_a_live_week_made_what_it_was_a_while_ago(weeks):
    folder, names = weeks
    with by_hand(path_of(folder, SECOND)) as raw:
        (before,) = raw.execute("SELECT hash FROM ledger_chain ORDER BY seq DESC").fetchone()
        cut_off(raw, names)
        kept = raw.execute("SELECT count(*) FROM ledger_chain WHERE hash = ?", (before,)).fetchone()
    assert (await audited(folder)).ok
    assert kept == (0,)  # a hash that was kept elsewhere tells


async def test_beyond_its_sight_rows_that_move_no_money(weeks):
    folder, names = weeks
    with by_hand(path_of(folder, SECOND)) as raw:
        raw.execute("UPDATE bets SET cell_id = 'another', reward_ppm = 9000000 WHERE id = :second_lost", names)
        raw.execute("UPDATE bets SET resolved_at = resolved_at + 1 WHERE id = :second_lost", names)
        raw.execute("DELETE FROM outbox WHERE seq = (SELECT max(seq) FROM outbox)")
    assert (await audited(folder)).ok


@pytest.mark.parametrize("week", [FIRST, SECOND])
async def test_an_entry_replaced_by_a_foreign_connection_is_named(weeks, week):
    folder, names = weeks
    path = path_of(folder, week)
    path.chmod(0o600)
    entry = names["first_deposit" if week == FIRST else "second_deposit"]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:  # whose triggers are there, and silent
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute(
            "INSERT OR REPLACE INTO ledger_entries SELECT position, id, user_id, version, amount, balance_after,"
            ' ref_type, ref_id, \'{"why": "a gift"}\', created_at FROM ledger_entries WHERE id = ?',
            (entry,),
        )
        (position,) = raw.execute("SELECT position FROM ledger_entries WHERE id = ?", (entry,)).fetchone()
    (found,) = (await audited(folder)).violations
    assert (found.week, found.rule, found.subject) == (week, HOLDS, entry)
    assert (found.file, found.table, found.positions) == (path, "ledger_entries", (position, position))


async def test_a_sealed_week_of_another_family_is_told_by_every_user_and_by_the_chain(weeks, tmp_path_factory):
    folder, _ = weeks
    other = tmp_path_factory.mktemp("other")
    strangers = await two_weeks(other)
    path_of(folder, FIRST).unlink()
    shutil.copy(path_of(other, FIRST), path_of(folder, FIRST))
    found = await told(folder)
    assert {(SECOND, OPENS, strangers["ann"]), (SECOND, OPENS, strangers["bob"]), (SECOND, GOES_ON, "link 0")} < set(
        found
    )
    assert {week for week, *_ in found} == {SECOND}


@pytest.mark.usefixtures("object_stores")
async def test_a_changed_opening_is_found_or_told_to_be_unchecked(weeks):
    folder, names = weeks
    with by_hand(path_of(folder, SECOND)) as raw:  # of a user whose later entries go along
        raw.execute("DELETE FROM ledger_entries WHERE user_id = :bob AND ref_type <> 'carry_forward'", names)
        raw.execute("UPDATE ledger_entries SET amount = 9999, balance_after = 9999 WHERE user_id = :bob", names)
        (version,) = raw.execute("SELECT version FROM ledger_entries WHERE user_id = :bob", names).fetchone()
        raw.execute("UPDATE users SET balance = 9999, version = ? WHERE id = ?", (version, names["bob"]))
        raw.execute("DELETE FROM ledger_chain WHERE seq = (SELECT max(seq) FROM ledger_chain)")
    assert await told(folder) == [(SECOND, OPENS, names["bob"])]
    async with open_books(folder, ManualClock(NOON + 4 * WEEK)) as books:
        for _ in range(3):
            await books.partitions.rotate_to_new_week()
        await books.partitions.archive(FIRST)
        states = {info.week.name: info.state for info in await books.partitions.partitions()}
        assert states[FIRST] is PartitionState.ARCHIVED
        report = await books.ledger.audit()
    assert report.ok
    assert report.unchecked == (
        Unchecked(FIRST, "all of it: it is in the archive"),
        Unchecked(SECOND, f"its openings and where its chain begins: the week before, {FIRST}, is in the archive"),
    )


async def test_the_openings_of_the_first_week_are_hashed_like_any_entry(weeks):
    folder, names = weeks
    with by_hand(path_of(folder, FIRST)) as raw:
        raw.execute("UPDATE ledger_entries SET amount = 2000 WHERE user_id = :ann AND version = 1", names)
    found = {(week, rule) for week, rule, _ in await told(folder)}
    assert {(FIRST, HOLDS), (FIRST, SUM)} <= found
