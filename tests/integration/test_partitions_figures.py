"""What sealed weeks come to is counted once and kept, and never trusted beyond the very file it was counted from."""

import asyncio
import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlite_files import until
from weekly_files import Platform, W, direct, platform

from betcore_async.clock import to_microseconds
from betcore_async.errors import PartitionDamagedError
from betcore_async.models import BetStatus
from betcore_async.partitions import BetTotals, Week, figures

SEALED = (W[0].start, W[3].end)
EXPECTED = BetTotals(8, 1100, 190)


@pytest.fixture
async def it(tmp_path):
    """Four sealed weeks with two bets each, the live one empty; the very first bet is won in the third week."""
    async with platform(tmp_path / "data") as it:
        user = await it.users.create("0xabc", 10_000)
        late = None
        for number in range(4):
            first = await it.bets.place(user.id, "cell", 100, 1.9)
            await it.bets.settle((await it.bets.place(user.id, "cell", 100 * (1 + number % 3), 1.9)).id, won=False)
            late = late or first
            if number == 2:
                await it.bets.settle(late.id, won=True)
            await it.next_week()
        await retired(it)
        yield it


async def retired(it: Platform) -> None:
    """Wait until what was live before is a plain read-only file, which it becomes in the background."""
    await until(lambda: not it.manager._reading.retiring)


def sidecar(it: Platform):
    return it.folder / "bets.db.figures"


def opened(it: Platform) -> set[Week]:
    """Return the weeks that the scanners have open."""
    return {Week(name) for scanner in it.manager._reading.scanners._scanners for name in scanner._hub._handles}


async def fresh(it: Platform, span=SEALED) -> tuple[BetTotals, set[Week]]:
    """Ask for the totals as a process does that has just started; return what it had to open for them, too."""
    async with platform(it.folder, W[4]) as other:
        return await other.manager.sum_bets(*span), opened(other)


async def test_sealed_weeks_are_opened_once_to_be_counted_and_never_again(it):
    assert await it.manager.sum_bets(*SEALED) == EXPECTED
    assert opened(it) == set(W[:5])
    assert await fresh(it) == (EXPECTED, {W[4]})
    assert sidecar(it).stat().st_mode & 0o777 == 0o600


async def test_a_sealed_week_is_told_anew_when_a_bet_of_it_is_decided_later(it):
    week = (W[1].start, W[1].end)
    assert (await it.manager.sum_bets(*week, status=BetStatus.PENDING)).amount == 100
    (bet,) = (await it.manager.query_bets((await it.users.by_wallet("0xabc")).id, *week, status="pending")).bets
    await it.bets.confirm(bet.id)
    assert await it.manager.sum_bets(*week, status=BetStatus.PENDING) == BetTotals(0, 0, 0)
    assert await it.manager.sum_bets(*week, status=BetStatus.CONFIRMED) == BetTotals(1, 100, 0)
    await it.bets.settle(bet.id, won=True)
    assert await it.manager.sum_bets(*week, status=BetStatus.WON) == BetTotals(1, 100, 190)
    assert await it.manager.sum_bets(*week) == BetTotals(2, 300, 190)
    await it.next_week()
    await retired(it)
    assert await it.manager.sum_bets(*week) == BetTotals(2, 300, 190)
    assert await fresh(it, week) == (BetTotals(2, 300, 190), {W[5]})


async def test_the_live_week_is_looked_through_once_for_where_its_carried_bets_end(it):
    seen = []

    def watch(scanner, catalog):
        scanner.handle(catalog[W[4]]).raw.set_trace_callback(seen.append)

    await it.manager.scan(watch)
    assert await it.manager.sum_bets(*SEALED) == EXPECTED
    assert any("max(rowid)" in sql for sql in seen)
    seen.clear()
    assert await it.manager.sum_bets(*SEALED) == EXPECTED
    assert [sql for sql in seen if "FROM bets" in sql]
    assert not any("max(rowid)" in sql for sql in seen)


def spoil(content: bytes) -> bytes:
    return content.replace(b'"lost",1,100,0', b'"lost",9,100,0')


DAMAGES = {
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "a changed figure": spoil,
    "text": lambda _: "ünd kein Ende".encode("latin-1") * 100,
    "another version": lambda content: resigned(content, version=0),
    "no weeks": lambda content: resigned(content, weeks=None),
    "a week that is none": lambda content: resigned(content, weeks={"2026-W99": {}}),
    "an entry without sums": lambda content: resigned(content, weeks={"2026-W20": {"file": [1, 2, 3, 4, 5]}}),
    "users that are none": lambda content: content_with(content, users="no base64"),
    "users of an odd number": lambda content: content_with(content, users="AAAA"),
    "brackets": lambda _: resigned(b"\n{}", weeks="[" * 100_000),
}


def resigned(content: bytes, **changes) -> bytes:
    """Return the file with other contents and a checksum that fits."""
    from betcore_async.partitions.figure_cache import _digest

    body = json.dumps(json.loads(content.partition(b"\n")[2]) | changes).encode()
    return _digest(body).encode() + b"\n" + body


def content_with(content: bytes, **changes) -> bytes:
    """Return the file with another entry for the second week."""
    weeks = json.loads(content.partition(b"\n")[2])["weeks"]
    return resigned(content, weeks=weeks | {"2026-W21": weeks["2026-W21"] | changes})


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_of_figures_is_counted_anew(it, damage):
    assert await it.manager.sum_bets(*SEALED) == EXPECTED
    content = sidecar(it).read_bytes()
    sidecar(it).write_bytes(DAMAGES[damage](content))
    assert sidecar(it).read_bytes() != content
    assert await fresh(it) == (EXPECTED, set(W[:5]))
    assert await fresh(it) == (EXPECTED, {W[4]})


async def test_a_file_of_figures_that_cannot_be_read_or_written_costs_time_and_nothing_else(it):
    sidecar(it).mkdir()
    for _ in range(2):
        assert await fresh(it) == (EXPECTED, set(W[:5]))
    sidecar(it).rmdir()
    os.mkfifo(sidecar(it))  # would hold up who opens it for reading
    assert await fresh(it) == (EXPECTED, set(W[:5]))
    assert [path.name for path in it.folder.iterdir() if "staging" in path.name] == []


async def test_a_link_in_the_place_of_the_figures_is_not_followed(it, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    sidecar(it).symlink_to(elsewhere)
    assert await it.manager.sum_bets(*SEALED) == EXPECTED
    assert elsewhere.read_text() == "mine"


async def test_what_a_killed_process_left_of_writing_figures_is_removed_at_the_start(it):
    left = it.folder / "bets.db.figures.0123abcd.staging"
    left.touch()
    await fresh(it)
    assert not left.exists()


async def test_a_sealed_week_that_somebody_changed_is_counted_anew_even_with_its_times_put_back(it):
    assert await it.manager.sum_bets(*SEALED) == EXPECTED
    await it.manager.close()
    path = it.file(W[3])
    status = path.stat()
    path.chmod(0o600)
    with direct(path) as raw:
        raw.execute("DROP TRIGGER bets_are_kept")
        raw.execute("DELETE FROM bets WHERE status = 'lost'")
    path.chmod(0o400)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (await fresh(it))[0] == BetTotals(7, 1000, 190)


async def test_figures_do_not_hide_that_a_week_broke(it):
    assert await it.manager.sum_bets(*SEALED) == EXPECTED
    path = it.file(W[1])
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(PartitionDamagedError):
        await it.manager.sum_bets(*SEALED)


async def test_many_managers_counting_at_once_agree_and_leave_one_whole_file(it):
    async with platform(it.folder, W[4]) as other, platform(it.folder, W[4]) as third:
        asked = [manager.sum_bets(*SEALED) for manager in (it.manager, other.manager, third.manager) for _ in range(4)]
        assert await asyncio.gather(*asked) == [EXPECTED] * 12
    assert await fresh(it) == (EXPECTED, {W[4]})


@given(st.datetimes(datetime(1000, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)), st.integers(0, 1))  # noqa: DTZ001
def test_a_bet_counts_for_the_week_its_placed_at_falls_into(moment, edge):
    if edge:
        moment = Week.of(moment).end - timedelta(microseconds=1)
    with closing(sqlite3.connect(":memory:")) as raw:
        raw.execute("CREATE TABLE bets (user_id, placed_at, status, amount, payout_amount)")
        raw.execute("CREATE TABLE partition_meta AS SELECT 0 AS starts_at")
        raw.execute("INSERT INTO bets VALUES ('u', ?, 'won', 1, ?)", (to_microseconds(moment), 2**62))
        found = figures.count(raw).by_home
    assert found == {Week.of(moment).starts_at: figures.Standing.of({"won": figures.Sums(1, 1, 2**62)})}
