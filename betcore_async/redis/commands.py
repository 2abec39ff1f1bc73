"""What is known of commands: which may be repeated, which wait at the server, which a shared connection cannot take."""

from collections.abc import Sequence

from betcore_async.errors import ModelError

Value = str | bytes | int | float
"""What may stand in a command. Text is sent as UTF-8, numbers as text."""

Command = tuple[Value, ...]
"""A command with its arguments: `("SET", "key", 1)`."""

_REPEATABLE_NAMES = """
    DBSIZE DEL ECHO EXISTS GET GETRANGE HEXISTS HGET HGETALL HKEYS HLEN HMGET HVALS INFO KEYS LLEN LRANGE MGET PING
    PTTL SCARD SCRIPT SISMEMBER SMEMBERS STRLEN TIME TTL TYPE UNLINK XLEN XRANGE XREVRANGE ZCARD ZCOUNT ZRANGE
    ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYSCORE ZSCORE
"""
# Reads, and writes whose second time finds nothing left to do.
_REPEATABLE = frozenset(_REPEATABLE_NAMES.split())

# Where a command that waits says for how long, and how many of its units are a second.
_WAITING = {
    "BLMOVE": (-1, 1.0),
    "BLMPOP": (1, 1.0),
    "BLPOP": (-1, 1.0),
    "BRPOP": (-1, 1.0),
    "BRPOPLPUSH": (-1, 1.0),
    "BZMPOP": (1, 1.0),
    "BZPOPMAX": (-1, 1.0),
    "BZPOPMIN": (-1, 1.0),
    "WAIT": (-1, 1000.0),
    "WAITAOF": (-1, 1000.0),
}

_STATEFUL_NAMES = """
    ASKING AUTH DISCARD EXEC HELLO MONITOR MULTI PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT READONLY READWRITE RESET SELECT
    SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE SYNC UNSUBSCRIBE UNWATCH WATCH
"""
# They change what the connection is, or get no reply, or more than one: the calls of others on it would go astray.
_STATEFUL = frozenset(_STATEFUL_NAMES.split())
_STATEFUL_CLIENT = frozenset({"CACHING", "NO-TOUCH", "REPLY", "TRACKING"})
_SPECIAL = _STATEFUL | _WAITING.keys() | {"CLIENT", "XREAD", "XREADGROUP"}


def name_of(commands: Sequence[Command]) -> str:
    """Return how errors call a batch: the first command's name, and how many follow it."""
    first = _word(commands[0][0])
    return first if len(commands) == 1 else f"{first} (and {len(commands) - 1} more)"


def is_repeatable(command: Command) -> bool:
    """Whether sending `command` twice does no more than sending it once."""
    name = _word(command[0])
    if name == "SET":
        # With NX, XX, GET or KEEPTTL the second answer or effect differs from the first.
        return len(command) == 3 or (len(command) == 5 and _word(command[3]) in {"PX", "EX"})
    return name in _REPEATABLE


def waiting_time(command: Command) -> float | None:
    """Return how many seconds the server may wait before it answers `command`; None when it answers at once.

    Raises ModelError for a command that may wait for ever, which no deadline can hold, and for one that a connection
    shared with others cannot take.
    """
    name = _word(command[0])
    if name not in _SPECIAL:
        return None
    if name in _STATEFUL or (name == "CLIENT" and len(command) > 1 and _word(command[1]) in _STATEFUL_CLIENT):
        raise ModelError(
            f"{name} changes the connection, which others share: use `client.raw`, or pipeline(transaction=True)",
            field="command",
        )
    place, units = _WAITING.get(name, (_after_block(command), 1000.0))
    if place is None:
        return None
    try:
        seconds = float(command[place]) / units
    except (ValueError, IndexError):
        return 0.0  # the server will say what is wrong with it
    if not 0 < seconds < 1e9:
        raise ModelError(f"{name} needs a time to wait above 0: no deadline holds a wait for ever", field="command")
    return seconds


def _after_block(command: Command) -> int | None:
    """Return where XREAD and XREADGROUP say how long to block, if they do."""
    if _word(command[0]) == "CLIENT":
        return None
    words = [_word(part) for part in command[: next((i for i, p in enumerate(command) if _word(p) == "STREAMS"), None)]]
    return words.index("BLOCK") + 1 if "BLOCK" in words else None


def _word(value: Value) -> str:
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).upper()
