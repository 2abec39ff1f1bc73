"""How weekly files are read: in one hop, in one snapshot beside a rotation, with a bounded number of them open."""

import asyncio
import os
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_files import Gate, until
from weekly_files import ALWAYS, Platform, W, direct, platform

from betcore_async.errors import (
    BetcoreError,
    ModelError,
    NotBetcoreDatabaseError,
    PartitionDamagedError,
    PartitionMissingError,
)
from betcore_async.partitions import PartitionState, Week, handles
from betcore_async.partitions.handles import HandlesConnection
from betcore_async.partitions.question import Cursor
from betcore_async.sqlite.connection import Link


@pytest.fixture
async def it(tmp_path):
    """Four weeks, the last one live: in each two bets, one of which stays open for good."""
    async with platform(tmp_path / "data") as it:
        it.user = (await it.users.create("0xabc", 10_000)).id
        it.placed = []
        for number in range(4):
            if number:
                await it.next_week()
            it.placed.append((await it.bets.place(it.user, "open", 10, 2.0)).id)
            it.placed.append((await it.bets.place(it.user, "cell", 20, 2.0)).id)
            await it.bets.settle(it.placed[-1], won=True)
        await until(lambda: not it.manager._reading.retiring)
        yield it


QUESTIONS = {
    "a page": lambda it: it.manager.query_bets(it.user, *ALWAYS),
    "totals": lambda it: it.manager.sum_bets(*ALWAYS),
    "totals of a user": lambda it: it.manager.sum_bets(*ALWAYS, user_id=it.user),
    "own SQL": lambda it: it.manager.query("SELECT id FROM bets", start=ALWAYS[0], end=ALWAYS[1]),
    "a part of a stream": lambda it: anext(it.manager.iterate_bets(*ALWAYS)),
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_question_over_all_weeks_is_one_hop(it, question, monkeypatch):
    await QUESTIONS[question](it)
    hops, run = [], Link.run
    monkeypatch.setattr(Link, "run", lambda link, function: hops.append(function) or run(link, function))
    await QUESTIONS[question](it)
    assert len(hops) == 1


def pause_at(monkeypatch, week: Week, gate: Gate) -> None:
    """Hold the first question that gets to a week's file there, until the gate is opened."""
    handle, passed = HandlesConnection.handle, []

    def held(hub, wanted, path):
        if wanted == week and not passed:
            passed.append(wanted)
            gate.pass_through()
        return handle(hub, wanted, path)

    monkeypatch.setattr(HandlesConnection, "handle", held)


@pytest.mark.parametrize(("week", "limit"), [(W[0], 64), (W[1], 2), (W[2], 64)])
@pytest.mark.parametrize("question", ["a page", "totals of a user"])
async def test_a_rotation_in_the_middle_of_a_question_changes_nothing_of_its_answer(
    it, question, week, limit, monkeypatch
):
    monkeypatch.setattr(handles, "HANDLE_LIMIT", limit)
    before = await QUESTIONS[question](it)
    gate = Gate()
    pause_at(monkeypatch, week, gate)
    asked = asyncio.create_task(QUESTIONS[question](it))
    await gate.reached()  # the snapshot of the live week is taken, this file is yet to be read
    await it.bets.settle(it.placed[0], won=True)
    await it.bets.place(it.user, "more", 5, 2.0)
    await it.next_week()
    await it.bets.settle(it.placed[2], won=False)
    await it.bets.place(it.user, "even more", 5, 2.0)
    gate.open()
    assert await asked == before
    after = await QUESTIONS[question](it)
    assert (len(after.bets) if question == "a page" else after.count) == len(it.placed) + 2


@settings(max_examples=12)
@given(limit=st.integers(1, 4), newest_first=st.booleans(), rotate_after=st.sets(st.integers(0, 4), max_size=3))
async def test_pages_across_rotations_show_every_bet_once(limit, newest_first, rotate_after, tmp_path_factory):
    async with platform(tmp_path_factory.mktemp("data") / "data") as it:
        user = (await it.users.create("0xabc", 10_000)).id
        placed = []
        for number in range(8):
            placed.append((await it.bets.place(user, "cell", 10, 2.0)).id)
            if number % 3 == 2:
                await it.next_week()
        found, cursor, number = [], None, 0
        while True:
            page = await it.manager.query_bets(user, *ALWAYS, limit=limit, cursor=cursor, newest_first=newest_first)
            found += [bet.id for bet in page.bets]
            cursor = page.next_cursor
            if cursor is None:
                break
            if number in rotate_after:
                await it.bets.settle(placed.pop(), won=True)
                placed.append((await it.bets.place(user, "new", 5, 2.0)).id)
                await it.next_week()
            number += 1
    assert len(found) == len(set(found))
    assert set(placed[:7]) <= set(found)


@pytest.mark.parametrize("newest_first", [True, False])
async def test_weeks_before_an_account_was_opened_are_not_looked_at(it, newest_first, monkeypatch):
    late = await it.users.create("0xdef", 100)
    bet = await it.bets.place(late.id, "cell", 5, 2.0)
    looked, handle = [], HandlesConnection.handle
    monkeypatch.setattr(HandlesConnection, "handle", lambda hub, *file: looked.append(file[0]) or handle(hub, *file))
    page = await it.manager.query_bets(late.id, *ALWAYS, newest_first=newest_first)
    assert [found.id for found in page.bets] == [bet.id]
    assert set(looked) <= {W[3], W[2] if newest_first else W[0]}  # the second for not knowing yet
    looked.clear()
    assert (await it.manager.query_bets("nobody", *ALWAYS, newest_first=newest_first)).bets == []
    assert set(looked) <= {W[3], W[0]}


async def test_no_more_files_are_open_than_the_bound_allows(it, monkeypatch):
    monkeypatch.setattr(handles, "HANDLE_LIMIT", 2)
    for week in W[:4]:
        await it.manager._reading.scanners.forget(week)
    for question in ("a page", "totals of a user", "totals", "a part of a stream"):
        answer = await QUESTIONS[question](it)
        assert answer == await QUESTIONS[question](it)
        for scanner in it.manager._reading.scanners._scanners:
            assert len(scanner._hub._handles) <= 2
    assert len((await it.manager.query_bets(it.user, *ALWAYS)).bets) == 8


async def cancel_behind(gate, it, ask):
    """Cancel a question that has passed the gate, and see that others are answered afterwards."""
    work = asyncio.create_task(it.manager.scan(ask))
    await gate.reached()
    gate.open()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await it.manager.count_bets(*ALWAYS) == 8


async def test_a_question_in_one_of_the_files_is_interrupted_by_a_cancel(it):
    endless = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    gate = Gate()

    def ask(scanner, catalog):
        raw = scanner.handle(catalog[W[0]]).raw
        gate.pass_through()
        raw.execute(endless)

    await cancel_behind(gate, it, ask)


@pytest.mark.parametrize("attached", [False, True])
async def test_cancelled_question_ends_although_another_cursor_of_it_is_open(it, attached):
    endless = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"
    gate = Gate()

    def ask(scanner, catalog):
        raw = scanner.link.raw if attached else scanner.handle(catalog[W[3]]).raw
        if attached:
            raw.execute("BEGIN")
        numbers = raw.execute(endless.format("i"))  # as the audit walks through users and entries side by side
        gate.pass_through()
        raw.execute(endless.format("count(*)"))
        return next(numbers)

    await cancel_behind(gate, it, ask)


# Hostile and foreign files


def with_a_view(raw):
    raw.execute("ALTER TABLE bets RENAME TO real_bets")
    raw.execute("CREATE VIEW bets AS SELECT * FROM real_bets")


def with_a_virtual_table(raw):
    raw.execute("ALTER TABLE bets RENAME TO real_bets")
    raw.execute("CREATE VIRTUAL TABLE bets USING fts5(id, user_id)")


def with_another_owner(raw):
    raw.execute("PRAGMA application_id = 1")


def with_a_newer_schema(raw):
    raw.execute("PRAGMA user_version = 999")


def with_another_week(raw):
    raw.execute("DROP TRIGGER partition_meta_sealed_is_final")
    raw.execute("UPDATE partition_meta SET week = '2026-W30'")


def with_other_columns(raw):
    raw.execute("ALTER TABLE bets RENAME TO real_bets")
    raw.execute("CREATE TABLE bets (id, user_id, amount)")


def with_weeks_out_of_order(raw):
    raw.execute("DROP TRIGGER partition_meta_sealed_is_final")
    raw.execute("UPDATE partition_meta SET predecessor = '9999-W51'")


def with_a_successor_in_another_state(raw):
    raw.execute("DROP TRIGGER partition_meta_sealed_is_final")
    raw.execute("PRAGMA ignore_check_constraints = ON")
    raw.execute("UPDATE partition_meta SET successor = iif(successor IS NULL, '2030-W01', NULL)")


def with_a_trigger(raw):
    raw.execute("CREATE TRIGGER more AFTER INSERT ON ledger_entries BEGIN UPDATE users SET balance = balance + 1; END")


def with_another_trigger(raw):
    raw.execute("DROP TRIGGER bets_are_kept")
    raw.execute("CREATE TRIGGER bets_are_kept AFTER INSERT ON bets BEGIN UPDATE users SET balance = 0; END")


def with_one_more_view(raw):
    raw.execute("CREATE VIEW of_users AS SELECT * FROM users")
    raw.execute("CREATE TRIGGER through INSTEAD OF INSERT ON of_users BEGIN SELECT 1; END")


HOSTILE = [
    with_a_view,
    with_a_virtual_table,
    with_another_owner,
    with_a_newer_schema,
    with_another_week,
    with_other_columns,
    with_weeks_out_of_order,
    with_a_successor_in_another_state,
]


@pytest.mark.parametrize("spoil", [*HOSTILE, with_a_trigger, with_another_trigger, with_one_more_view])
async def test_nothing_is_written_to_a_hostile_file_under_the_name_of_the_live_week(it, spoil):
    await it.manager.close()
    path = it.file(W[3])
    with direct(path) as raw:
        spoil(raw)
        raw.execute("PRAGMA journal_mode = DELETE")
    content = path.read_bytes()
    with pytest.raises(BetcoreError, match=path.name):
        async with platform(it.folder, W[3]):
            pass
    assert path.read_bytes() == content
    assert not it.file(W[4]).exists()


@pytest.mark.parametrize("spoil", HOSTILE)
async def test_a_file_that_is_not_what_it_says_is_told_by_name_and_never_read(it, spoil):
    folder = it.folder
    await it.manager.close()
    path = it.file(W[1])
    path.chmod(0o600)
    with direct(path) as raw:
        spoil(raw)
    content = path.read_bytes()
    async with platform(folder, W[3]) as other:
        infos = {info.week: info for info in await other.manager.partitions()}
        assert infos[W[1]].state is PartitionState.DAMAGED
        assert path.name in infos[W[1]].problem
        for question in (
            other.manager.count_bets(*ALWAYS),
            other.manager.query("SELECT * FROM bets", start=ALWAYS[0], end=ALWAYS[1]),
            other.manager.query_bets(it.user, *ALWAYS),
        ):
            with pytest.raises(BetcoreError, match=str(W[1])):
                await question
    assert path.read_bytes() == content


async def test_a_sealed_file_is_opened_so_that_it_cannot_be_written_or_run_code(it):
    def attempt(scanner, catalog):
        raw = scanner.handle(catalog[W[0]]).raw
        refused = []
        for sql in ("DELETE FROM bets", "CREATE TABLE t (x)", "PRAGMA user_version = 9"):
            try:
                raw.execute(sql)
            except sqlite3.OperationalError as error:
                refused.append(str(error))
        (trusted,) = raw.execute("PRAGMA trusted_schema").fetchone()
        return len(refused), trusted

    assert await it.manager.scan(attempt) == (3, 0)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    "spoil", [with_a_view, with_a_virtual_table, with_another_owner, with_another_week, with_other_columns]
)
async def test_a_file_that_is_swapped_for_a_hostile_one_after_the_start_is_not_read(it, spoil, question, tmp_path):
    other = tmp_path / "other.db"
    other.write_bytes(it.file(W[1]).read_bytes())
    with direct(other) as raw:
        spoil(raw)
    other.replace(it.file(W[1]))
    await it.manager._reading.scanners.forget(W[1])  # else it goes on with the file it has open
    with pytest.raises((PartitionDamagedError, NotBetcoreDatabaseError), match=str(W[1])):
        await QUESTIONS[question](it)


def a_link(path):
    path.rename(path.with_name("moved"))
    path.symlink_to(path.with_name("moved"))


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)  # who opened it to read would wait for ever


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("swap", [a_link, a_pipe, a_folder])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_what_is_no_plain_file_any_more_is_not_opened(it, swap, question, elsewhere, tmp_path):
    if elsewhere:
        await it.manager.detach_partition(W[1])
        path = it.file(W[1]).rename(tmp_path / "attached.db")
        await it.manager.attach_partition(W[1], path)
    swap(tmp_path / "attached.db" if elsewhere else it.file(W[1]))
    await it.manager._reading.scanners.forget(W[1])
    with pytest.raises(PartitionMissingError, match=str(W[1])):
        await QUESTIONS[question](it)


@pytest.mark.parametrize("swap", [a_link, a_pipe, a_folder])
async def test_a_live_week_that_is_no_plain_file_any_more_is_not_read(it, swap):
    await it.manager._reading.scanners.forget(W[3])
    swap(it.file(W[3]))
    with pytest.raises(PartitionDamagedError, match="not a regular file"):
        await it.manager.count_bets(*ALWAYS)


# What callers pass

BAD = {
    "a status there is not": lambda it: it.manager.query_bets(it.user, *ALWAYS, status="nope"),
    "a status there is not, counted": lambda it: it.manager.count_bets(*ALWAYS, status=""),
    "a status there is not, streamed": lambda it: anext(it.manager.iterate_bets(*ALWAYS, status="nope")),
    "a limit in text": lambda it: it.manager.query_bets(it.user, *ALWAYS, limit="5"),
    "a limit that is no whole number": lambda it: it.manager.query_bets(it.user, *ALWAYS, limit=1.5),
    "a limit of True": lambda it: it.manager.query_bets(it.user, *ALWAYS, limit=True),
    "a chunk beyond all bounds": lambda it: anext(it.manager.iterate_bets(*ALWAYS, chunk=2**70)),
    "a cursor beyond all times": lambda it: it.manager.query_bets(it.user, *ALWAYS, cursor=Cursor(2**70, "x")),
    "a cursor with text for a time": lambda it: it.manager.query_bets(it.user, *ALWAYS, cursor=Cursor("5", "x")),
    "a cursor without an id": lambda it: it.manager.query_bets(it.user, *ALWAYS, cursor=Cursor(5, None)),
    "a cursor that is none": lambda it: it.manager.query_bets(it.user, *ALWAYS, cursor=(5, "x")),
    "half a character": lambda it: it.manager.query_bets("\ud800", *ALWAYS),
    "half a character, added up": lambda it: it.manager.sum_bets(*ALWAYS, user_id="\ud800"),
    "half a character, streamed": lambda it: anext(it.manager.iterate_bets(*ALWAYS, user_id="\ud800")),
    "a user that is no text": lambda it: it.manager.query_bets(7, *ALWAYS),
    "half a character in a cursor": lambda it: it.manager.query_bets(it.user, *ALWAYS, cursor=Cursor(5, "\ud800")),
}


@pytest.mark.parametrize("what", BAD)
async def test_what_makes_no_sense_is_refused_before_any_file_is_asked(it, what, monkeypatch):
    monkeypatch.setattr(Link, "run", lambda *_: pytest.fail("a file was asked"))
    with pytest.raises(ModelError):
        await BAD[what](it)


@pytest.mark.parametrize("moment", ["2026-01-01", None, 5, ALWAYS[0].date(), ALWAYS[0].replace(tzinfo=None)])
async def test_a_range_of_anything_but_aware_datetimes_is_refused(it, moment):
    with pytest.raises(ModelError, match="aware datetime"):
        await it.manager.count_bets(moment, ALWAYS[1])


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b", "a" * 5000, "not there"])
async def test_a_path_that_names_no_file_is_not_attached(it, path):
    with pytest.raises(PartitionMissingError, match="no file"):
        await it.manager.attach_partition("2026-W01", path)


# A start on many files


async def test_a_start_finds_hundreds_of_files_with_a_few_looks_at_each(tmp_path, monkeypatch):
    weeks = [Week("2015-W01")]
    while len(weeks) < 200:
        weeks.append(weeks[-1].next())
    folder = tmp_path / "data"
    async with platform(folder, weeks[0]):
        pass
    multiply(Platform(None, None, folder), weeks)  # type: ignore[arg-type]
    opened, connect = [], sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **named: opened.append(a) or connect(*a, **named))
    async with platform(folder, weeks[-1]) as it:
        assert it.manager.current_week == weeks[-1]
        assert len(opened) < 2 * len(weeks) + 20
        assert await it.manager.count_bets(*ALWAYS) == 0


def multiply(it: Platform, weeks: list[Week]) -> None:
    """Make a chain of files out of the one of the first week."""
    content = it.file(weeks[0]).read_bytes()
    for number, week in enumerate(weeks):
        path = it.file(week)
        path.write_bytes(content)
        with direct(path) as raw:
            for pragma in ("journal_mode = DELETE", "synchronous = OFF"):
                raw.execute(f"PRAGMA {pragma}")
            before = weeks[number - 1].name if number else None
            raw.execute(
                "UPDATE partition_meta SET week = ?, starts_at = ?, ends_at = ?, predecessor = ?",
                (week.name, week.starts_at, week.ends_at, before),
            )
            if week != weeks[-1]:
                after = (weeks[number + 1].name, week.ends_at)
                raw.execute("UPDATE partition_meta SET state = 'sealed', successor = ?, sealed_at = ?", after)
        path.chmod(0o600 if week == weeks[-1] else 0o400)
