"""Several commands in one round trip."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Self

from betcore_async.errors import ModelError
from betcore_async.redis.commands import Command, Value, waiting_time
from betcore_async.redis.failures import command_error
from betcore_async.redis.transport import Transport

TTL = timedelta | float
"""How long a key lives: a timedelta, or seconds."""

Key = str | bytes


def set_command(key: Key, value: Value, ttl: TTL | None, *, only_new: bool = False) -> Command:
    """Return the SET that stores `value` under `key`; raises ModelError for a ttl that is no time ahead."""
    condition: Command = ("NX",) if only_new else ()
    return ("SET", key, value, *(() if ttl is None else ("PX", milliseconds(ttl))), *condition)


def milliseconds(ttl: TTL, field: str = "ttl") -> int:
    """Return a time to live in whole milliseconds, at least one; raises ModelError naming `field`."""
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if isinstance(ttl, bool) or not 0 < seconds < 1e10:  # also refuses NaN
        raise ModelError(f"{field} must be a timedelta or seconds above 0; got {ttl!r}", field=field)
    return max(1, round(seconds * 1000))


class Pipeline:
    """Collects commands and sends them in one write: `await client.pipeline().set("a", 1).get("a").execute()`.

    With `transaction=True` they run as one MULTI … EXEC, with nobody else's commands in between.
    """

    def __init__(self, transport: Transport, *, transaction: bool = False) -> None:
        self._transport = transport
        self._transaction = transaction
        self._commands: list[Command] = []
        self._patience: float | None = None

    def __len__(self) -> int:
        return len(self._commands)

    def add(self, *command: Value) -> Self:
        """Add any command, as its words: `add("ZADD", "key", 1.5, "member")`; raises as `RedisClient.execute`."""
        wait = waiting_time(command)
        if wait is not None and not self._transaction:  # in a transaction nothing waits
            self._patience = (self._patience or 0.0) + wait
        self._commands.append(command)
        return self

    def get(self, key: Key) -> Self:
        return self.add("GET", key)

    def set(self, key: Key, value: Value, ttl: TTL | None = None) -> Self:
        return self.add(*set_command(key, value, ttl))

    def setnx(self, key: Key, value: Value, ttl: TTL | None = None) -> Self:
        return self.add(*set_command(key, value, ttl, only_new=True))

    def delete(self, *keys: Key) -> Self:
        return self.add("DEL", *keys)

    def publish(self, channel: str, message: Value) -> Self:
        return self.add(self._transport.publishing, channel, message)

    async def execute(self) -> list[Any]:
        """Send the collected commands, forget them, and return their replies in order, as the protocol has them.

        An error reply raises RedisCommandError, with `replies` holding all replies; the other commands have run
        (in a transaction that was refused, none has). A lost connection is retried only when every command is safe to
        repeat, else it raises RedisOutcomeUnknownError.
        """
        commands, self._commands = self._commands, []
        patience, self._patience = self._patience, None
        if not commands:
            return []
        if not self._transaction:
            replies = await self._transport.run(commands, alone=patience is not None, patience=patience or 0.0)
            return _checked(replies, commands)
        replies = await self._transport.run([("MULTI",), *commands, ("EXEC",)], repeatable=False, alone=True)
        _checked(replies, [("MULTI",), *commands, ("EXEC",)])
        return _checked(replies[-1], commands)


def _checked(replies: list[Any], commands: Sequence[Command]) -> list[Any]:
    for reply, command in zip(replies, commands, strict=True):
        if isinstance(reply, Exception):
            error = command_error(reply, str(command[0]).upper())
            error.facts["replies"] = replies
            raise error from reply
    return replies
