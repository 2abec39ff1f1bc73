"""`betcore partitions` on real files: what goes away and comes back, how it looks, and what it says when it cannot."""

import asyncio
import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys

import pytest
from integration.commands import COMMAND, betcore, environment
from weekly_files import ALWAYS, W, names_in, platform

WEEKS = [str(week) for week in W[:6]]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Six weeks with one bet each; the oldest three may be archived."""
    folder = tmp_path_factory.mktemp("template") / "data"

    async def make():
        async with platform(folder) as it:
            user = await it.users.create("0xabc", 10_000)
            for week in W[:6]:
                if week != W[0]:
                    await it.next_week()
                await it.bets.settle((await it.bets.place(user.id, "cell", 100, 2.0)).id, won=True)

    asyncio.run(make())
    return folder


@pytest.fixture
def folder(template, tmp_path):
    return shutil.copytree(template, tmp_path / "data")


def run(folder, *arguments, **variables):
    return betcore("partitions", *arguments, folder=folder.parent, DB_PATH="data/bets.db", **variables)


def rows(result):
    return {row["week"]: row for row in json.loads(result.out)}


def test_weeks_are_archived_verified_and_restored(folder):
    done = run(folder, "archive", "--keep", "3", "--json")
    assert done.status == 0, done.err
    assert list(rows(done)) == WEEKS[:2]
    assert all(row["archived"] < row["size"] and row["performed"] for row in rows(done).values())
    assert not {f"bets-{week}.db" for week in WEEKS[:2]} & names_in(folder)

    verified = run(folder, "verify", "--json")
    assert {week: row["ok"] for week, row in rows(verified).items()} == dict.fromkeys(WEEKS[:2], True)

    restored = run(folder, "restore", *WEEKS[:2])
    assert restored.status == 0, restored.err
    assert all(week in restored.out for week in WEEKS[:2])
    assert {f"bets-{week}.db" for week in WEEKS} <= names_in(folder)


def test_the_timeline_tells_every_state_by_its_letter(folder):
    run(folder, "archive", WEEKS[0])
    (folder / f"bets-{WEEKS[2]}.db").unlink()
    (folder / f"bets-{WEEKS[3]}.db").chmod(0o600)
    (folder / f"bets-{WEEKS[3]}.db").write_bytes(b"not a database")
    listed = run(folder, "list")
    assert listed.status == 1  # for the damaged one
    assert "2026  " + "·" * 19 + "ASMDSL\n" in listed.out
    assert "\x1b[" not in listed.out
    assert "L live  S sealed  A archived  M missing  D damaged" in listed.out
    found = json.loads(run(folder, "stats", "--json").out)
    assert found["weeks"] == {"archived": 1, "sealed": 2, "damaged": 1, "live": 1, "missing": 1}
    assert found["missing"] == [WEEKS[2]]
    assert found["bytes_archived"] > 0
    assert found["bets"] == 4


def test_stats_count_each_bet_once_whatever_is_missing_or_does_not_belong_here(folder):
    async def leave_bets_open():
        async with platform(folder, W[5]) as it:
            user = await it.users.by_wallet("0xabc")
            for _ in range(3):
                await it.bets.place(user.id, "open", 1, 2.0)
                await it.next_week()
            return await it.manager.count_bets(*ALWAYS)

    assert asyncio.run(leave_bets_open()) == 9
    run(folder, "archive", WEEKS[0])
    (folder / f"bets-{W[6]}.db").unlink()  # with one bet of its own, and one that it took over
    (folder / "bets-2030-W01.db").write_bytes(b"not a database")
    found = json.loads(run(folder, "stats", "--json").out)
    assert found["weeks"] == {"archived": 1, "sealed": 6, "live": 1, "missing": 1, "damaged": 1}
    assert (found["bets"], found["open_bets"], found["users"]) == (8, 3, 1)


def test_the_timeline_has_colours_on_a_terminal():
    from rich.console import Console

    from betcore_async.cli.timeline import STYLES, timeline

    picture = timeline(dict(zip(W, STYLES, strict=False)) | {W[33].next(): "live"})
    console = Console(force_terminal=True, color_system="standard", width=80)
    with console.capture() as text:
        console.print(picture)
    assert "\x1b[" in text.get()
    assert max(len(line) for line in picture.plain.splitlines()) <= 62
    assert "\n2027  L\n" in picture.plain


def test_a_dry_run_and_a_repeat_touch_nothing(folder):
    assert list(rows(run(folder, "archive", "--older-than", WEEKS[2], "--dry-run", "--json"))) == WEEKS[:2]
    assert {f"bets-{week}.db" for week in WEEKS} <= names_in(folder)
    run(folder, "archive", WEEKS[0])
    assert rows(run(folder, "archive", WEEKS[0], "--json"))[WEEKS[0]]["performed"] is False


def test_one_week_that_cannot_be_archived_keeps_no_other_from_it(folder):
    done = run(folder, "archive", WEEKS[5], WEEKS[0], PARTITIONS_ARCHIVE_URL="elsewhere")
    assert done.status == 1
    assert WEEKS[0] in done.out
    assert "only sealed weeks can be archived" in done.err
    assert (folder.parent / "elsewhere" / WEEKS[0] / "manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "variables", "text"),
    [
        (("archive",), {}, "PARTITIONS_KEEP_WEEKS"),
        (("archive", WEEKS[0], "--keep", "3"), {}, "exclude each other"),
        (("archive", WEEKS[0]), {"PARTITIONS_ARCHIVE_URL": "ftp://there"}, "PARTITIONS_ARCHIVE_URL"),
        (("archive", WEEKS[0]), {"PARTITIONS_ARCHIVE_URL": "s3://key:hunter2@bucket"}, "must not hold credentials"),
        (("attach", "2026-W10", "nothing.db"), {}, "there is no file"),
        (("detach", WEEKS[5], "--to", "."), {}, "live week"),
    ],
)
def test_what_cannot_be_done_is_said_with_status_2(folder, arguments, variables, text):
    result = run(folder, *arguments, **variables)
    assert result.status == 2
    assert text in " ".join(result.err.split())
    assert "hunter2" not in result.err


def test_a_terminal_gets_a_bar_on_stderr_and_its_result_on_stdout(folder):
    main, side = pty.openpty()
    command = [*COMMAND, "partitions", "archive", WEEKS[0]]
    variables = environment(DB_PATH="data/bets.db", TERM="xterm", COLUMNS="100")
    with subprocess.Popen(command, cwd=folder.parent, env=variables, stdout=subprocess.PIPE, stderr=side) as process:
        os.close(side)
        shown = b""
        with os.fdopen(main, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # its end, on Linux
            while data := terminal.read(4096):
                shown += data
        out = process.stdout.read().decode()
    assert process.returncode == 0
    assert WEEKS[0] in out
    assert b"compress" in shown
    assert b"read back" in shown


def test_damage_in_the_archive_is_status_1(folder):
    run(folder, "archive", WEEKS[0])
    (place,) = (folder / "bets.db-archive" / WEEKS[0]).glob("*.zst")
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(data)
    for command in ("verify", "restore"):
        result = run(folder, command, WEEKS[0])
        assert (result.status, result.out) == (1, "")
        assert "is damaged" in result.err


def test_all_that_is_archived_is_verified_also_where_its_record_is_damaged(folder):
    assert run(folder, "archive", *WEEKS[:3]).status == 0
    run(folder, "restore", WEEKS[1])
    (folder / f"bets-{WEEKS[2]}.db.archived").write_bytes(b"not a record")
    verified = run(folder, "verify", "--json")
    assert verified.status == 1
    assert {week: row["error"] is None for week, row in rows(verified).items()} == {WEEKS[0]: True, WEEKS[2]: False}


def test_more_weeks_than_there_are_can_be_kept(folder):
    for keep in (10**5, 10**15):
        done = run(folder, "archive", "--keep", str(keep))
        assert (done.status, done.out) == (0, "nothing to archive\n"), done.err


def test_a_week_is_moved_out_of_the_folder_and_back(folder, tmp_path):
    place = tmp_path / "elsewhere"
    place.mkdir()
    assert run(folder, "detach", WEEKS[1], "--to", place).status == 0
    moved = place / f"bets-{WEEKS[1]}.db"
    assert moved.exists()
    assert "·SMSSSL"[1:] in run(folder, "list").out.replace("·", "")
    back = run(folder, "attach", WEEKS[1], moved, "--json")
    assert json.loads(back.out) == {"week": WEEKS[1], "path": f"data/bets-{WEEKS[1]}.db", "bets": 1}
    assert (folder / moved.name).read_bytes() == moved.read_bytes()
    assert (folder / moved.name).stat().st_mode & 0o777 == 0o400
    again = run(folder, "attach", WEEKS[1], moved)
    assert again.status == 2
    assert "is there already" in again.complaint
    assert run(folder, "detach", WEEKS[1], "--to", place).status == 2  # it would overwrite what is there
    assert run(folder, "list").out.count("sealed") >= 5


@pytest.mark.parametrize("package", ["obstore", "compression.zstd"])
def test_without_the_extra_it_says_what_to_install(folder, package):
    hidden = {package, "backports.zstd"} if package == "compression.zstd" else {package}
    prelude = "import sys; " + "; ".join(f"sys.modules[{name!r}] = None" for name in sorted(hidden))
    command = [sys.executable, "-c", f"{prelude}; {COMMAND[-1]}", "partitions", "archive", *WEEKS[:2]]
    variables = environment(DB_PATH="data/bets.db")
    done = subprocess.run(command, cwd=folder.parent, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (complaint,) = done.stderr.splitlines()  # one for all weeks
    assert "pip install 'betcore_async[archive]'" in complaint
    assert (folder / f"bets-{WEEKS[0]}.db").exists()


def test_nothing_is_made_where_there_is_nothing(tmp_path):
    for command in (("list",), ("archive", "2026-W10"), ("rotate",), ("rotate", "2026-W10")):
        result = betcore("partitions", *command, folder=tmp_path)
        assert "there is no weekly file of data/bets.db yet" in result.out + result.err
    assert list(tmp_path.iterdir()) == []
