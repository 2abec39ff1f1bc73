"""`betcore audit` as its users run it: a verdict for people and for programs, and an exit status."""

import contextlib
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys

import pytest
from integration.commands import COMMAND, betcore, environment
from ledger_files import CELL, NOON, WEEK, by_hand, open_books, path_of

from betcore_async.clock import ManualClock

FIRST, SECOND = "2026-W47", "2026-W48"


@pytest.fixture
async def story(tmp_path):
    """Two weeks with a bet that was won and one that was carried over; returns the folder and the ids."""
    folder = tmp_path / "data"
    async with open_books(folder) as books:
        user = await books.users.create("0xabc", 1_000)
        won = await books.bets.settle((await books.bets.place(user.id, CELL, 100, 1.9)).id, True)
        carried = await books.bets.place(user.id, "another", 50, 2.0)
        await books.next_week()
    return folder, {"user": user.id, "won": won.id, "carried": carried.id}


def audit(folder, *arguments):
    result = betcore("audit", *arguments, folder=folder.parent, DB_PATH="data/bets.db")
    return result, json.loads(result.out) if "--json" in arguments and result.out else None


def plant(folder, week, sql, **values):
    with by_hand(path_of(folder, week)) as raw:
        assert raw.execute(sql, values).rowcount == 1


def test_books_that_are_right_are_said_to_be_so(story):
    folder, _ = story
    result, verdict = audit(folder, "--json")
    assert (result.status, verdict["ok"], verdict["first"], verdict["violations"]) == (0, True, None, [])
    assert verdict["unchecked"] == []
    assert verdict["counts"]["weeks"] == 2
    assert verdict["counts"]["money_in"] == verdict["counts"]["money_out"] == 1_190
    assert verdict["seconds"] > 0
    told, _ = audit(folder)
    assert (told.status, told.out.split(":")[0]) == (0, "all adds up")
    elsewhere = betcore("audit", folder, folder="/")
    assert elsewhere.status == 0


def rows(violation):
    """The ids of the entries to which a violation points."""
    with contextlib.closing(sqlite3.connect(f"file:{violation['file']}?mode=ro", uri=True)) as raw:
        sql = "SELECT id FROM ledger_entries WHERE position BETWEEN ? AND ?"
        return [row[0] for row in raw.execute(sql, violation["positions"])]


FAULTS = {
    "a changed balance": (SECOND, "UPDATE users SET balance = balance + 1 WHERE id = :user", "user"),
    "a deleted entry": (
        FIRST,
        "DELETE FROM ledger_entries WHERE ref_type = 'payout' AND ref_id = :won",
        "user",
    ),
    "an edited entry": (
        FIRST,
        "UPDATE ledger_entries SET amount = -101 WHERE ref_type = 'stake' AND ref_id = :won",
        "",
    ),
    "a doubled payout": (
        FIRST,
        "UPDATE bets SET payout_amount = payout_amount * 2 WHERE id = :won",
        "won",
    ),
    "a bet in two homes": (
        SECOND,
        "UPDATE bets SET placed_at = (SELECT starts_at FROM partition_meta) WHERE id = :carried",
        "carried",
    ),
    "a lost carry-forward": (SECOND, "DELETE FROM ledger_entries WHERE ref_type = 'carry_forward'", "user"),
    "a broken chain": (FIRST, "UPDATE ledger_chain SET hash = zeroblob(32) WHERE seq = 2", "link 2"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_with_its_first_wrong_row_and_status_one(story, name):
    folder, ids = story
    week, sql, subject = FAULTS[name]
    plant(folder, week, sql, **ids)
    result, verdict = audit(folder, "--json")
    assert (result.status, verdict["ok"]) == (1, False)
    assert verdict["first"] == verdict["violations"][0]
    assert verdict["first"]["week"] == week
    for violation in verdict["violations"]:
        assert {"week", "rule", "subject", "detail", "file", "table", "positions"} == set(violation)
        violation["file"] = folder.parent / violation["file"]
        assert violation["file"] == path_of(folder, violation["week"])
        entries = [] if violation["table"] != "ledger_entries" else rows(violation)
        assert violation["positions"] is None or violation["subject"] in {*entries, "link 2", "link 3"}
    if subject:
        assert ids.get(subject, subject) in {violation["subject"] for violation in verdict["violations"]}
    told, _ = audit(folder)
    assert told.status == 1
    assert verdict["first"]["rule"] in told.out


def test_only_the_weeks_that_are_named_are_looked_at(story):
    folder, ids = story
    plant(folder, SECOND, "UPDATE users SET balance = balance + 1 WHERE id = :user", **ids)
    assert audit(folder, "--week", FIRST)[0].status == 0
    assert audit(folder, "--week", FIRST, "--week", SECOND)[0].status == 1
    assert audit(folder, "--week", "2026-W01")[0].status == 2
    assert audit(folder, "--week", "soon")[0].status == 2


def test_where_there_is_nothing_to_look_at_nothing_is_passed(tmp_path):
    result, _ = audit(tmp_path / "data", "--json")
    assert result.status == 2
    assert "there is no weekly file" in result.complaint
    assert list(tmp_path.iterdir()) == []


async def test_a_damaged_week_is_a_finding_and_a_damaged_live_one_leaves_nothing_to_look_at(story):
    folder, ids = story
    async with open_books(folder, ManualClock(NOON + WEEK)) as books:
        await books.users.deposit(ids["user"], 1)
    path_of(folder, FIRST).chmod(0o600)
    path_of(folder, FIRST).write_bytes(b"no database at all" * 1000)
    result, verdict = audit(folder, "--json")
    assert (result.status, verdict["first"]["rule"], verdict["first"]["table"]) == (1, "the file can be read", None)
    path_of(folder, SECOND).write_bytes(b"no database at all" * 1000)
    result, _ = audit(folder, "--json")
    assert (result.status, "no weekly file" in result.complaint) == (2, True)


@pytest.mark.usefixtures("object_stores")
async def test_what_is_in_the_archive_is_told_to_be_unchecked(story):
    folder, _ = story
    async with open_books(folder, ManualClock(NOON + 4 * WEEK)) as books:
        await books.partitions.rotate_to_new_week()
        await books.partitions.archive(FIRST)
    told, _ = audit(folder)
    assert told.status == 0
    assert f"not checked in {FIRST}: all of it: it is in the archive" in told.out
    _, verdict = audit(folder, "--json")
    assert [unchecked["week"] for unchecked in verdict["unchecked"]] == [FIRST, SECOND]


ENDLESS = """
import sys
from betcore_async.stores.audit_accounts import Accounts
from betcore_async.cli import main

def walk(self, raw, schema):
    print("begun", file=sys.stderr, flush=True)
    raw.execute("WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n").fetchall()

Accounts.walk = walk
main()
"""


def test_ctrl_c_ends_it_at_once_with_a_status_that_is_no_verdict(story):
    folder, _ = story
    command = [sys.executable, "-c", ENDLESS, "audit", str(folder), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as auditing:
        assert auditing.stderr.readline() == "begun\n"
        auditing.send_signal(signal.SIGINT)
        out, complaint = auditing.communicate(timeout=100)
    # Some versions of the command-line library end the line that the terminal shows ^C in, as they should.
    assert (auditing.returncode, out, complaint.strip()) == (130, "", "")
    assert audit(folder)[0].status == 0


def test_a_terminal_is_shown_how_far_it_is(story):
    folder, _ = story
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            [*COMMAND, "audit", str(folder)],
            stdout=subprocess.PIPE,
            stderr=follower,
            env=environment(TERM="xterm", COLUMNS="100"),
            timeout=100,
            check=True,
        )
        os.set_blocking(leader, False)
        shown = os.read(leader, 100_000).decode()
    finally:
        os.close(leader)
        os.close(follower)
    assert "2/2" in shown
    assert done.stdout.startswith(b"all adds up")
