"""Sends calls and brings back replies: one deadline each, repeats where harmless, an error that is true."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import count as count_up
from typing import Any, Protocol

from redis.exceptions import BusyLoadingError
from redis.exceptions import RedisError as ServerError

from betcore_async.config import RedisSettings
from betcore_async.errors import RedisClosedError, RedisError
from betcore_async.redis.commands import Command, name_of
from betcore_async.redis.dial import dial
from betcore_async.redis.failures import LateError, backoff, is_final, outcome_unknown, timed_out, translate
from betcore_async.redis.switchboard import Switchboard
from betcore_async.redis.wire import Call, Wire
from betcore_async.tasks import finish


class Transport:
    """What every call goes through, and where calls are counted."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self.address = settings.addr
        self.timeout = settings.timeout.total_seconds()
        self.board = Switchboard(settings)
        self.calls = self.commands = self.retries = self.timeouts = self.errors = 0
        self._running = 0
        self.is_open = False

    @staticmethod
    def now() -> float:
        """Return the running loop's time, in seconds."""
        return asyncio.get_running_loop().time()

    def open(self) -> None:
        if not self.is_open:
            self.board.open()
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
            return await self._attempts(call)
        except RedisError:
            self.errors += 1
            raise
        finally:
            self._running -= 1
            if not self._running:
                self._quiet.set()

    async def connect_apart(self) -> Wire:
        """Return a connection that is not counted, for the caller to use and to close."""
        started = self.now()
        try:
            return await dial(self._settings, lambda _: None)
        except ServerError as error:
            waited = self.now() - started
            raise translate(error, command="connect", address=self.address, waited=waited, in_doubt=False) from error

    async def _attempts(self, call: Call) -> list[Any]:
        started = self.now()
        for attempt in count_up():
            try:
                replies = await self.board.put_through(call)
                if type(replies[0]) is not BusyLoadingError or not _is_loading(replies):
                    return replies
                failure: ServerError = replies[0]  # nothing was applied, and will be once it has loaded
                may_repeat = True
            except ServerError as error:
                failure = error
                may_repeat = call.wire is None or call.may_repeat()
            left = call.deadline - self.now()
            if is_final(failure) or not may_repeat or left <= 0 or self.board.is_closed:
                break
            self.retries += 1
            await asyncio.sleep(min(backoff(attempt), left))
        raise self._told(call, failure, self.now() - started) from failure

    def _told(self, call: Call, failure: ServerError, waited: float) -> RedisError:
        """Return the error that says no more, and no less, than is known."""
        name, in_doubt = name_of(call.commands), call.was_sent and not call.may_repeat()
        is_late = call.deadline <= self.now()
        self.timeouts += is_late
        if isinstance(failure, BusyLoadingError):
            in_doubt = False
        elif isinstance(failure, LateError) or (is_late and call.was_sent and not in_doubt):
            # Sent once and refused later is not "unavailable", which promises that nothing was applied.
            if call.was_sent or self.board.failure is None:
                return outcome_unknown(name, self.address) if in_doubt else timed_out(name, self.address, waited)
            failure = self.board.failure  # why there was no connection
        return translate(failure, command=name, address=self.address, waited=waited, in_doubt=in_doubt)

    async def _drain(self) -> None:
        if self._running:
            self._quiet.clear()
            with suppress(TimeoutError):  # a call that waits at the server may have a later deadline: it is cut off
                async with asyncio.timeout(1.1 * self.timeout):
                    await self._quiet.wait()
        await self.board.close()


class HasTransport(Protocol):
    """Whatever commands can be sent through; a RedisClient is one."""

    @property
    def transport(self) -> Transport: ...


def _is_loading(replies: list[Any]) -> bool:
    return all(isinstance(reply, BusyLoadingError) for reply in replies)
