"""What holds for the code as a whole."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import betcore_async

PACKAGE = Path(betcore_async.__file__).parent
ROOT = Path(__file__).parents[1]
LONGEST_MODULE = 350  # lines
LONGEST_FUNCTION = 45  # lines, docstring and decorators left out

FILES = sorted(path for path in PACKAGE.rglob("*.py"))
MODULES = ["betcore_async", *(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "betcore_async."))]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_imports_go_downwards_only():
    # In a process of its own: import-linter puts the working directory on the import path.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_line_shows_its_help_without_loading_the_toolkit():
    code = "import sys, betcore_async.cli.application; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"redis", "aiosqlite", "pydantic_settings"} & set(loaded)


def test_every_error_is_a_public_name():
    errors = importlib.import_module("betcore_async.errors")
    kinds = {name for name, thing in vars(errors).items() if isinstance(thing, type) and not name.startswith("_")}
    assert kinds <= {*betcore_async.__all__, "Any"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_is_short_enough_to_read(path):
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_are_short_enough_to_read(path):
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lengths = {node.name: body_lines(node) for node in functions}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[1:2] if ast.get_docstring(function) is not None else function.body[:1]
    return function.end_lineno - first[0].lineno + 1 if first else 0


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_module_names_say_what_is_inside(path):
    assert path.stem not in {"utils", "helpers", "common", "base", "core", "misc"}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported_and_says_what_it_is_for(name):
    module = importlib.import_module(name)
    has_code = len(ast.parse(inspect.getsource(module)).body) > 0
    assert (module.__doc__ or "").strip() or not has_code


def test_every_public_name_is_there_and_documented():
    things = {name: getattr(betcore_async, name) for name in betcore_async.__all__}
    silent = {
        name
        for name, thing in things.items()
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and not (thing.__doc__ or "").strip()
    }
    assert silent == set()


def test_all_lists_exactly_the_public_names():
    public = {
        name
        for name, thing in vars(betcore_async).items()
        if not name.startswith("_")
        and not inspect.ismodule(thing)
        and getattr(thing, "__module__", "").startswith("betcore_async")
    }
    assert public <= set(betcore_async.__all__)
    assert sorted(betcore_async.__all__) == sorted(set(betcore_async.__all__))


def test_importing_the_package_does_not_configure_logging_or_read_the_environment(tmp_path):
    program = (
        "import logging, os, sys\n"
        "os.environ['DB_MAX_OPEN_CONNS'] = 'not a number'\n"
        "import betcore_async, structlog\n"
        "sys.exit(bool(logging.getLogger().handlers) or structlog.is_configured())\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0
