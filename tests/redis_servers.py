"""Servers that belong together, started by a test: a master with replicas and Sentinels, a cluster.

They run the program of the `embedded` extra, each in a private folder and on a free port of the loopback interface,
and die with the process that started them.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_tools import free_port

from betcore_async.errors import RedisUnavailableError
from betcore_async.redis.embedded import _find_binary, _launcher

START_DEADLINE = 20.0  # seconds for a server to answer, and for servers to find each other, on a busy machine


def program() -> Path:
    """Return the server program: that of the `embedded` extra, else one on PATH; skip the test if there is none."""
    try:
        return _find_binary(None)
    except RedisUnavailableError as error:
        installed = shutil.which("valkey-server") or shutil.which("redis-server")
        if installed is None:
            pytest.skip(f"several servers are needed, and there is no program for them: {error}")
        return Path(installed)


class Server:
    """One process; `start` it again after a `kill`: it keeps its port and its folder."""

    def __init__(self, folder: Path, *options: str, password: str | None = None) -> None:
        self.port = free_port()
        self.bus_port = free_port()
        """For the servers of a cluster among themselves; by default it would be 10,000 above, which may be none."""
        self.sentinel_config: str | None = None
        """Makes it a Sentinel."""
        self._folder = folder
        self._options = options
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._leash: tuple[int, int] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it; on Linux it dies with the thread that calls this."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._leash = self._leash or os.pipe()
        command = [*_launcher(sys.platform), str(program())]
        if self.sentinel_config is not None:
            path = self._folder / "sentinel.conf"
            path.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self._folder}\n{self.sentinel_config}\n")
            command += [str(path), "--sentinel"]
        else:
            if "--cluster-enabled" in self._options:
                command += ["--cluster-port", str(self.bus_port)]
            command += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), *self._options]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=self._leash[0], stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """Kill it and wait until it is dead."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """Kill it for good."""
        self.kill()
        for end in self._leash or ():
            os.close(end)
        self._leash = None

    def ask(self, *command: object) -> object:
        """Run one command on it and return the bare reply."""
        with redis.Redis(port=self.port, password=self._password, retry=Retry(NoBackoff(), 0), protocol=2) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def eventually(self, condition, *command: object) -> None:
        """Wait until the reply to a command meets the condition."""
        deadline = time.monotonic() + START_DEADLINE
        while True:
            try:
                reply = self.ask(*command)
            except redis.RedisError as error:
                reply = error
            else:
                if condition(reply):
                    return
            if time.monotonic() > deadline:
                said = (self._folder / "server.log").read_text(errors="replace")[-2000:]
                raise AssertionError(f"{self.address} still answers {command}: {reply!r:.500}; it said: {said}")
            time.sleep(0.01)


@contextmanager
def servers() -> Iterator[tuple[Path, ExitStack]]:
    """Yield a folder for servers, removed at the end, and where to note what has to end before."""
    folder = Path(tempfile.mkdtemp(prefix="betcore-test-servers-"))
    try:
        with ExitStack() as stack:
            yield folder, stack
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Watched:
    """A master with replicas, and the Sentinels that watch it under the name `bets`."""

    def __init__(self, data: Sequence[Server], sentinels: Sequence[Server]) -> None:
        self.data = data
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(each.address for each in self.sentinels)}/bets"

    def master(self) -> Server:
        """Return the server that lives and calls itself master: a Sentinel may be behind."""
        for server in self.data:
            with suppress(redis.RedisError):
                if server.ask("ROLE")[0] == b"master":
                    return server
        raise AssertionError("there is no master")


@contextmanager
def watched(
    *,
    replicas: int,
    sentinels: int,
    down_after: float,
    password: str | None = None,
    sentinel_password: str | None = None,
) -> Iterator[Watched]:
    """Start servers and Sentinels that know each other already; a master silent for `down_after` s is replaced."""
    with servers() as (folder, stack):
        options = ["--save", "", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
        if password:
            options += ["--requirepass", password, "--masterauth", password]
        master = Server(folder / "0", *options, password=password)
        follow = ["--replicaof", f"127.0.0.1 {master.port}"]
        others = [
            Server(folder / str(number), *options, *follow, password=password) for number in range(1, 1 + replicas)
        ]
        guards = [Server(folder / f"s{number}", password=sentinel_password) for number in range(sentinels)]
        for number, guard in enumerate(guards):
            guard.sentinel_config = _sentinel_config(number, guards, master, others, int(down_after * 1000))
            if password:
                guard.sentinel_config += f"\nsentinel auth-pass bets {password}"
            if sentinel_password:
                guard.sentinel_config += f"\nrequirepass {sentinel_password}"
        for each in (master, *others):
            stack.callback(each.end)
            each.start()
        for each in others:
            each.eventually(lambda reply: reply[3] == b"connected", "ROLE")
        for each in guards:
            stack.callback(each.end)
            each.start()
        for each in guards:
            each.eventually(lambda reply: reply == b"PONG", "PING")
        yield Watched([master, *others], guards)


def _sentinel_config(
    own: int, guards: Sequence[Server], master: Server, replicas: Sequence[Server], down_after: int
) -> str:
    lines = [
        f"sentinel myid {own:040x}",
        f"sentinel monitor bets 127.0.0.1 {master.port} {len(guards) // 2 + 1}",
        f"sentinel down-after-milliseconds bets {down_after}",
        "sentinel failover-timeout bets 2000",
        # Told, because they would take seconds to find each other.
        *(f"sentinel known-replica bets 127.0.0.1 {each.port}" for each in replicas),
        *(
            f"sentinel known-sentinel bets 127.0.0.1 {each.port} {other:040x}"
            for other, each in enumerate(guards)
            if other != own
        ),
    ]
    return "\n".join(lines)


SLOTS = 16384
_SLOTS = ("CLUSTER", "SLOTS")


class RedisCluster:
    """Masters, which share the slots evenly, and replicas."""

    def __init__(self, servers: Sequence[Server], password: str) -> None:
        self.servers = servers
        self.password = password

    @property
    def url(self) -> str:
        return f"redis+cluster://:{self.password}@{','.join(each.address for each in self.servers)}"

    def master_of(self, slot: int) -> Server:
        """Return the master of a slot, as any server that lives tells it."""
        for server in self.servers:
            try:
                ranges = server.ask(*_SLOTS)
            except redis.RedisError:
                continue
            port = next(master[1] for first, last, master, *_ in ranges if first <= slot <= last)
            return next(each for each in self.servers if each.port == port)
        raise AssertionError("no server of the cluster answers")

    def current_masters(self) -> list[Server]:
        return [server for server in self.servers if server.ask("ROLE")[0] == b"master"]

    def move(self, slot: int, target: Server, *, pausing: float = 0.0) -> None:
        """Move a slot with its keys, one by one, as `redis-cli --cluster reshard` does."""
        source = self.master_of(slot)
        source_id, target_id = source.ask("CLUSTER", "MYID"), target.ask("CLUSTER", "MYID")
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            time.sleep(pausing)
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "AUTH", self.password, "KEYS", *keys)
        for server in (target, source, *self.current_masters()):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def until_settled(self) -> None:
        """Wait until all servers agree that the cluster is whole."""
        for server in self.servers:
            server.eventually(lambda reply: b"cluster_state:ok" in reply, "CLUSTER", "INFO")
            server.eventually(
                lambda reply: sum(last + 1 - first for first, last, *_ in reply) == SLOTS, "CLUSTER", "SLOTS"
            )


@contextmanager
def cluster(*, masters: int, replicas: int, password: str, node_timeout: int = 1500) -> Iterator[RedisCluster]:
    """Start a cluster; the first `replicas` masters have one replica each, which takes over after `node_timeout` ms."""
    with servers() as (folder, stack):
        options = ("--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout))
        quick = ("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0")
        secret = ("--requirepass", password, "--masterauth", password)
        group = [
            Server(folder / str(number), *options, *quick, *secret, password=password)
            for number in range(masters + replicas)
        ]
        for each in group:
            stack.callback(each.end)
            each.start()
        for each in group:
            each.eventually(lambda reply: reply == b"PONG", "PING")
        first, *others = group
        for each in others:
            each.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus_port)
        share = SLOTS // masters + 1
        for number, each in enumerate(group[:masters]):
            each.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min(SLOTS, (number + 1) * share) - 1)
        result = RedisCluster(group, password)
        result.until_settled()
        for master, replica in zip(group, group[masters:], strict=False):
            identity = master.ask("CLUSTER", "MYID")
            replica.eventually(lambda reply, identity=identity: identity in reply, "CLUSTER", "NODES")
            replica.ask("CLUSTER", "REPLICATE", identity)
            replica.eventually(lambda reply: reply[0] == b"slave" and reply[3] == b"connected", "ROLE")
        yield result
