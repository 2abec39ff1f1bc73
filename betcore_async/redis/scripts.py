"""Lua scripts that run whole inside the server: called by their hash, sent again when the server forgot them."""

from collections.abc import Sequence
from hashlib import sha1
from typing import Any

from redis.exceptions import NoScriptError

from betcore_async.redis.commands import Command, Value
from betcore_async.redis.failures import command_error
from betcore_async.redis.transport import Transport


class Script:
    """A Lua script. `repeatable`: running it twice with the same arguments does no more than running it once."""

    def __init__(self, source: str, *, repeatable: bool) -> None:
        self._source = source
        self._hash = sha1(source.encode()).hexdigest()  # noqa: S324 - EVALSHA names scripts so; nothing is secured
        self._repeatable = repeatable

    async def run(self, transport: Transport, keys: Sequence[str], *args: Value) -> Any:
        return (await self.run_many(transport, [(keys, args)]))[0]

    async def run_many(self, transport: Transport, calls: Sequence[tuple[Sequence[str], Sequence[Value]]]) -> list[Any]:
        """Run the script once per (keys, arguments) in one round trip; return the replies in order.

        Raises RedisCommandError when a call failed, after all of them were answered.
        """
        commands: list[Command] = [("EVALSHA", self._hash, len(keys), *keys, *args) for keys, args in calls]
        replies = await transport.run(commands, repeatable=self._repeatable)
        # NOSCRIPT says that the call did nothing, so that sending it again is safe whatever the script does.
        forgotten = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if forgotten:
            # The source goes along, rather than by SCRIPT LOAD: in a cluster several servers may have forgotten it.
            with_source: list[Command] = [("EVAL", self._source, *commands[index][2:]) for index in forgotten]
            again = await transport.run(with_source, repeatable=self._repeatable)
            for index, reply in zip(forgotten, again, strict=True):
                replies[index] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise command_error(reply, "EVALSHA") from reply
        return replies
