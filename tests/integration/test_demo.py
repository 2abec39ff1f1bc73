"""`betcore demo` as its users run it, with its own Redis server and its own files."""

import gzip
import json
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest
from integration.commands import COMMAND, betcore, environment

from betcore_async.demo.feed import GeneratedFeed, generate_feed

SUNDAY = datetime(2022, 1, 2, 12, tzinfo=UTC)
TICKS = 2_000  # a day and nine hours, across a Monday
USERS = 30

pytestmark = pytest.mark.timeout(120)


def rows(count, weeks=1, start=SUNDAY):
    ticks = generate_feed(GeneratedFeed(start=start, weeks=weeks))
    return "time,symbol,price\n" + "".join(
        f"{tick.at:%Y-%m-%dT%H:%M:%SZ},{tick.symbol},{tick.price}\n"
        for _, tick in zip(range(count), ticks, strict=False)
    )


@pytest.fixture
def feed(tmp_path):
    path = tmp_path / "feed.csv.gz"
    path.write_bytes(gzip.compress(rows(TICKS).encode()))
    return path


@pytest.fixture
def temporary(tmp_path):
    """The folder for temporary files of the command, to see what it leaves there."""
    folder = tmp_path / "t"
    folder.mkdir()
    return folder


def demo(feed, temporary, *options, timeout=100, **variables):
    arguments = ("demo", "--feed", feed, "--users", USERS, *options)
    return betcore(*arguments, folder=temporary.parent, timeout=timeout, TMPDIR=str(temporary), **variables)


def assert_sound(facts):
    assert facts["ok"]
    assert facts["audit"]["ok"]
    assert facts["audit"]["counts"]["money_in"] == facts["audit"]["counts"]["money_out"] > 0
    assert facts["lost_bets"] == facts["doubled_bets"] == 0


@contextmanager
def running(feed, folder, temporary, *options):
    """Yield the demo's process once it has placed bets in `folder`; it is ended at the end of the block."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, ("demo", "--feed", feed, "--users", USERS, "--data", folder, "--json", *options))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TMPDIR=str(temporary)),
        stdin=subprocess.DEVNULL,
    )
    with process:
        try:
            wait_for_bets(folder, process)
            yield process
        finally:
            process.kill()


def wait_for_bets(folder, process, count=50):
    deadline = time.monotonic() + 60
    while placed(folder) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def placed(folder):
    """Return how many bets there are in the weekly files of a folder; carried over ones count once."""
    ids = set()
    for path in folder.glob("bets-????-W??.db"):
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
                ids.update(reader.execute("SELECT id FROM bets").fetchall())
        except sqlite3.OperationalError:  # being born
            continue
    return len(ids)


def test_the_main_job_replays_places_settles_rotates_and_passes_its_audit(feed, temporary):
    result = demo(feed, temporary, "--json")
    assert result.status == 0, result.err
    facts = json.loads(result.out)
    assert_sound(facts)
    assert facts["ticks"] == facts["ticks_settled"] == TICKS
    assert facts["complete"]
    assert facts["rotations"] == 1
    assert [week["week"] for week in facts["weeks"]] == ["2021-W52", "2022-W01"]
    assert all(week["won"] > 0 and week["lost"] > 0 for week in facts["weeks"])
    assert facts["bets"] == sum(
        sum(week[kind] for kind in ("won", "lost", "open", "refused")) for week in facts["weeks"]
    )
    assert facts["settlements"] == sum(week["won"] + week["lost"] for week in facts["weeks"])
    assert all(facts["timings"][kind]["count"] > 0 for kind in ("place", "settle", "price write", "query"))
    assert facts["peak_memory"] < 300_000_000
    assert facts["data"] is None
    assert list(temporary.iterdir()) == []  # neither data nor server left anything behind


def test_bets_are_carried_over_the_monday_and_settled_in_the_new_week(feed, temporary, tmp_path):
    result = demo(feed, temporary, "--json", "--data", tmp_path / "kept")
    assert result.status == 0, result.err
    with closing(sqlite3.connect(f"file:{tmp_path / 'kept' / 'bets-2022-W01.db'}?mode=ro", uri=True)) as week:
        carried = "FROM bets WHERE placed_at < (SELECT starts_at FROM partition_meta)"
        count, settled = week.execute(f"SELECT count(*), sum(status IN ('won', 'lost')) {carried}").fetchone()
    assert count == settled > 0


def test_the_table_tells_everything_and_the_report_is_one_file(feed, temporary, tmp_path):
    result = demo(feed, temporary, "--report", tmp_path / "report.html", "--keep")
    assert result.status == 0, result.err
    for name in ("ticks", "bets", "settlements", "rotations", "weeks queried", "place", "settle", "audit"):
        assert re.search(rf"^ *{name} ", result.out, re.MULTILINE), name
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 8
    kept = re.search(r"^ *data +(\S+)", result.out, re.MULTILINE)
    assert kept is not None
    (folder,) = temporary.iterdir()
    assert kept[1] == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not [path for path in folder.iterdir() if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert betcore("doctor", folder, folder=tmp_path).status == 0


def test_a_server_of_ones_own_is_used_and_left_as_it_was(feed, temporary, redis_url):
    import redis

    with redis.Redis.from_url(redis_url) as client:
        before = set(client.scan_iter("betcore-demo*"))
        result = demo(feed, temporary, "--json", "--redis", redis_url)
        assert result.status == 0, result.err
        assert_sound(json.loads(result.out))
        assert set(client.scan_iter("betcore-demo*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_cleanly_with_the_audit_still_run_and_the_run_can_go_on(temporary, tmp_path, number):
    feed = tmp_path / "long.csv"
    feed.write_text(rows(10_000))
    folder = tmp_path / "data"
    with running(feed, folder, temporary) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    first = json.loads(out)
    assert_sound(first)
    assert not first["complete"]
    assert 0 < first["ticks"] < 10_000
    assert "Traceback" not in err

    again = betcore("demo", "--feed", feed, "--users", USERS, "--data", folder, "--json", timeout=100)
    assert again.status == 0, again.err
    second = json.loads(again.out)
    assert_sound(second)
    assert second["resumed"]
    assert second["complete"]
    total = sum(sum(week[kind] for kind in ("won", "lost", "open", "refused")) for week in second["weeks"])
    assert total == first["bets"] + second["bets"]


def test_a_second_ctrl_c_ends_at_once():
    code = """
import asyncio
from betcore_async.cli.demo import _ends_on_signals

async def work():
    with _ends_on_signals(asyncio.Event()):
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(work())
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert "once more ends at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=100) == -signal.SIGINT


def test_a_kill_in_the_middle_leaves_sound_files_that_are_picked_up(temporary, tmp_path):
    feed = tmp_path / "long.csv"
    feed.write_text(rows(6_000))
    folder = tmp_path / "data"
    with running(feed, folder, temporary) as process:
        process.kill()
        process.communicate(timeout=100)
    shutil.copytree(folder, tmp_path / "copy")
    found = betcore("doctor", tmp_path / "copy", "--json", folder=tmp_path)
    assert found.status == 0, found.out
    checks = {finding["check"]: finding["level"] for finding in json.loads(found.out)["findings"]}
    assert checks["integrity"] == checks["weeks"] == checks["audit"] == "ok"

    before = placed(folder)
    again = betcore("demo", "--feed", feed, "--users", USERS, "--data", folder, "--json", timeout=100)
    assert again.status == 0, again.err
    facts = json.loads(again.out)
    assert_sound(facts)
    assert facts["resumed"]
    total = sum(sum(week[kind] for kind in ("won", "lost", "open", "refused")) for week in facts["weeks"])
    assert total == before + facts["bets"]
    # Nothing that was bet before the kill is forgotten: only windows after the last tick are still open.
    assert sum(week["open"] for week in facts["weeks"]) < 40


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("time,symbol,price\n2022-01-03T00:00:00Z,BTC-USD,one\n", "line 2: price 'one' is not a number"),
        ("when,what,price\n", "line 1: the header must be time,symbol,price"),
        ("time,symbol,price\n", "there is no price in it"),
    ],
)
def test_a_bad_feed_is_one_line_and_nothing_is_made(temporary, tmp_path, text, complaint):
    bad = tmp_path / "bad.csv"
    bad.write_text(text)
    result = demo(bad, temporary, "--data", tmp_path / "data", "--report", tmp_path / "report.html")
    assert result.status == 2
    assert complaint in result.complaint
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "report.html").exists()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("redis://127.0.0.1:1/0", "127.0.0.1:1"),
        ("http://127.0.0.1", "Redis URL"),
        ("unix:///nowhere.sock", "nowhere.sock"),
    ],
)
def test_a_redis_that_is_not_there_is_one_line_and_nothing_is_made(feed, temporary, tmp_path, url, complaint):
    result = demo(feed, temporary, "--redis", url, "--data", tmp_path / "data")
    assert result.status == 2
    assert complaint in result.complaint
    assert not (tmp_path / "data").exists()


def test_a_folder_of_something_else_is_refused_as_it_is(feed, temporary, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    result = demo(feed, temporary, "--data", folder)
    assert result.status == 2
    assert "letter.txt" in result.complaint
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]


def test_a_finished_run_is_not_mixed_with_another(feed, temporary, tmp_path):
    assert demo(feed, temporary, "--data", tmp_path / "data").status == 0
    result = demo(feed, temporary, "--data", tmp_path / "data")
    assert result.status == 2
    assert "came to its end" in result.complaint


def test_a_report_that_cannot_be_written_is_told_before_the_work(feed, temporary, tmp_path):
    result = demo(feed, temporary, "--report", tmp_path / "missing" / "report.html")
    assert result.status == 2
    assert "missing" in result.complaint
