"""One connection to the server, shared: calls go out in the order they came, and are answered in that order."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import InvalidResponse

from betcore_async.addresses import Node
from betcore_async.errors import ModelError
from betcore_async.redis.commands import Command, is_repeatable
from betcore_async.redis.failures import reply_error

_HELD_UP = 0.01
"""Seconds that the oldest call may go unanswered before new calls rather take another connection: a large reply, or
a large value on its way, should not hold up everybody."""

_NOTHING = object()


class Call:
    """Commands that go out together, and the future that gets their replies, in order, error replies as values."""

    __slots__ = (
        "alone",
        "answer",
        "commands",
        "deadline",
        "message",
        "refusals",
        "repeatable",
        "replies",
        "sent_at",
        "was_sent",
        "wire",
    )

    answer: asyncio.Future[list[Any]]
    sent_at: float

    def __init__(
        self, commands: Sequence[Command], deadline: float, *, repeatable: bool | None = None, alone: bool = False
    ) -> None:
        self.commands = commands
        self.message = packed(commands[0]) if len(commands) == 1 else b"".join(map(packed, commands))
        self.deadline = deadline
        self.repeatable = repeatable
        self.alone = alone
        """Whether it needs a connection that nobody else uses meanwhile."""
        self.was_sent = False
        """Whether any attempt reached the point of sending."""
        self.refusals = 0
        """Times that a server refused it which was the wrong one."""

    def begin(self, answer: asyncio.Future[list[Any]]) -> None:
        """Make ready for another attempt."""
        self.answer = answer
        self.replies: list[Any] = []
        self.wire: Wire | None = None

    @property
    def is_transaction(self) -> bool:
        """Whether all of it or nothing is applied."""
        return self.commands[0][0] == "MULTI"

    def only(self, indices: Sequence[int]) -> "Call":
        """Return a call of some of its commands, with the same deadline."""
        commands = [self.commands[index] for index in indices]
        return Call(commands, self.deadline, repeatable=self.repeatable, alone=self.alone)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def may_repeat(self) -> bool:
        """Whether sending it again is harmless."""
        return all(map(is_repeatable, self.commands)) if self.repeatable is None else self.repeatable


class Wire(asyncio.Protocol):
    """Keeps its order whatever the callers do: a call that was cancelled still takes its replies, and drops them.

    `on_change` is called when the wire can take calls again, and when it is lost.
    """

    def __init__(self, on_change: Callable[["Wire"], None], peer: Node) -> None:
        self.peer = peer
        self._on_change = on_change
        self._on_reply: Callable[[Any], None] = self._answer
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=cast("Any", reply_error), notEnoughData=_NOTHING
        )
        self._transport: asyncio.Transport | None = None
        self._why: Exception | None = None
        self.unanswered: deque[Call] = deque()
        self.is_clogged = False
        """Whether the kernel takes no more bytes for now."""
        self.is_retired = False
        """Gets no new calls, and is closed once those it has are answered or out of time."""
        self.holder: Call | None = None
        """The call that has the wire for itself."""
        self.closed = asyncio.get_running_loop().create_future()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def is_held_up(self, now: float) -> bool:
        """Whether a call made now had to wait for something slow."""
        return self.is_clogged or (bool(self.unanswered) and now - self.unanswered[0].sent_at > _HELD_UP)

    def send(self, calls: Sequence[Call], now: float) -> None:
        """Write the calls at once."""
        for call in calls:
            call.wire, call.sent_at, call.was_sent = self, now, True
        self.unanswered.extend(calls)
        self.write(calls[0].message if len(calls) == 1 else b"".join([call.message for call in calls]))

    def write(self, message: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ServerConnectionError("the connection is gone")
        self._transport.write(message)

    def redirect(self, on_reply: Callable[[Any], None], on_lost: Callable[["Wire"], None]) -> None:
        """Give all replies that come from now on to `on_reply`: for subscriptions, which are not answers to calls."""
        self._on_reply, self._on_change = on_reply, on_lost

    def expire(self, now: float, error: Exception) -> int:
        """Fail the calls that are out of time; return how many. What was silent for that long gets no new calls."""
        late = [call for call in self.unanswered if call.deadline <= now]
        failed = sum(not call.answer.done() for call in late)
        for call in late:
            call.fail(error)
        if late:
            self.is_retired = True
        if self.is_retired and all(call.answer.done() for call in self.unanswered):
            self.abort()
        return failed

    def retire(self) -> None:
        """Take no new calls, and close once those it has are answered."""
        self.is_retired = True
        if not self.unanswered:
            self.abort()

    def abort(self, why: Exception | None = None) -> None:
        """Close at once; calls that are not answered yet fail with `why`."""
        if self._transport is not None and not self._transport.is_closing():
            self._why = why
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _answer(self, reply: Any) -> None:
        if not self.unanswered:
            # Nobody asked: the server refuses us, or does not speak this protocol. Either way the order is lost.
            error = reply if isinstance(reply, Exception) else InvalidResponse(f"a reply to no command: {reply!r:.80}")
            self.abort(error)
            return
        call = self.unanswered[0]
        call.replies.append(reply)
        if len(call.replies) == len(call.commands):
            self.unanswered.popleft()
            if not call.answer.done():
                call.answer.set_result(call.replies)
            if self.is_retired and not self.unanswered:
                self.abort()

    # What follows is called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOTHING:
                self._on_reply(reply)
        except InvalidResponse as error:
            self.abort(error)

    def pause_writing(self) -> None:
        self.is_clogged = True

    def resume_writing(self) -> None:
        self.is_clogged = False
        self._on_change(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._why = self._why or ServerConnectionError(f"the connection was lost{f': {exc}' if exc else ''}")
        for call in self.unanswered:
            call.fail(self._why)
        self.unanswered.clear()
        if not self.closed.done():
            self.closed.set_result(self._why)
        self._on_change(self)


def packed(command: Command) -> bytes:
    """Return a command as it goes over the wire; raises ModelError for an argument that cannot."""
    try:
        message: bytes = hiredis.pack_command(cast("Any", command))
        return message
    except TypeError:
        raise ModelError(
            f"{command[0]!s} takes text, bytes and numbers; got "
            + ", ".join(type(part).__name__ for part in command[1:]),
            field="value",
        ) from None
