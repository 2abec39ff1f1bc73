"""What went wrong, in this library's words: redis-py's errors are made and translated here and nowhere else.

Also here: how long to wait before another attempt. Pure functions, no I/O.
"""

import random

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    MaxConnectionsError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import RedisError as ServerError
from redis.exceptions import TimeoutError as ServerTimeoutError

from betcore_async.errors import (
    RedisAuthError,
    RedisCommandError,
    RedisCrossSlotError,
    RedisError,
    RedisOutcomeUnknownError,
    RedisTimeoutError,
    RedisUnavailableError,
)

UNANSWERED = (ServerConnectionError, ServerTimeoutError)
"""What is raised when a connection cannot be had or breaks."""

_BACKOFF_FIRST = 0.01
"""Seconds; the longest first pause. A connection that was merely stale is replaced at once."""

_BACKOFF_MOST = 0.5
"""Seconds; the longest pause at all, so that a server that is back is found soon."""


class MovedError(ResponseError):
    """Another server of the cluster has this slot; it says which."""


class AskError(ResponseError):
    """The key is on its way to another server of the cluster, which may have it already; it says which."""


class UnsettledError(ResponseError):
    """The cluster is busy with itself: keys are on their way, or a master is being replaced."""


_KINDS: dict[str, type[ServerError]] = {
    "ASK": AskError,
    "CLUSTERDOWN": UnsettledError,
    "LOADING": BusyLoadingError,
    "MOVED": MovedError,
    "NOAUTH": AuthenticationError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": UnsettledError,
    "WRONGPASS": AuthenticationError,
}
"""The first word of error replies that mean more than that a command failed."""


class LateError(ServerTimeoutError):
    """The deadline of a call came before its answer."""


def is_final(error: ServerError) -> bool:
    """Whether another attempt would end alike."""
    return isinstance(error, AuthenticationError | AuthorizationError) or not isinstance(error, UNANSWERED)


def reply_error(text: str) -> ServerError:
    """Return redis-py's exception for the text of an error reply."""
    if text.startswith("ERR max number of clients"):
        return MaxConnectionsError(text)
    # Servers before Redis 6.2, and those without a password that are given one, say it with ERR.
    if text.startswith("ERR") and ("AUTH" in text or "invalid password" in text):
        return AuthenticationError(text)
    return _KINDS.get(text.partition(" ")[0], ResponseError)(text)


def backoff(attempt: int) -> float:
    """Return seconds to wait after failed attempt 0, 1, …: exponential, with full jitter."""
    return random.uniform(0, min(_BACKOFF_MOST, _BACKOFF_FIRST * 2 ** min(attempt, 16)))  # noqa: S311 - not a secret


def translate(error: ServerError, *, command: str, address: str, waited: float, in_doubt: bool) -> RedisError:
    """Return the error to raise for a call that failed with `error` after `waited` seconds.

    `in_doubt`: the command was sent, is not safe to repeat, and no answer came.
    """
    if isinstance(error, AuthenticationError | AuthorizationError):
        return RedisAuthError(
            f"Redis at {address} refused the user name or password: check REDIS_USERNAME and REDIS_PASSWORD"
            + (" (for the Sentinels, REDIS_SENTINEL_…)" if address.startswith("redis+sentinel:") else ""),
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
    return RedisUnavailableError(
        f"no Redis server answers at {address}: {error}; start one, or say where it is (REDIS_ADDR)", address=address
    )


def command_error(error: Exception, command: str) -> RedisCommandError:
    """Return the error for a reply that is an error."""
    if str(error).startswith("CROSSSLOT"):
        return RedisCrossSlotError(
            f"the keys of {command} are on different servers of the cluster: give them a part in common, in braces,"
            " such as {user:7}:balance and {user:7}:bets, or send one command for each",
            command=command,
        )
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
