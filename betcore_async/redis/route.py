"""The way a call takes to the server that has to answer it, and how often it is tried."""

import asyncio
from collections.abc import Collection, Sequence
from itertools import count as count_up
from typing import Any, Protocol

from redis.exceptions import BusyLoadingError, ReadOnlyError
from redis.exceptions import RedisError as ServerError

from betcore_async.config import RedisSettings
from betcore_async.errors import RedisError, RedisOutcomeUnknownError
from betcore_async.redis.commands import Value, name_of
from betcore_async.redis.dial import dial
from betcore_async.redis.failures import LateError, backoff, is_final, outcome_unknown, timed_out, translate
from betcore_async.redis.sentinel import dial_master
from betcore_async.redis.switchboard import Dial, Switchboard
from betcore_async.redis.wire import Call, Wire


class Route(Protocol):
    """Where calls go: one server, the master of the moment, or the nodes of a cluster."""

    retries: int
    """Attempts that were made again."""

    def open(self) -> None: ...
    async def close(self) -> None: ...

    async def warm(self, count: int) -> None:
        """Have `count` connections open; raises as a call does."""

    async def replies(self, call: Call) -> list[Any]:
        """Return the replies in order, error replies as values; raises RedisError within the call's deadline."""

    async def dial_apart(self) -> Wire:
        """Return a connection for one user; raises redis-py's errors."""

    def boards(self) -> Collection[Switchboard]: ...

    def together(self, keys: Sequence[Value]) -> Sequence[Sequence[Value]]:
        """Return the keys in groups that one command may have."""


class Direct:
    """One server at a time: the one there is, or the master that the Sentinels name."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._has_sentinels = settings.place.kind == "sentinel"
        self._board = Switchboard(settings, self._dialer())
        self.retries = 0
        self.open, self.close, self.warm = self._board.open, self._board.close, self._board.warm

    def _dialer(self) -> Dial:
        settings = self._settings
        if self._has_sentinels:
            return lambda on_change: dial_master(settings, on_change)
        (node,) = settings.place.nodes
        return lambda on_change: dial(node, settings, on_change)

    def boards(self) -> Collection[Switchboard]:
        return (self._board,)

    def together(self, keys: Sequence[Value]) -> Sequence[Sequence[Value]]:
        return [keys]

    async def dial_apart(self) -> Wire:
        return await self._dialer()(lambda _: None)

    async def replies(self, call: Call) -> list[Any]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        for attempt in count_up():
            try:
                replies = await self._board.put_through(call)
                if self._has_sentinels and (refused := _refused_by_replica(replies)):
                    return await self._elsewhere(call, replies, refused)
                if type(replies[0]) is not BusyLoadingError or not _is_loading(replies):
                    return replies
                failure: ServerError = replies[0]  # nothing was applied, and will be once it has loaded
                may_repeat = True
            except ServerError as error:
                failure = error
                may_repeat = call.wire is None or call.may_repeat()
            left = call.deadline - loop.time()
            if is_final(failure) or not may_repeat or left <= 0 or self._board.is_closed:
                break
            self.retries += 1
            await asyncio.sleep(min(backoff(attempt), left))
        waited = loop.time() - started
        raise told(call, failure, self._board.failure, self._settings.addr, waited) from failure

    async def _elsewhere(self, call: Call, replies: list[Any], refused: Sequence[int]) -> list[Any]:
        """Send what a master that is none any more refused, and thus did not apply, to its successor."""
        loop = asyncio.get_running_loop()
        if call.wire is not None:
            self._board.retire(call.wire.peer)
        left = call.deadline - loop.time()
        if left <= 0 or self._board.is_closed:
            return replies
        again = call if call.is_transaction else call.only(refused)
        again.was_sent = False
        self.retries += 1
        await asyncio.sleep(min(backoff(call.refusals), left))
        again.refusals = call.refusals + 1
        try:
            found = await self.replies(again)
        except RedisOutcomeUnknownError:
            raise
        except RedisError:
            if again is call or len(refused) == len(replies):
                raise
            return replies  # others of the batch were applied: the replies tell which
        if again is call:
            return found
        for index, reply in zip(refused, found, strict=True):
            replies[index] = reply
        return replies


def told(call: Call, failure: ServerError, unreachable: ServerError | None, address: str, waited: float) -> RedisError:
    """Return the error that says no more, and no less, than is known. `unreachable`: why there was no connection."""
    name, in_doubt = name_of(call.commands), call.was_sent and not call.may_repeat()
    is_late = call.deadline <= asyncio.get_running_loop().time()
    if isinstance(failure, BusyLoadingError):
        in_doubt = False
    elif isinstance(failure, LateError) or (is_late and call.was_sent and not in_doubt):
        # Sent once and refused later is not "unavailable", which promises that nothing was applied.
        if call.was_sent or unreachable is None:
            return outcome_unknown(name, address) if in_doubt else timed_out(name, address, waited)
        failure = unreachable
    return translate(failure, command=name, address=address, waited=waited, in_doubt=in_doubt)


def _refused_by_replica(replies: Sequence[Any]) -> list[int]:
    return [index for index, reply in enumerate(replies) if type(reply) is ReadOnlyError]


def _is_loading(replies: list[Any]) -> bool:
    return all(isinstance(reply, BusyLoadingError) for reply in replies)
