"""Sends calls and brings back replies: one deadline each, repeats where harmless, an error that is true."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from redis.exceptions import RedisError as ServerError

from betcore_async.config import RedisSettings
from betcore_async.errors import RedisClosedError, RedisError
from betcore_async.redis.cluster import Cluster
from betcore_async.redis.commands import Command
from betcore_async.redis.failures import translate
from betcore_async.redis.route import Direct, Route
from betcore_async.redis.wire import Call, Wire
from betcore_async.tasks import finish


class Transport:
    """What every call goes through, and where calls are counted."""

    def __init__(self, settings: RedisSettings) -> None:
        self.address = settings.addr
        self.is_cluster = settings.place.kind == "cluster"
        self.publishing = "SPUBLISH" if self.is_cluster else "PUBLISH"
        """The command that publishes: on a cluster only to the servers that have the channel, not to all."""
        self.timeout = settings.timeout.total_seconds()
        self.route: Route = Cluster(settings) if self.is_cluster else Direct(settings)
        self.calls = self.commands = self.timeouts = self.errors = 0
        self._running = 0
        self.is_open = False

    @staticmethod
    def now() -> float:
        """Return the running loop's time, in seconds."""
        return asyncio.get_running_loop().time()

    def open(self) -> None:
        if not self.is_open:
            self.route.open()
            self._quiet = asyncio.Event()
            self.is_open = True

    async def close(self) -> None:
        """Refuse new calls, let the running ones end (their deadlines bound that), close the connections."""
        if self.is_open:
            self.is_open = False
            await finish(self._drain())

    async def run(
        self, commands: Sequence[Command], *, repeatable: bool | None = None, alone: bool = False, patience: float = 0.0
    ) -> list[Any]:
        """Send `commands` in one write and return their replies in order; an error reply stands there as a value.

        Repeated on a lost connection when `repeatable` (default: when all commands are), and always while nothing was
        sent yet; all within one deadline, put off by `patience` seconds. `alone`: on a connection that nobody else
        uses meanwhile.
        """
        if not self.is_open:
            raise RedisClosedError("the Redis client is not open: use it inside `async with RedisClient(…)`")
        call = Call(commands, self.now() + self.timeout + patience, repeatable=repeatable, alone=alone)
        self.calls += 1
        self.commands += len(commands)
        self._running += 1
        try:
            return await self.route.replies(call)
        except RedisError:
            self.errors += 1
            self.timeouts += call.deadline <= self.now()
            raise
        finally:
            self._running -= 1
            if not self._running:
                self._quiet.set()

    async def connect_apart(self) -> Wire:
        """Return a connection that is not counted, for the caller to use and to close."""
        started = self.now()
        try:
            return await self.route.dial_apart()
        except ServerError as error:
            waited = self.now() - started
            raise translate(error, command="connect", address=self.address, waited=waited, in_doubt=False) from error

    async def _drain(self) -> None:
        if self._running:
            self._quiet.clear()
            with suppress(TimeoutError):  # a call that waits at the server may have a later deadline: it is cut off
                async with asyncio.timeout(1.1 * self.timeout):
                    await self._quiet.wait()
        await self.route.close()


class HasTransport(Protocol):
    """Whatever commands can be sent through; a RedisClient is one."""

    @property
    def transport(self) -> Transport: ...
