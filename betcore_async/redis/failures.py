"""What went wrong, in this library's words: redis-py's errors are translated here and nowhere else.

Also here: which commands may be repeated, and how long to wait before doing so. Pure functions, no I/O.
"""

import random
from collections.abc import Sequence

from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError, InvalidResponse, ResponseError
from redis.exceptions import RedisError as ServerError
from redis.exceptions import TimeoutError as ServerTimeoutError

from betcore_async.errors import (
    RedisAuthError,
    RedisCommandError,
    RedisError,
    RedisOutcomeUnknownError,
    RedisTimeoutError,
    RedisUnavailableError,
)

Value = str | bytes | int | float
"""What may stand in a command. Text is sent as UTF-8, numbers as text."""

Command = tuple[Value, ...]
"""A command with its arguments: `("SET", "key", 1)`."""

_BACKOFF_FIRST = 0.01
"""Seconds; the longest first pause. A connection that was merely stale is replaced at once."""

_BACKOFF_MOST = 0.5
"""Seconds; the longest pause at all, so that a server that is back is found soon."""

_REPEATABLE_NAMES = """
    DBSIZE DEL ECHO EXISTS GET GETRANGE HEXISTS HGET HGETALL HKEYS HLEN HMGET HVALS INFO KEYS LLEN LRANGE MGET PING
    PTTL SCARD SCRIPT SISMEMBER SMEMBERS STRLEN TIME TTL TYPE UNLINK XLEN XRANGE ZCARD ZCOUNT ZRANGE ZRANGEBYSCORE
    ZRANK ZREVRANGE ZREVRANGEBYSCORE ZSCORE
"""
# Reads, and writes whose second time finds nothing left to do.
_REPEATABLE = frozenset(_REPEATABLE_NAMES.split())


def is_repeatable(command: Command) -> bool:
    """Whether sending `command` twice does no more than sending it once."""
    name = str(command[0]).upper()
    if name == "SET":
        # With NX, XX, GET or KEEPTTL the second answer or effect differs from the first.
        return len(command) == 3 or (len(command) == 5 and str(command[3]).upper() in {"PX", "EX"})
    return name in _REPEATABLE


def backoff(attempt: int) -> float:
    """Return seconds to wait after failed attempt 0, 1, …: exponential, with full jitter."""
    return random.uniform(0, min(_BACKOFF_MOST, _BACKOFF_FIRST * 2 ** min(attempt, 16)))  # noqa: S311 - not a secret


def translate(error: ServerError, *, command: str, address: str, waited: float, in_doubt: bool) -> RedisError:
    """Return the error to raise for a call that failed with `error` after `waited` seconds.

    `in_doubt`: the command was sent, is not safe to repeat, and no answer came.
    """
    if isinstance(error, AuthenticationError | AuthorizationError):
        return RedisAuthError(
            f"Redis at {address} refused the user name or password: check REDIS_USERNAME and REDIS_PASSWORD",
            address=address,
        )
    if isinstance(error, BusyLoadingError | ResponseError):  # while greeting, for one: there is no such database
        return command_error(error, command)
    if in_doubt:
        return outcome_unknown(command, address)
    if isinstance(error, ServerTimeoutError):
        return timed_out(command, address, waited)
    if isinstance(error, InvalidResponse):
        return RedisUnavailableError(f"what listens at {address} does not speak the Redis protocol", address=address)
    return RedisUnavailableError(f"no Redis server answers at {address}: {error}", address=address)


def command_error(error: Exception, command: str) -> RedisCommandError:
    """Return the error for a reply that is an error."""
    return RedisCommandError(f"Redis refused {command}: {error}", command=command)


def outcome_unknown(command: str, address: str) -> RedisOutcomeUnknownError:
    return RedisOutcomeUnknownError(
        f"{command} was sent to Redis at {address}, but no answer came: it may or may not have been applied;"
        " look before you repeat it",
        command=command,
    )


def timed_out(command: str, address: str, waited: float) -> RedisTimeoutError:
    return RedisTimeoutError(
        f"Redis at {address} did not answer {command} within {waited:.2f} s; it is safe to repeat",
        command=command,
        waited=waited,
    )


def name_of(commands: Sequence[Command]) -> str:
    """Return how errors call a batch: the first command's name, and how many follow it."""
    first = str(commands[0][0]).upper()
    return first if len(commands) == 1 else f"{first} (and {len(commands) - 1} more)"
