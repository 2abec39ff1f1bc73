"""SQL of the user's own over several groups of files: asked at the same time, as one answer, and stopped as one."""

import asyncio
import shutil
import sqlite3
import threading
from collections import Counter
from datetime import timedelta

import pytest
from sqlite_files import PATIENCE, Gate, until
from weekly_files import ALWAYS, W, direct, platform

from betcore_async.errors import PartitionDamagedError, PartitionMissingError, PoolClosedError
from betcore_async.partitions import own_groups, scanner
from betcore_async.partitions.handles import StaleCatalogError

WEEKS = 13
ENDLESS = ", ".join(f"users u{number}" for number in range(40))  # 3 to the 40th rows


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Each week with a bet that is decided at once, one that is decided a week later, and one that stays open."""
    folder = tmp_path_factory.mktemp("template") / "data"

    async def build() -> None:
        async with platform(folder) as it:
            users = [(await it.users.create(f"0x{number}", 10_000)).id for number in range(3)]
            late = None
            for number in range(WEEKS):
                if number:
                    await it.next_week()
                if late:
                    await it.bets.settle(late, won=True)
                at_once, late, _ = [(await it.bets.place(user, "cell", 10 + number, 2.0)).id for user in users]
                await it.bets.settle(at_once, won=False)

    asyncio.run(build())
    return folder


@pytest.fixture
async def it(template, tmp_path):
    shutil.copytree(template, tmp_path / "data")
    async with platform(tmp_path / "data", W[WEEKS - 1]) as it:
        it.clock.advance(timedelta(hours=1))
        yield it


def ask(it, sql, parameters=()):
    return it.manager.query(sql, parameters, start=ALWAYS[0], end=ALWAYS[1])


def gate_at(monkeypatch, week, then=lambda: None):
    """Hold the group with a week's file, and those asked after it, before they look into their files."""
    gate, reached, asking = Gate(), [], own_groups.ask_group

    def held(scanner, question, files):
        if not reached and week in {file.week for file in files}:
            reached.append(week)
            gate.pass_through()
            then()
        elif reached:
            gate.pass_through()
        return asking(scanner, question, files)

    monkeypatch.setattr(own_groups, "ask_group", held)
    return gate


def left_behind(it):
    """What a question has not cleaned up: databases to merge in, views, scanners in a transaction."""
    scanners = it.manager._reading.scanners
    views = [
        name
        for each in scanners._scanners
        for (name,) in each.link.raw.execute("SELECT name FROM temp.sqlite_schema").fetchall()
    ]
    return [*scanners._merging, *views, *(each for each in scanners._scanners if each.link.raw.in_transaction)]


async def test_groups_are_asked_on_several_threads_at_a_time(it, monkeypatch):
    threads, asking = set(), own_groups.ask_group
    together = threading.Barrier(2)

    def meet(scanner, question, files):
        if threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            together.wait(PATIENCE)  # the one waits until the other is there: they are never one after the other
        return asking(scanner, question, files)

    monkeypatch.setattr(own_groups, "ask_group", meet)
    for sql in ("SELECT count(*) FROM bets", "SELECT id FROM bets ORDER BY id", "SELECT id FROM bets"):
        assert await ask(it, sql)
    assert len(threads) == 2
    assert not left_behind(it)


async def test_other_questions_get_their_turn_between_the_groups(it, monkeypatch):
    order, gate, asking = [], Gate(), own_groups.ask_group

    def noted(scanner, question, files):
        order.append("a group")
        if len(order) == 1:
            gate.pass_through()  # so that one thread is left
        return asking(scanner, question, files)

    monkeypatch.setattr(own_groups, "ask_group", noted)
    long = asyncio.create_task(ask(it, "SELECT count(*) FROM bets"))
    await gate.reached()
    assert await it.manager.count_bets(*ALWAYS) == 3 * WEEKS
    order.append("ours")
    assert not long.done()
    gate.open()
    assert (await long)[0][0] == 3 * WEEKS
    assert order.count("a group") == WEEKS


QUESTIONS = {
    "rows in an order": "SELECT id, status, amount FROM bets ORDER BY placed_at DESC, id",
    "rows": "SELECT id, status, amount FROM bets",
    "sums": "SELECT status, count(*), sum(amount) FROM bets GROUP BY status ORDER BY status",
    "sums beside users": """SELECT status, count(*), sum(amount) FROM bets JOIN users ON users.id = user_id
        GROUP BY status ORDER BY status""",
}


def summed(bets):
    """What `sums` has to say of these bets."""
    amounts = Counter()
    for bet in bets:
        amounts[bet.status] += bet.amount
    counts = Counter(bet.status for bet in bets)
    return [(status, counts[status], amounts[status]) for status in sorted(counts)]


async def bets_of(it):
    return [bet async for bet in it.manager.iterate_bets(*ALWAYS)]


@pytest.mark.parametrize("rotator", ["this manager", "another one"])
@pytest.mark.parametrize("held", [W[0], W[5], W[WEEKS - 1]])
@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_rotation_between_the_groups_neither_hides_nor_doubles_a_bet(it, question, held, rotator, monkeypatch):
    gate = gate_at(monkeypatch, held)
    moments = [await bets_of(it)]
    waiting = [bet for bet in moments[0] if bet.is_open]
    asked = asyncio.create_task(ask(it, QUESTIONS[question]))
    await gate.reached()
    async with platform(it.folder, W[WEEKS - 1]) as other:  # the threads of ours are held
        other.clock.now = it.clock.now
        for week in W[WEEKS : WEEKS + 2]:
            # Carried over from long ago and from this week: decided in the file that is about to be sealed.
            await other.bets.settle(waiting.pop(0).id, won=True)
            await other.bets.settle(waiting.pop().id, won=True)
            await other.bets.place(waiting[0].user_id, "more", 5, 2.0)
            moments.append(await bets_of(other))
            rotating = it if rotator == "this manager" else other
            other.clock.now = it.clock.now = week.start + timedelta(hours=1)
            assert (await rotating.manager.rotate_to_new_week()).performed
        gate.open()
        found = [tuple(row) for row in await asked]
        if question.startswith("sums"):
            assert found in [summed(bets) for bets in moments]
        else:
            assert sorted(found) in [sorted((bet.id, bet.status, bet.amount) for bet in bets) for bets in moments]
        if rotator == "this manager" and question.startswith("sums") and held is not W[WEEKS - 1]:
            assert found == summed(moments[-1])  # there were groups yet to be asked, so all were asked anew
        assert not left_behind(it)


async def test_a_week_that_is_detached_between_the_groups_is_not_opened_again(it, monkeypatch):
    gate = gate_at(monkeypatch, W[0])
    asked = asyncio.create_task(ask(it, "SELECT count(*) FROM bets"))
    await gate.reached()
    detaching = asyncio.create_task(it.manager.detach_partition(W[WEEKS - 2]))
    await until(lambda: W[WEEKS - 2] not in it.manager._catalog)
    gate.open()
    await detaching
    with pytest.raises(PartitionMissingError, match=str(W[WEEKS - 2])):
        await asked
    for each in it.manager._reading.scanners._scanners:
        assert W[WEEKS - 2] not in each._attached
        assert W[WEEKS - 2].name not in each._hub._handles
    assert not left_behind(it)


async def test_a_file_that_is_swapped_between_the_groups_for_a_hostile_one_is_not_read(it, tmp_path, monkeypatch):
    sql = "SELECT count(*) FROM bets JOIN users ON users.id = user_id"
    assert (await ask(it, sql))[0][0] == 3 * WEEKS  # each file is open, and was found to be what it says
    other = tmp_path / "other.db"
    other.write_bytes(it.file(W[1]).read_bytes())
    with direct(other) as raw:
        raw.execute("ALTER TABLE bets RENAME TO real_bets")
        raw.execute("CREATE VIEW bets AS SELECT * FROM real_bets")
    entry = it.manager._catalog[W[1]]
    for each in it.manager._reading.scanners._scanners:  # not attached any more, but open beside what is
        await each.link.run(lambda _, each=each: (each.detach(W[1]), each.handle(entry)))
    gate = gate_at(monkeypatch, W[1])
    asked = asyncio.create_task(ask(it, sql))
    await gate.reached()
    other.replace(it.file(W[1]))
    gate.open()
    with pytest.raises(PartitionDamagedError, match=str(W[1])):
        await asked
    with pytest.raises(PartitionDamagedError, match=str(W[1])):
        await ask(it, sql)
    assert not left_behind(it)


async def test_a_cancel_interrupts_all_groups_and_leaves_nothing_behind(it, monkeypatch):
    both, asking = Gate(), own_groups.ask_group
    together = threading.Barrier(2, both.pass_through)

    def meet(scanner, question, files):
        together.wait(PATIENCE)
        return asking(scanner, question, files)

    monkeypatch.setattr(own_groups, "ask_group", meet)
    asked = asyncio.create_task(ask(it, f"SELECT count(*) FROM bets, {ENDLESS}"))
    await both.reached()  # two of them are about to run for ever
    both.open()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not it.manager._reading.scanners._scanners
    assert not left_behind(it)
    monkeypatch.undo()
    assert (await ask(it, "SELECT count(*) FROM bets"))[0][0] == 3 * WEEKS


async def test_the_first_error_stops_the_other_groups(it):
    sql = f"SELECT sum(json_extract(iif(placed_at < :week, 'no JSON', '{{}}'), '$.a')) FROM bets CROSS JOIN {ENDLESS}"
    with pytest.raises(sqlite3.OperationalError, match="malformed JSON"):
        await ask(it, sql, {"week": W[0].ends_at})  # the others would never end
    assert not left_behind(it)
    assert (await ask(it, "SELECT count(*) FROM bets"))[0][0] == 3 * WEEKS


async def test_a_file_that_goes_away_between_the_groups_is_looked_for_anew(it, monkeypatch):
    def gone():
        raise StaleCatalogError

    gate = gate_at(monkeypatch, W[3], gone)
    gate.open()
    assert (await ask(it, "SELECT count(*) FROM bets"))[0][0] == 3 * WEEKS
    assert not left_behind(it)


async def test_a_close_lets_a_question_in_groups_finish(it, monkeypatch):
    gate = gate_at(monkeypatch, W[2])
    asked = asyncio.create_task(ask(it, "SELECT count(*) FROM bets"))
    await gate.reached()
    closing = asyncio.create_task(it.manager.close())
    await until(lambda: it.manager._reading.scanners._closing)
    late = asyncio.create_task(ask(it, "SELECT count(*) FROM bets"))
    gate.open()
    with pytest.raises(PoolClosedError):
        await late
    assert (await asked)[0][0] == 3 * WEEKS
    await closing


async def test_a_close_interrupts_a_question_in_groups_that_takes_too_long(it, monkeypatch):
    monkeypatch.setattr(scanner, "CLOSE_TIMEOUT", 0.01)
    gate = gate_at(monkeypatch, W[0])
    asked = asyncio.create_task(ask(it, f"SELECT count(*) FROM bets, {ENDLESS}"))
    await gate.reached()
    gate.open()
    await it.manager.close()
    with pytest.raises(PoolClosedError):
        await asked


async def test_a_close_interrupts_an_answer_that_is_being_put_together(it, monkeypatch):
    monkeypatch.setattr(scanner, "CLOSE_TIMEOUT", 0.01)
    gate = Gate()

    def for_ever(raw, **_):
        gate.pass_through()
        raw.execute("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")

    monkeypatch.setattr(own_groups, "merged", for_ever)
    asked = asyncio.create_task(ask(it, "SELECT count(*) FROM bets"))
    await gate.reached()
    gate.open()
    await it.manager.close()
    with pytest.raises(PoolClosedError):
        await asked
