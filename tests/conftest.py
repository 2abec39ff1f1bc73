"""What all tests share: a Redis server, an environment free of other settings, a check for what they leave behind."""

import asyncio
import gc
import inspect
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from services import NoRedisError, RedisService, redis_service

import betcore_async
from betcore_async.config import variable_names

SETTLE = 10.0  # seconds that threads, tasks and files have to go away by themselves after a test

_environment = pytest.StashKey[dict[str, str]]()
_service = pytest.StashKey[RedisService | str]()

# Machines are shared and slow at times: how long an example takes says nothing about it.
hypothesis.settings.register_profile("betcore", deadline=None, print_blob=True)
hypothesis.settings.load_profile("betcore")


def pytest_addoption(parser: pytest.Parser) -> None:
    help_ = "kill and cancel rotations, starts, archives and restores at every step there is, not at a sample (minutes)"
    parser.addoption("--every-step", action="store_true", help=help_)
    parser.addoption("--full-size", action="store_true", help="settle cells of 100,000 bets, not of 6,000 (minutes)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items if config.getoption("--every-step") else []:
        item.add_marker(pytest.mark.timeout(7200), append=False)


@pytest.fixture
def one_in(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """How many steps a sweep goes on from kill to kill: what it asks for, or one with `--every-step`."""
    return lambda steps: 1 if request.config.getoption("--every-step") else steps


def pytest_configure(config: pytest.Config) -> None:
    # In the background of a script SIGINT is ignored, also by what is started there: nothing could be interrupted.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The settings of whoever runs the tests are for finding Redis, and must not reach the tests themselves.
    config.stash[_environment] = getattr(config, "workerinput", {}).get("environment") or dict(os.environ)
    for name in (*variable_names(), "SECRETS_DIR"):
        os.environ.pop(name, None)


def pytest_report_header() -> str:
    return f"betcore_async: {Path(betcore_async.__file__).parent}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _service in config.stash:
        terminalreporter.write_line(f"Redis: {config.stash[_service]}")


# With pytest-xdist several processes share the tests. They start in the environment that was cleared above, and what
# they say about the server goes to the one that shows the summary.


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["environment"] = node.config.stash[_environment]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput") and _service in session.config.stash:
        session.config.workeroutput["redis"] = str(session.config.stash[_service])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if said := getattr(node, "workeroutput", {}).get("redis"):
        node.config.stash[_service] = said


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a real server for the session. Tests share it: use keys and channels of your own."""
    try:
        with redis_service(request.config.stash[_environment]) as service:
            request.config.stash[_service] = service
            yield service.url
    except NoRedisError as error:
        if hasattr(request.config, "workerinput"):
            pytest.fail(str(error), pytrace=False)  # one of several processes cannot end the run
        # Ends the run instead of skipping: tests that did not run must not look like tests that passed.
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(scope="session")
def object_stores(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let obstore start the runtime it keeps for the life of the process: its two epolls and an eventfd are no leak.

    Whatever else a test leaves open is one: connections to a store end with it.
    """
    import obstore
    from obstore.store import LocalStore

    obstore.put(LocalStore(tmp_path_factory.mktemp("objects")), "any", b"")


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test after which threads or open files are left that were not there before."""
    threads, files = set(threading.enumerate()), _open_files()
    yield
    deadline = time.monotonic() + SETTLE
    while left := [*_new_threads(threads), *_new_files(files)]:
        if time.monotonic() > deadline:
            pytest.fail(f"the test leaves behind: {', '.join(left)}", pytrace=False)
        gc.collect()  # what only a reference cycle keeps open warns here, and a warning is an error
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def leaves_no_tasks(leaves_nothing_behind: None, request: pytest.FixtureRequest) -> None:
    """Fail a test after which asyncio tasks are left. What it requests makes the teardown go: tasks, loop, threads."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_all_tasks_end")


@pytest.fixture
async def _all_tasks_end() -> AsyncIterator[None]:
    # Set up before the test's other fixtures, therefore torn down after them, but while their loop still runs.
    yield
    deadline = time.monotonic() + SETTLE
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        if time.monotonic() > deadline:
            pytest.fail(f"the test leaves behind: {', '.join(map(repr, left))}", pytrace=False)
        await asyncio.sleep(0.01)


def _new_threads(before: set[threading.Thread]) -> list[str]:
    return [f"thread {thread.name}" for thread in threading.enumerate() if thread not in before]


def _new_files(before: dict[int, str]) -> list[str]:
    return [f"file {number} ({what})" for number, what in _open_files().items() if before.get(number) != what]


def _open_files() -> dict[int, str]:
    """Return each open file descriptor with what it is open on."""
    folder = Path("/proc/self/fd")
    found = {}
    for entry in (folder if folder.is_dir() else Path("/dev/fd")).iterdir():
        try:
            status, place = os.fstat(int(entry.name)), entry.readlink() if entry.is_symlink() else "open"
        except OSError:  # the descriptor of the listing itself
            continue
        found[int(entry.name)] = f"{place}, inode {status.st_dev}:{status.st_ino}"
    return found
