"""The documentation runs: its Python is executed as it stands, its table of settings is the current one."""

import inspect
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest

import betcore_async
from betcore_async import errors
from betcore_async.config import RedisSettings
from betcore_async.config_docs import options_table
from betcore_async.models import TRANSITIONS, BetStatus
from betcore_async.sqlite import PoolStats

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
MARKERS = ("<!-- betcore config docs -->\n", "<!-- end of betcore config docs -->")

BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(PYTHON.findall(page.read_text()), start=1)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_python_of_the_documentation_runs(block, tmp_path, redis_url):
    server = RedisSettings.from_url(redis_url)
    environ = {
        "REDIS_ADDR": server.addr,
        "REDIS_DB": str(server.db),
        "REDIS_USERNAME": server.username or "",
        "REDIS_PASSWORD": server.password.get_secret_value() if server.password else "",
        "REDIS_TLS": str(server.tls),
    }
    assert_runs(block, tmp_path, environ)


def test_the_quick_start_needs_no_server(tmp_path):
    (quick_start,) = PYTHON.findall((ROOT / "README.md").read_text())
    assert_runs(quick_start, tmp_path, {"REDIS_ADDR": "127.0.0.1:1"})  # where none answers


def assert_runs(block, folder, environ):
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=folder,
        env={**os.environ, **environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_there_is_python_to_run():
    assert len(BLOCKS) >= 5


def test_the_guide_to_the_pool_explains_every_number_of_its_stats():
    page = (ROOT / "docs" / "sqlite.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [field.name for field in fields(PoolStats)]


def test_the_table_of_settings_is_the_current_one():
    page = (ROOT / "docs" / "configuration.md").read_text()
    table = page.partition(MARKERS[0])[2].partition(MARKERS[1])[0]
    assert table.strip() == options_table().strip(), "put the output of `betcore config docs` between the markers"


def test_the_page_of_public_names_says_of_each_what_its_docstring_says():
    page = (ROOT / "docs" / "reference.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert sorted(told) == sorted(betcore_async.__all__)
    assert told.pop("Clock")  # the name of a type, without a docstring of its own
    assert told == {name: inspect.getdoc(getattr(betcore_async, name)).splitlines()[0] for name in told}
    assert not any(meaning.startswith(f"{name}(") for name, meaning in told.items()), "a dataclass without a docstring"


def test_the_page_of_public_names_has_the_tree_of_errors():
    page = (ROOT / "docs" / "reference.md").read_text()
    tree = page.partition("```text\n")[2].partition("```")[0]
    assert tree == textwrap.dedent(errors.__doc__.partition("\n\n")[2].partition("\n\nThe text")[0]) + "\n"


def test_the_life_of_a_bet_is_told_as_the_models_have_it():
    page = (ROOT / "docs" / "ledger.md").read_text()
    told = re.findall(r"^\| `bets\.(?:confirm|settle|cancel)\b[^|]*\| ([^|]*) \| `(\w+)` \|", page, re.MULTILINE)
    moves = {(start, end) for starts, end in told for start in re.findall(r"`(\w+)`", starts)}
    assert moves == {(str(start), str(end)) for start, ends in TRANSITIONS.items() for end in ends}
    drawing = page.partition("## The life of a bet")[2].partition("```text")[2].partition("```")[0]
    assert {status for status in BetStatus if f" {status} " in drawing} == set(BetStatus)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    missing = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert missing == []


def test_no_page_leads_to_a_page_outside_of_the_documentation():
    # `nox -s docs` takes warnings for errors, and Sphinx knows no other pages.
    outside = [link for page in PAGES[1:] for link in re.findall(r"\]\((\.\./[^)]*\.md[^)]*)\)", page.read_text())]
    assert outside == []
