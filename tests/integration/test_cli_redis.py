"""`betcore redis`: a server for as long as the command runs, and nothing of it afterwards."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from integration.commands import COMMAND, betcore

PATIENCE = 20.0  # seconds; what takes so long does not happen any more


@pytest.fixture
def temporary():
    """A folder for temporary files, in which a server would leave its own."""
    with tempfile.TemporaryDirectory(prefix="bc-") as folder:
        yield Path(folder)


@contextmanager
def running(*options, temporary, command=COMMAND):
    """Yield the command and the first line it prints."""
    with subprocess.Popen(
        [*command, "redis", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def pid_of(url):
    with redis.Redis.from_url(url, retry=None) as client:
        return client.info("server")["process_id"]


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def is_gone(url):
    try:
        pid_of(url)
    except redis.RedisError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_prints_the_url_of_a_server_that_answers_and_ends_cleanly_when_asked(temporary, number):
    with running(temporary=temporary) as (process, url):
        assert url.startswith("redis://127.0.0.1:")
        assert pid_of(url) != process.pid
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""
    assert is_gone(url)
    assert list(temporary.iterdir()) == []


def test_it_takes_the_port_and_the_program_it_is_given_and_speaks_json(temporary):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    options = ["--binary", program] if program else []
    with running("--port", str(port), "--json", *options, temporary=temporary) as (process, line):
        found = json.loads(line + process.stdout.readline() + process.stdout.readline() + process.stdout.readline())
        assert found == {"url": f"redis://127.0.0.1:{port}/0", "pid": pid_of(found["url"])}
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_it_ends_with_the_process_that_started_it(temporary):
    start = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    with running(temporary=temporary, command=[sys.executable, "-c", start, *COMMAND]) as (parent, url):
        server = pid_of(url)
        parent.kill()
        parent.wait(PATIENCE)
        wait_until(lambda: is_gone(url))
        wait_until(lambda: list(temporary.iterdir()) == [])
        wait_until(lambda: not Path(f"/proc/{server}").exists())


def test_a_killed_command_takes_its_server_along(temporary):
    with running(temporary=temporary) as (process, url):
        process.kill()
        process.wait(PATIENCE)
        wait_until(lambda: is_gone(url))


def test_a_server_that_ends_by_itself_ends_the_command_and_is_told(temporary):
    with running(temporary=temporary) as (process, url):
        os.kill(pid_of(url), signal.SIGKILL)
        assert process.wait(PATIENCE) == 2
        assert process.stderr.read() == "betcore: the server ended by itself\n"


def test_a_port_in_use_is_told_in_one_line(temporary):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = betcore("redis", "--port", port, TMPDIR=str(temporary))
    assert result.status == 2
    assert f"port {port}" in result.complaint
    assert "in use" in result.complaint
    assert list(temporary.iterdir()) == []
