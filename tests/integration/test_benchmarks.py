"""The benchmarks of the ledger go on running while what they measure changes, and no contender leaves wrong books."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "ledger.py"
LIBRARIES = {"aiosqlitepool": "aiosqlitepool", "SQLAlchemy async": "sqlalchemy"}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("betcore_async", "place x64"),
        ("aiosqlite, one hop", "place x64"),
        ("aiosqlite, README style", "place x64"),
        ("aiosqlitepool", "place x64 FULL"),
        ("SQLAlchemy async", "place x64"),
        ("settle_cell", "settle beside a writer"),
    ],
)
def test_a_contender_of_the_ledger_does_its_work_and_leaves_right_books(name, case):
    if (library := LIBRARIES.get(name)) and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    command = [sys.executable, str(PROGRAM), "--be", name, "--case", case, "--seconds", "0.05", "--bets", "400"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["ops"] > 0, found["broken"]) == (True, 0)
