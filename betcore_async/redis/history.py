"""Durable messages: written to a bounded history and published in one step, so that an outage loses none of them.

The history of a channel is a stream. An offset is the id of its entry, `epoch-number`: numbers are dense, so that a
hole shows, and a history that was lost begins anew under another epoch (the microsecond at which it began).

An index names the channels that have a history, for those who subscribe by pattern and do not know them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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

INDEX = "history:index"
"""A sorted set of channels by when their histories expire (ms), and one member more that tells the server's memory
from another: it is made with the index, and scored to stay last."""

_TAG = re.compile(r"{[^}]+}")
"""What alone decides, where it stands in a key or channel, on which server of a cluster that is."""

_PAGE = 1000
"""Channels looked at in one call when those of a pattern are looked up."""

# Not repeatable: the second run would be a second message.
# KEYS: history, index. ARGV: channel, payload, most entries, life (ms), mark, the command that publishes. Returns the
# number of receiving connections.
_PUBLISH = Script(
    """
    local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
    local epoch = newest and string.match(newest[1], '^%d+')
    local time = redis.call('TIME')
    local life, now = tonumber(ARGV[4]), time[1] * 1000 + math.floor(time[2] / 1000)
    if not epoch then epoch = time[1] .. string.format('%06d', time[2]) end

    -- Named before it is written, so that no history exists that the index does not know. No index in a cluster.
    if KEYS[2] then
        if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('ZADD', KEYS[2], 'inf', '\\0' .. epoch) end
        -- The first write is one that needs memory: only that one is refused when there is none left.
        redis.call('ZADD', KEYS[2], string.format('%.0f', now + life), ARGV[1])
        redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.0f', now))
        if redis.call('PTTL', KEYS[2]) < life then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
    end

    local offset = redis.call('XADD', KEYS[1], 'MAXLEN', '=', ARGV[3], epoch .. '-*', 'm', ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    return redis.call(ARGV[6], ARGV[1], ARGV[5] .. offset .. ' ' .. ARGV[2])
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


@dataclass(slots=True)
class Standing:
    """Up to where the messages of a topic were had: of its channel, or of each channel that its pattern matched."""

    offsets: dict[str, Offset]
    memory: bytes | None = None
    """Which memory of the server the index belonged to; None when there was no index."""
    forgotten: int = -1
    """The latest epoch of a channel that is not among `offsets` any more."""
    at: float = field(default=0.0, compare=False)
    """When the connection was lost, by the loop's time."""

    def copy(self, at: float) -> "Standing":
        return Standing(dict(self.offsets), self.memory, self.forgotten, at)

    def forget(self, most: int) -> None:
        """Keep only the `most` channels that were heard first last."""
        for channel in list(self.offsets)[: max(0, len(self.offsets) - most)]:
            self.forgotten = max(self.forgotten, self.offsets.pop(channel)[0])


@dataclass(frozen=True, slots=True)
class Matches:
    """The channels with a history that a pattern matches."""

    channels: frozenset[str]
    memory: bytes | None


Refills = dict[tuple[str, Offset], Refill]
"""By channel, and the offset after which was read."""


class History:
    """The histories of all channels; each keeps the last `size` messages for `life_ms` after the last of them."""

    def __init__(self, size: int, life_ms: int) -> None:
        self._size = size
        self._life_ms = life_ms

    async def publish(self, transport: Transport, channel: str, message: Value) -> int:
        words = (channel, message, self._size, self._life_ms, _MARK, transport.publishing)
        # In a cluster the index would be on another server; and it has no patterns, which it is for.
        keys = [key_of(channel)] if transport.is_cluster else [key_of(channel), INDEX]
        return int(await _PUBLISH.run(transport, keys, *words))

    @property
    def life(self) -> float:
        """Seconds that a history lives after its last message."""
        return self._life_ms / 1000

    async def matching(self, transport: Transport, pattern: str) -> Matches:
        """Return the channels with a history that `pattern` matches; the server decides which those are."""
        found: set[str] = set()
        cursor: bytes | None = b"0"
        memory = None
        while cursor is not None:
            commands: list[Command] = [("ZSCAN", INDEX, cursor, "MATCH", pattern, "COUNT", _PAGE)]
            commands.append(("ZRANGE", INDEX, -1, -1))
            (cursor, page), last = await _answers(transport, commands)
            found.update(name_of_channel(member) for member in page[::2] if not member.startswith(b"\0"))
            memory = last[0] if last else None
            cursor = None if cursor == b"0" else cursor
        return Matches(frozenset(found), memory)

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
    """Return the key of a channel's history, which in a cluster is where the channel is."""
    return f"history:{channel}" if _TAG.search(channel) else f"history:{{{channel}}}"


def message_of(channel: str, payload: bytes, pattern: str | None = None) -> Message:
    """Return the message that came on a channel, told apart from its offset when it is a durable one."""
    if payload.startswith(_MARK):
        offset, _, body = payload[len(_MARK) :].partition(b" ")
        return Message(channel, body, pattern, offset=offset.decode())
    return Message(channel, payload, pattern)


def name_of_channel(name: bytes) -> str:
    # A pattern matches channels of anybody, whose names need not be UTF-8.
    return name.decode(errors="surrogateescape")


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
    replies = await _answers(transport, commands)
    pairs = zip(asked, replies[::2], replies[1::2], strict=True)
    return {(channel, after): _refill(channel, after, entries, newest) for (channel, after), entries, newest in pairs}


async def _answers(transport: Transport, commands: Sequence[Command]) -> list[Any]:
    replies = await transport.run(commands) if commands else []
    for reply, command in zip(replies, commands, strict=True):
        if isinstance(reply, Exception):
            raise command_error(reply, str(command[0])) from reply
    return replies


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
