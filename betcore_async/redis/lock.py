"""A lock that several processes share, held by a token that expires by itself."""

import asyncio
import secrets
from types import TracebackType
from typing import Self

from betcore_async.errors import RedisError, RedisLockError
from betcore_async.redis.failures import backoff
from betcore_async.redis.pipeline import TTL, milliseconds
from betcore_async.redis.scripts import Script
from betcore_async.redis.transport import Transport
from betcore_async.tasks import finish

# All three compare the token, so that a repeated call finds its own work done and does nothing more.
_ACQUIRE = Script(
    """
    local holder = redis.call('GET', KEYS[1])
    if holder and holder ~= ARGV[1] then return 0 end
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return 1
    """,
    repeatable=True,
)
_EXTEND = Script(
    """
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
    """,
    repeatable=True,
)
# Not repeatable: the second time the token is gone, which would read as a lock that was lost.
_RELEASE = Script(
    """
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
    return redis.call('DEL', KEYS[1])
    """,
    repeatable=False,
)


class Lock:
    """Held inside its `async with` block; at most `ttl` long, so that a holder that dies does not block the others.

    A holder that stops for longer than `ttl` loses the lock without noticing until it calls `extend` or leaves the
    block: both raise RedisLockError then. So the lock saves double work; it does not replace a transaction.
    """

    def __init__(self, transport: Transport, name: str, ttl: TTL, wait: TTL | None) -> None:
        self._transport = transport
        self._name = name
        self._lifetime = milliseconds(ttl)
        self._wait = None if wait is None else milliseconds(wait, "wait") / 1000
        self._token = secrets.token_hex(16)

    async def extend(self) -> None:
        """Let the full `ttl` begin again; raises RedisLockError when the lock was lost."""
        if not await _EXTEND.run(self._transport, [self._name], self._token, self._lifetime):
            raise self._lost()

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self._wait):
                attempt = 0
                while not await _ACQUIRE.run(self._transport, [self._name], self._token, self._lifetime):
                    attempt += 1
                    await asyncio.sleep(backoff(attempt))
        except BaseException as error:
            # The lock may have been taken by the attempt that was cut off: give it back rather than block the others.
            await finish(self._give_back())
            if isinstance(error, TimeoutError):
                raise RedisLockError(
                    f"the lock {self._name!r} was not free within {self._wait} s", name=self._name
                ) from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        released = await finish(self._give_back())
        if released is False and error is None:
            raise self._lost()

    async def _give_back(self) -> bool | None:
        try:
            return bool(await _RELEASE.run(self._transport, [self._name], self._token))
        except RedisError:
            return None  # unknown; the lock expires by itself

    def _lost(self) -> RedisLockError:
        return RedisLockError(
            f"the lock {self._name!r} expired before its holder was done; another may have held it meanwhile",
            name=self._name,
        )
