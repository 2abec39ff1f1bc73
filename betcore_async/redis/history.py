"""Durable messages: written to a bounded history and published in one step, so that an outage loses none of them.

The history of a channel is a stream. An offset is the id of its entry, `epoch-number`: numbers are dense, so that a
hole shows, and a history that was lost begins anew under another epoch (the microsecond at which it began).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from betcore_async.errors import ModelError
from betcore_async.redis.commands import Command, Value
from betcore_async.redis.events import Message
from betcore_async.redis.failures import command_error
from betcore_async.redis.scripts import Script
from betcore_async.redis.transport import Transport

Offset = tuple[int, int]
"""Epoch and number of a durable message."""

EMPTY: Offset = (0, -1)
"""Before the first message of a history that had none yet."""

START: Offset = (-1, 0)
"""Asks for everything there is."""

LAST: Offset = (-1, 1)
"""Asks for the newest message alone."""

_MARK = b"\x00betcore:"
"""Begins the payload of a durable message on its channel; its offset and a space follow."""

# Not repeatable: the second run would be a second message.
# KEYS: history. ARGV: channel, payload, most entries, life (ms), mark. Returns the number of receiving connections.
_PUBLISH = Script(
    """
    local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
    local epoch = newest and string.match(newest[1], '^%d+')
    if not epoch then
        local time = redis.call('TIME')
        epoch = time[1] .. string.format('%06d', time[2])
    end
    local offset = redis.call('XADD', KEYS[1], 'MAXLEN', '=', ARGV[3], epoch .. '-*', 'm', ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    return redis.call('PUBLISH', ARGV[1], ARGV[5] .. offset .. ' ' .. ARGV[2])
    """,
    repeatable=False,
)


@dataclass(frozen=True, slots=True)
class Refill:
    """What the history holds of the time after a given offset."""

    messages: Sequence[Message]
    lost: int | None
    """Messages it does not hold any more; None when nobody knows."""
    newest: Offset | None
    """Of the newest message in the history, if there is any."""


Refills = dict[tuple[str, Offset], Refill]
"""By channel, and the offset after which was read."""


class History:
    """The histories of all channels; each keeps the last `size` messages for `life_ms` after the last of them."""

    def __init__(self, size: int, life_ms: int) -> None:
        self._size = size
        self._life_ms = life_ms

    async def publish(self, transport: Transport, channel: str, message: Value) -> int:
        words = (channel, message, self._size, self._life_ms, _MARK)
        return int(await _PUBLISH.run(transport, [key_of(channel)], *words))

    async def read(self, transport: Transport, wanted: Iterable[tuple[str, Offset]]) -> Refills:
        """Return what there is after each (channel, offset), in one round trip, or two after a loss of the history."""
        asked = list(wanted)
        found = await _read(transport, asked)
        # Another epoch, begun after ours was lost: all of it came later, whatever its numbers.
        changed = [
            (channel, after)
            for (channel, after), refill in found.items()
            if after[0] > 0 and refill.newest is not None and refill.newest[0] != after[0]
        ]
        anew = await _read(transport, [(channel, START) for channel, _ in changed]) if changed else {}
        for channel, after in changed:
            all_of_it = anew[channel, START]
            found[channel, after] = Refill(all_of_it.messages, None, all_of_it.newest)
        return found


def key_of(channel: str) -> str:
    return f"history:{{{channel}}}"


def message_of(channel: str, payload: bytes, pattern: str | None = None) -> Message:
    """Return the message that came on a channel, told apart from its offset when it is a durable one."""
    if payload.startswith(_MARK):
        offset, _, body = payload[len(_MARK) :].partition(b" ")
        return Message(channel, body, pattern, offset=offset.decode())
    return Message(channel, payload, pattern)


def offset_of(text: str) -> Offset:
    """Return the offset that `Message.offset` names, or the words `start` and `last`; raises ModelError."""
    if text in {"start", "last"}:
        return START if text == "start" else LAST
    epoch, _, number = text.partition("-")
    if not (epoch.isascii() and epoch.isdigit() and number.isascii() and number.isdigit()):
        raise ModelError(
            f"replay_from must be the offset of a message, 'start' or 'last'; got {text[:50]!r}", field="replay_from"
        )
    return int(epoch), int(number)


def is_after(offset: Offset, other: Offset) -> bool:
    """Whether a message comes later than another; those of another epoch do."""
    return offset[0] != other[0] or offset[1] > other[1]


async def _read(transport: Transport, asked: Sequence[tuple[str, Offset]]) -> Refills:
    commands: list[Command] = []
    for channel, after in asked:
        first = "-" if after[0] <= 0 else f"({after[0]}-{after[1]}"
        newest = ("XREVRANGE", key_of(channel), "+", "-", "COUNT", 1)
        commands += [newest if after == LAST else ("XRANGE", key_of(channel), first, "+"), newest]
    replies = await transport.run(commands)
    for reply, command in zip(replies, commands, strict=True):
        if isinstance(reply, Exception):
            raise command_error(reply, str(command[0])) from reply
    pairs = zip(asked, replies[::2], replies[1::2], strict=True)
    return {(channel, after): _refill(channel, after, entries, newest) for (channel, after), entries, newest in pairs}


def _refill(channel: str, after: Offset, entries: list[Any], newest: list[Any]) -> Refill:
    messages = [Message(channel, fields[1], offset=offset.decode()) for offset, fields in entries]
    last = offset_of(newest[0][0].decode()) if newest else None
    if after in {START, LAST}:
        lost: int | None = 0
    elif messages:
        lost = offset_of(messages[0].offset or "")[1] - after[1] - 1
    else:
        # A history that was there is gone, or it ends before what was seen: a replica that had not got it took over.
        lost = 0 if after == EMPTY or (last is not None and not _is_behind(last, after)) else None
    return Refill(messages, lost, last)


def _is_behind(newest: Offset, seen: Offset) -> bool:
    return newest[0] == seen[0] and newest[1] < seen[1]
