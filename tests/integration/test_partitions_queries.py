"""Questions over many weekly files are answered as if there were one: checked against a model, on random data."""

import asyncio
import contextlib
import random
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_files import Gate, held_elsewhere, until
from weekly_files import ALWAYS, WEEK, Platform, W, direct, platform

from betcore_async.errors import (
    InvalidTransitionError,
    ModelError,
    PartitionDamagedError,
    PartitionError,
    PartitionMissingError,
)
from betcore_async.models import MAX_MONEY, Bet, BetStatus
from betcore_async.partitions import BetTotals, Week

MANY_WEEKS = 14  # more than SQLite attaches to a connection


@dataclass
class Model:
    """A platform, and all its bets as the stores returned them last."""

    it: Platform
    users: list[str] = field(default_factory=list)
    bets: dict[str, Bet] = field(default_factory=dict)

    async def act(self, action: tuple) -> None:
        match action:
            case ("place", user, amount):
                self._know(await self.it.bets.place(self.users[user], "cell", amount, 1.5))
            case ("rotate",):
                await self.it.next_week()
            case ("tick", minutes):
                self.it.clock.advance(timedelta(minutes=minutes))
            case (verb, index) if self.bets:
                bet_id = list(self.bets)[index % len(self.bets)]
                try:
                    self._know(await self._decide(verb, bet_id))
                except InvalidTransitionError:
                    assert not self.bets[bet_id].is_open

    async def _decide(self, verb: str, bet_id: str) -> Bet:
        match verb:
            case "confirm":
                return await self.it.bets.confirm(bet_id)
            case "cancel":
                return await self.it.bets.cancel(bet_id)
        return await self.it.bets.settle(bet_id, won=verb == "win")

    def _know(self, bet: Bet) -> None:
        if not bet.replayed:  # what came of it first; it may have moved on since
            self.bets[bet.id] = bet

    def expect(self, user: int | None, start: datetime, end: datetime, status: BetStatus | None) -> list[Bet]:
        found = (
            bet
            for bet in self.bets.values()
            if start <= bet.placed_at < end
            and (user is None or bet.user_id == self.users[user])
            and (status is None or bet.status is status)
        )
        return sorted(found, key=lambda bet: (bet.placed_at, bet.id))


@dataclass(frozen=True)
class Question:
    user: int
    start: datetime
    end: datetime
    status: BetStatus | None
    limit: int | None
    newest_first: bool


moments = st.one_of(
    st.sampled_from([week.start + timedelta(hours=1) for week in W[:MANY_WEEKS]]),  # when many bets were placed
    st.sampled_from([week.start for week in W[:MANY_WEEKS]]),
    st.integers(0, MANY_WEEKS * 7 * 24 * 60).map(lambda minutes: W[0].start + timedelta(minutes=minutes)),
    st.sampled_from(ALWAYS),
)
questions = st.builds(
    lambda user, range_, status, limit, newest: Question(user, *sorted(range_), status, limit, newest),
    st.integers(0, 2),
    st.tuples(moments, moments),
    st.none() | st.sampled_from(BetStatus),
    st.none() | st.integers(1, 5),
    st.booleans(),
)
actions = st.one_of(
    st.tuples(st.just("place"), st.integers(0, 2), st.integers(1, 400)),
    st.tuples(st.sampled_from(["win", "lose", "confirm", "cancel"]), st.integers(0, 50)),
    st.tuples(st.just("tick"), st.sampled_from([0, 1, 5000])),
    st.just(("rotate",)),
)


async def populate(model: Model) -> None:
    for number in range(3):
        model.users.append((await model.it.users.create(f"0x{number}", 1000)).id)


async def check(model: Model, question: Question) -> None:
    manager, user_id, expected = model.it.manager, model.users[question.user], _expected(model, question)
    found: list[Bet] = []
    cursor = None
    while True:
        page = await manager.query_bets(
            user_id,
            question.start,
            question.end,
            status=question.status,
            limit=question.limit,
            cursor=cursor,
            newest_first=question.newest_first,
        )
        found += page.bets
        cursor = page.next_cursor
        assert question.limit is None or len(page.bets) <= question.limit
        if cursor is None:
            break
    assert found == expected
    for user in (question.user, None):
        bets = model.expect(user, question.start, question.end, question.status)
        totals = BetTotals(len(bets), sum(bet.amount for bet in bets), sum(bet.payout_amount or 0 for bet in bets))
        chosen = {"user_id": None if user is None else user_id, "status": question.status}
        assert await manager.sum_bets(question.start, question.end, **chosen) == totals
        assert await manager.count_bets(question.start, question.end, **chosen) == len(bets)
        streamed = manager.iterate_bets(
            question.start, question.end, **chosen, newest_first=question.newest_first, chunk=question.limit or 1000
        )
        assert [bet async for bet in streamed] == _as_streamed(bets, question, of_all=user is None)


def _expected(model: Model, question: Question) -> list[Bet]:
    bets = model.expect(question.user, question.start, question.end, question.status)
    return bets[::-1] if question.newest_first else bets


def _as_streamed(bets: list[Bet], question: Question, *, of_all: bool) -> list[Bet]:
    """Of one user by time, of all week by week and by id."""
    bets = sorted(bets, key=lambda bet: (str(Week.of(bet.placed_at)), bet.id)) if of_all else bets
    return bets[::-1] if question.newest_first else bets


async def check_sql(model: Model, question: Question) -> None:
    rows = await model.it.manager.query(
        f"SELECT {Bet.COLUMNS} FROM bets WHERE user_id = ? AND status = coalesce(?, status) ORDER BY placed_at, id",
        (model.users[question.user], question.status),
        start=question.start,
        end=question.end,
    )
    assert Bet.from_rows(rows) == model.expect(question.user, question.start, question.end, question.status)


@settings(max_examples=60)
@given(st.lists(actions, max_size=40), st.lists(questions, min_size=1, max_size=4))
async def test_answers_over_random_weeks_are_those_of_the_model(steps, asked):
    with tempfile.TemporaryDirectory() as folder:
        async with platform(Path(folder)) as it:
            model = Model(it)
            await populate(model)
            for action in steps:
                await model.act(action)
            for question in asked:
                await check(model, question)
                await check_sql(model, question)
            assert (await it.ledger.audit()).ok


@pytest.fixture(scope="module")
def many_weeks(tmp_path_factory):
    """A folder with many weeks of random bets, a few of which stay open for long, and what the model knows of them."""
    folder, rolls = tmp_path_factory.mktemp("many"), random.Random(7)

    async def build() -> Model:
        async with platform(folder) as it:
            model = Model(it)
            await populate(model)
            for _ in range(MANY_WEEKS - 1):
                for _ in range(20):
                    await model.act(("place", rolls.randrange(3), rolls.randrange(1, 30)))
                    if rolls.random() < 0.4:
                        await model.act(("tick", rolls.randrange(400)))
                for verb in rolls.choices(["win", "lose", "cancel", "confirm"], k=16):
                    await model.act((verb, rolls.randrange(len(model.bets))))
                await model.act(("rotate",))
        return model

    return folder, asyncio.run(build())


@settings(max_examples=80)
@given(asked=st.lists(questions, min_size=1, max_size=3))
async def test_answers_over_more_weeks_than_can_be_attached_are_those_of_the_model(many_weeks, asked):
    folder, model = many_weeks
    async with platform(folder, W[MANY_WEEKS - 1]) as it:
        now = Model(it, model.users, model.bets)
        for question in asked:
            await check(now, question)


async def test_many_questions_at_once_over_many_weeks_do_not_disturb_each_other(many_weeks):
    folder, model = many_weeks
    async with platform(folder, W[MANY_WEEKS - 1]) as it:
        now = Model(it, model.users, model.bets)
        asked = [
            Question(user, W[first].start, W[first + 4].end, status, 3, newest)
            for user in range(3)
            for first in range(0, MANY_WEEKS - 4, 3)
            for status in (None, BetStatus.WON)
            for newest in (True, False)
        ]
        await asyncio.gather(*(check(now, question) for question in asked))


@settings(max_examples=30)
@given(asked=st.lists(questions, min_size=1, max_size=3))
async def test_sql_over_more_weeks_than_can_be_attached_answers_like_the_model(many_weeks, asked):
    folder, model = many_weeks
    async with platform(folder, W[MANY_WEEKS - 1]) as it:
        now = Model(it, model.users, model.bets)
        for question in asked:
            await check_sql(now, question)


# SQL of the user's own


@pytest.fixture
async def it(tmp_path):
    """A platform with two weeks: one user, a bet that was won late, one still open."""
    async with platform(tmp_path / "data") as it:
        user = await it.users.create("0xabc", 1000)
        late = await it.bets.place(user.id, "late", 100, 2.0)
        await it.bets.place(user.id, "open", 10, 2.0)
        await it.next_week()
        await it.bets.settle(late.id, won=True)
        yield it


async def ask(it: Platform, sql: str, *parameters: object, span=ALWAYS) -> list[tuple]:
    rows = await it.manager.query(sql, parameters, start=span[0], end=span[1])
    return [tuple(row) for row in rows]


async def test_own_sql_joins_bets_entries_and_users(it):
    sql = """
        SELECT bets.cell_id, bets.status, entries.amount, users.balance
        FROM bets
        JOIN ledger_entries AS entries ON entries.ref_id = bets.id
        JOIN users ON users.id = bets.user_id
        ORDER BY bets.cell_id, entries.amount"""
    assert await ask(it, sql) == [
        ("late", "won", -100, 1090),
        ("late", "won", 200, 1090),
        ("open", "pending", -10, 1090),
    ]


async def test_own_sql_sees_entries_of_its_range_and_no_carried_openings(it):
    assert await ask(it, "SELECT ref_type FROM ledger_entries ORDER BY created_at, version") == [
        ("opening",),
        ("stake",),
        ("stake",),
        ("payout",),
    ]
    assert await ask(it, "SELECT ref_type FROM ledger_entries", span=(W[1].start, W[1].end)) == [("payout",)]


async def test_own_sql_over_a_range_without_weeks_still_counts(it):
    before = (W[0].start - 5 * WEEK, W[0].start - WEEK)
    assert await ask(it, "SELECT count(*), sum(amount) FROM bets", span=before) == [(0, None)]
    assert await ask(it, "SELECT count(*) FROM users", span=before) == [(1,)]


async def test_own_sql_binds_its_parameters(it):
    assert await ask(it, "SELECT count(*) FROM bets WHERE cell_id = ?", "late' OR 1 = 1 --") == [(0,)]


FORBIDDEN = [
    "INSERT INTO bets VALUES (1)",
    "DELETE FROM bets",
    "UPDATE bets SET amount = 0",
    "DELETE FROM w2026_20.bets",
    "UPDATE w2026_21.users SET balance = 0",
    "CREATE TABLE t (x)",
    "CREATE TEMP TABLE t (x)",
    "CREATE TEMP VIEW v AS SELECT 1",
    "CREATE TEMP TRIGGER t INSTEAD OF INSERT ON bets BEGIN SELECT 1; END",
    "DROP VIEW bets",
    "DROP VIEW IF EXISTS temp.bets",
    "ALTER TABLE w2026_20.users ADD COLUMN x",
    "ATTACH DATABASE ? AS w2026_20",
    "ATTACH DATABASE 'other.db' AS other",
    "DETACH DATABASE w2026_20",
    "PRAGMA w2026_20.cache_size = -256",
    "PRAGMA writable_schema = ON",
    "PRAGMA database_list",
    "SELECT * FROM pragma_database_list",
    "SELECT load_extension('x')",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "VACUUM INTO 'other.db'",
    "VACUUM w2026_20",
    "ANALYZE",
    "REINDEX",
    "CREATE VIRTUAL TABLE t USING fts5(x)",
    "",
    "-- nothing",
    "SELECT 1; SELECT 2",
    "WITH n AS (SELECT 1) INSERT INTO w2026_20.users SELECT * FROM n",
]


@pytest.mark.parametrize("sql", FORBIDDEN)
async def test_own_sql_can_read_and_nothing_else(it, sql, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Several times and after others: what is in the statement cache must not slip through.
    for _ in range(2):
        parameters = ["other.db"] * sql.count("?")
        with pytest.raises(PartitionError, match="takes one SELECT"):
            await it.manager.query(sql, parameters, start=ALWAYS[0], end=ALWAYS[1])
        assert await it.manager.count_bets(*ALWAYS) == 2
        assert await ask(it, "SELECT count(*) FROM bets") == [(2,)]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert (await it.ledger.audit()).ok


async def test_own_sql_that_never_ends_is_interrupted_by_a_cancel(it):
    endless = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n, bets"
    for _ in range(3):
        work = asyncio.create_task(ask(it, endless))
        await asyncio.wait([work], timeout=0.05)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert await ask(it, "SELECT count(*) FROM bets") == [(2,)]
        assert await it.manager.count_bets(*ALWAYS) == 2


# Bounds and bad input


async def test_sums_beyond_64_bits_are_exact(tmp_path):
    async with platform(tmp_path) as it:
        for number in range(3):
            user = await it.users.create(f"0x{number}", MAX_MONEY)
            await it.bets.place(user.id, "cell", MAX_MONEY - number, 1.0)
        assert (await it.manager.sum_bets(*ALWAYS)).amount == 3 * MAX_MONEY - 3


async def test_a_rotation_carries_balances_whose_sum_is_beyond_64_bits(tmp_path):
    async with platform(tmp_path) as it:
        for number in range(3):
            user = await it.users.create(f"0x{number}", MAX_MONEY)
            await it.bets.place(user.id, "cell", 1, 1.0)
        await it.next_week()
        assert (await it.users.get(user.id)).balance == MAX_MONEY - 1


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_below_one_is_refused(it, limit):
    with pytest.raises(ModelError, match="limit must be at least 1"):
        await it.manager.query_bets("user", *ALWAYS, limit=limit)


async def test_a_page_that_ends_with_the_last_bet_is_followed_by_an_empty_one(it):
    user = await it.users.by_wallet("0xabc")
    page = await it.manager.query_bets(user.id, *ALWAYS, limit=2)
    last = await it.manager.query_bets(user.id, *ALWAYS, limit=2, cursor=page.next_cursor)
    assert (len(page.bets), last.bets, last.next_cursor) == (2, [], None)


# Weeks that come and go


@pytest.fixture
async def long(tmp_path):
    """Five weeks; a bet of the first is won in the third, one of the second stays open."""
    async with platform(tmp_path / "data") as it:
        user = await it.users.create("0xabc", 1000)
        late = await it.bets.place(user.id, "late", 100, 2.0)
        await it.next_week()
        await it.bets.place(user.id, "open", 10, 2.0)
        await it.next_week()
        await it.bets.settle(late.id, won=True)
        await it.next_week(), await it.next_week()
        yield it


async def test_a_detached_week_can_be_moved_and_attached_elsewhere(long, tmp_path):
    user = await long.users.by_wallet("0xabc")
    before = (await long.manager.query_bets(user.id, *ALWAYS)).bets
    await long.manager.detach_partition(W[1])
    moved = long.file(W[1]).rename(tmp_path / "odd name?#.sqlite")
    with pytest.raises(PartitionMissingError) as caught:
        await long.manager.query_bets(user.id, W[1].start, W[2].end)
    assert caught.value.weeks == (W[1],)
    page = await long.manager.query_bets(user.id, *ALWAYS, allow_partial=True)
    assert [bet.cell_id for bet in page.bets] == ["late"]
    assert page.missing_weeks == (W[1],)
    info = await long.manager.attach_partition(str(W[1]), moved)
    assert (info.path, info.bets, info.week) == (moved, 2, W[1])
    assert (await long.manager.query_bets(user.id, *ALWAYS)).bets == before
    await long.next_week()
    assert (await long.manager.query_bets(user.id, *ALWAYS)).bets == before


@pytest.mark.parametrize("others", [0, 1])
async def test_a_week_detached_right_after_its_rotation_is_whole_without_its_log(long, tmp_path, others):
    # Nothing of it may be left in the -wal that stays behind when the file is moved.
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(others):  # which still have the week open for writing
            await stack.enter_async_context(platform(long.folder, W[4]))
        user = await long.users.by_wallet("0xabc")
        await long.bets.place(user.id, "last", 10, 2.0)
        await long.next_week()
        await long.manager.detach_partition(W[4])
        moved = tmp_path / "moved"
        moved.write_bytes(long.file(W[4]).read_bytes())
    long.file(W[4]).unlink()
    await long.manager.attach_partition(W[4], moved)
    assert await long.manager.count_bets(*ALWAYS) == 3
    assert (await long.ledger.audit()).ok


async def test_a_week_that_others_read_from_its_log_is_not_given_away(long):
    await long.users.create("0xdef", 1)
    with held_elsewhere(long.file(W[4]), "BEGIN", "SELECT count(*) FROM bets"):
        user = await long.users.by_wallet("0xabc")
        await long.bets.place(user.id, "last", 10, 2.0)
        await long.next_week()
        long.be_impatient()
        with pytest.raises(PartitionError, match="still reads it"):
            await long.manager.detach_partition(W[4])
    await long.manager.detach_partition(W[4])
    assert not long.file(W[4]).with_name(long.file(W[4]).name + "-wal").exists()


async def test_a_detached_week_stays_detached_over_a_rotation(long):
    await long.manager.detach_partition(W[1])
    await long.next_week()
    assert W[1] not in [info.week for info in await long.manager.partitions()]
    with pytest.raises(PartitionMissingError):
        await long.manager.count_bets(*ALWAYS)


async def test_an_outcome_in_a_missing_week_is_not_guessed(long):
    # The bet of the first week was open at its end; what became of it lies in a week that is away.
    for away in (W[1], W[2]):
        await long.manager.detach_partition(away)
        span = (W[0].start, W[0].end)
        if away == W[2]:
            user = await long.users.by_wallet("0xabc")
            for question in (
                long.manager.count_bets(*span),
                long.manager.query_bets(user.id, *span),
                long.manager.query("SELECT 1", start=span[0], end=span[1]),
            ):
                with pytest.raises(PartitionMissingError) as caught:
                    await question
                assert W[2] in caught.value.weeks
            page = await long.manager.query_bets(user.id, *span, allow_partial=True)
            assert ([bet.cell_id for bet in page.bets], page.missing_weeks) == (["late"], (W[2],))
            totals = await long.manager.sum_bets(*span, allow_partial=True)
            assert (totals.count, totals.missing_weeks) == (1, (W[2],))
            count = await long.manager.count_bets(*span, allow_partial=True)
            assert (count, count.missing_weeks) == (1, (W[2],))
            sql = "SELECT cell_id FROM bets"
            rows = await long.manager.query(sql, start=span[0], end=span[1], allow_partial=True)
            assert ([tuple(row) for row in rows], rows.missing_weeks) == ([("late",)], (W[2],))
        await long.manager.attach_partition(away, long.file(away))
    assert (await long.manager.sum_bets(W[0].start, W[0].end)).payout == 200


async def test_as_many_bets_carried_over_as_were_left_open_does_not_hide_that_they_are_others(tmp_path):
    async with platform(tmp_path / "data") as it:
        user = await it.users.create("0xabc", 1000)
        first = await it.bets.place(user.id, "cell", 10, 2.0)
        await it.next_week()
        await it.bets.settle(first.id, won=True)  # in the week that will be away, where another bet is left open
        await it.bets.place(user.id, "cell", 20, 2.0)
        await it.next_week()
        await it.manager.detach_partition(W[1])
        for chosen in ({}, {"user_id": user.id}):
            totals = await it.manager.sum_bets(*ALWAYS, **chosen, allow_partial=True)
            assert totals == BetTotals(1, 10, 0, (W[1],))


async def test_a_week_that_somebody_took_away_is_missing_and_no_error_of_sqlite(long):
    long.file(W[1]).unlink()
    with pytest.raises(PartitionMissingError) as caught:
        await long.manager.count_bets(*ALWAYS)
    assert caught.value.weeks == (W[1],)
    assert [info.week for info in await long.manager.partitions()] == [W[0], *W[2:5]]
    assert not long.file(W[1]).exists()


async def test_an_attached_week_that_somebody_took_away_is_missing(long, tmp_path):
    await long.manager.detach_partition(W[1])
    moved = long.file(W[1]).rename(tmp_path / "moved")
    await long.manager.attach_partition(W[1], moved)
    await long.manager._reading.scanners.forget(W[1])
    moved.unlink()
    with pytest.raises(PartitionMissingError):
        await long.manager.count_bets(*ALWAYS)
    await long.next_week()


async def test_a_week_that_broke_while_running_is_told_by_name(long):
    path = long.file(W[1])
    path.chmod(0o600)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    infos = {info.week: info for info in await long.manager.partitions()}
    assert [week for week, info in infos.items() if info.problem] == [W[1]]
    with pytest.raises(PartitionDamagedError):
        await long.manager.count_bets(*ALWAYS)
    assert await long.manager.count_bets(W[2].start, ALWAYS[1]) == 0


async def test_what_cannot_be_attached_or_detached_is_refused(long, tmp_path):
    manager, folder = long.manager, long.folder
    with pytest.raises(PartitionError, match="is there already"):
        await manager.attach_partition(W[0], long.file(W[0]))
    with pytest.raises(PartitionMissingError, match="there is no file"):
        await manager.attach_partition(W[20], tmp_path / "nowhere.db")
    with pytest.raises(PartitionDamagedError, match=f"says it holds {W[0]}"):
        await manager.attach_partition("2020-W01", long.file(W[0]))
    with pytest.raises(PartitionDamagedError, match="it is live"):
        await manager.attach_partition(W[4], long.file(W[4]))
    with pytest.raises(PartitionDamagedError, match="not a regular file"):
        await manager.attach_partition("2020-W01", folder)
    with pytest.raises(PartitionMissingError, match="is not here"):
        await manager.detach_partition(W[20])
    with pytest.raises(PartitionError, match="is the live week"):
        await manager.detach_partition(W[4])
    with pytest.raises(ModelError):
        await manager.detach_partition("2026-W54")


async def test_a_hostile_file_cannot_be_attached(long, tmp_path):
    await long.manager.detach_partition(W[0])
    hostile = tmp_path / "hostile.db"
    hostile.write_bytes(long.file(W[0]).read_bytes())
    with direct(hostile) as raw:
        raw.execute("ALTER TABLE bets RENAME TO real_bets")
        raw.execute("CREATE VIEW bets AS WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i FROM n) SELECT * FROM n")
    with pytest.raises(PartitionDamagedError, match="has not the tables of a weekly file"):
        await long.manager.attach_partition(W[0], hostile)


async def test_triggers_of_an_attached_file_never_run(long, tmp_path):
    await long.manager.detach_partition(W[0])
    hostile = tmp_path / "hostile.db"
    hostile.write_bytes(long.file(W[0]).read_bytes())
    with direct(hostile) as raw:
        for table in ("bets", "users", "ledger_entries"):
            raw.execute(f"CREATE TRIGGER evil_{table} AFTER INSERT ON {table} BEGIN DELETE FROM users; END")
    before = hostile.read_bytes()
    await long.manager.attach_partition(W[0], hostile)
    await long.next_week()
    assert await long.manager.count_bets(*ALWAYS) == 2
    assert hostile.read_bytes() == before


async def test_a_query_that_stood_in_line_does_not_open_a_week_that_was_detached_meanwhile(long):
    gates = [Gate(), Gate()]
    held = [asyncio.create_task(long.manager.scan(lambda *_, gate=gate: gate.pass_through())) for gate in gates]
    for gate in gates:
        await gate.reached()
    in_line = asyncio.create_task(long.manager.count_bets(*ALWAYS))
    await asyncio.sleep(0)
    detaching = asyncio.create_task(long.manager.detach_partition(W[0]))
    await until(lambda: W[0] not in long.manager._catalog)
    for gate in gates:
        gate.open()
    await asyncio.gather(detaching, *held)
    with pytest.raises(PartitionMissingError):
        await in_line
    assert not any(path.resolve() == long.file(W[0]) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())


async def test_a_scan_that_fails_or_forgets_its_transaction_does_not_spoil_the_next_one(it):
    def forgets(scanner, _):
        scanner.link.raw.execute("BEGIN")
        return scanner.link.raw.execute(f"SELECT count(*) FROM {scanner.attach(W[1], it.file(W[1]))}.bets").fetchone()[
            0
        ]

    def fails(scanner, catalog):
        forgets(scanner, catalog)
        raise ZeroDivisionError

    assert await it.manager.scan(forgets) == 2
    with pytest.raises(ZeroDivisionError):
        await it.manager.scan(fails)
    user = await it.users.by_wallet("0xabc")
    await it.bets.place(user.id, "more", 1, 2.0)
    assert await asyncio.gather(*(it.manager.count_bets(*ALWAYS) for _ in range(4))) == [3] * 4
