"""One call on its way through a cluster: parted by server, redirected, and put together again."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count as count_up
from typing import Any, Protocol

from redis.exceptions import BusyLoadingError, ReadOnlyError
from redis.exceptions import RedisError as ServerError

from betcore_async.addresses import Node
from betcore_async.errors import RedisError, RedisUnavailableError
from betcore_async.redis.commands import Command, is_repeatable, name_of
from betcore_async.redis.failures import (
    AskError,
    MovedError,
    UnsettledError,
    backoff,
    is_final,
    outcome_unknown,
    timed_out,
)
from betcore_async.redis.route import told
from betcore_async.redis.slots import only_slot, redirection, slot_of
from betcore_async.redis.switchboard import Switchboard
from betcore_async.redis.wire import Call

_AT_ONCE = 4
"""Redirections of a call that are followed without a pause; more of them mean that the cluster is not settled."""

_NOT_HERE = frozenset({AskError, BusyLoadingError, MovedError, ReadOnlyError, UnsettledError})
"""Replies of a server that is not, or not yet, the right one; the command had no effect."""


class Servers(Protocol):
    """What an errand needs to know of the cluster."""

    address: str
    is_closed: bool
    retries: int

    async def known(self, deadline: float) -> ServerError | None:
        """Return once it is known who has which slot, or why it is not."""

    def server_for(self, slot: int | None) -> Node:
        """Return who has the slot; any master for None."""

    def board(self, node: Node) -> Switchboard: ...
    def note_owner(self, slot: int, node: Node) -> None: ...

    def doubt(self) -> None:
        """Take note that the map may be wrong."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What of a call goes to one server."""

    node: Node
    indices: Sequence[int]
    is_detour: bool
    call: Call


class Errand:
    """A transaction goes as a whole; of other calls each command finds its own way."""

    def __init__(self, servers: Servers, call: Call) -> None:
        self._servers = servers
        self._call = call
        commands = call.commands
        self._slots = [only_slot(commands)] if call.is_transaction else [slot_of(command) for command in commands]
        self._replies: list[Any] = [None] * len(commands)
        self._todo = list(range(len(self._slots)))
        self._detours: dict[int, Node] = {}
        """Commands whose keys are on their way, and the server that may have them: to be asked once."""
        self._failed: tuple[Call, ServerError, ServerError | None] | None = None
        """What broke in this round, and why its server cannot be reached, if that is so."""
        self._in_doubt = False
        self._was_lost = False
        """Whether a part was sent and no answer came; it was harmless to repeat."""
        self._is_unsettled = False

    async def run(self) -> list[Any]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        for attempt in count_up():
            await self._round()
            left = self._call.deadline - loop.time()
            is_over = left <= 0 or self._servers.is_closed
            if self._failed and (self._in_doubt or is_over or is_final(self._failed[1])):
                break
            if not self._todo or is_over:  # what was refused until the deadline stands there as refused
                return self._replies
            self._servers.retries += 1
            if self._failed or self._is_unsettled or attempt >= _AT_ONCE:
                await asyncio.sleep(min(backoff(attempt), left))
        raise self._told(loop.time() - started)

    async def _round(self) -> None:
        """Send what is still to be sent, each part to its server, and sort what comes back."""
        self._failed, self._is_unsettled = None, False
        failure = await self._servers.known(self._call.deadline)
        if failure is not None:
            self._call.was_sent = False
            self._failed = (self._call, failure, failure)
            return
        parts = self._parts()
        self._todo, self._detours = [], {}
        answers = [(part, self._servers.board(part.node).put_through(part.call)) for part in parts]
        try:
            for part, answer in answers:
                try:
                    replies = await answer
                except ServerError as error:
                    self._take_failure(part, error)
                else:
                    self._take_replies(part, replies)
        except BaseException:
            for _, answer in answers:
                if not answer.cancel() and not answer.cancelled():
                    answer.exception()  # nobody will ask for it any more
            raise

    def _parts(self) -> list[_Part]:
        groups: dict[tuple[Node, bool], list[int]] = {}
        for index in self._todo:
            detour = self._detours.get(index)
            node = self._servers.server_for(self._slots[index]) if detour is None else detour
            groups.setdefault((node, detour is not None), []).append(index)
        return [
            _Part(node, indices, is_detour, self._part_of(indices, is_detour=is_detour))
            for (node, is_detour), indices in groups.items()
        ]

    def _part_of(self, indices: Sequence[int], *, is_detour: bool) -> Call:
        call = self._call
        if not is_detour and len(indices) == len(self._slots):
            call.was_sent = False
            return call
        if not is_detour:
            return call.only(indices)
        commands: list[Command] = []
        for index in indices:
            commands += [("ASKING",), call.commands[index]]
        repeatable = call.repeatable
        if repeatable is None:
            repeatable = all(is_repeatable(call.commands[index]) for index in indices)
        return Call(commands, call.deadline, repeatable=repeatable, alone=call.alone)

    def _take_failure(self, part: _Part, error: ServerError) -> None:
        self._servers.doubt()
        self._todo += part.indices
        was_lost = part.call.wire is not None
        if self._in_doubt:
            return
        self._in_doubt = was_lost and not part.call.may_repeat()
        self._was_lost |= was_lost
        self._failed = (part.call, error, self._servers.board(part.node).failure)

    def _take_replies(self, part: _Part, replies: list[Any]) -> None:
        if self._call.is_transaction:
            self._replies = replies
            refusal = next((reply for reply in replies if type(reply) in _NOT_HERE), None)
            if refusal is not None:
                self._redirect(0, part.node, refusal)
            return
        for index, reply in zip(part.indices, replies[1::2] if part.is_detour else replies, strict=True):
            self._replies[index] = reply
            if type(reply) in _NOT_HERE:
                self._redirect(index, part.node, reply)

    def _redirect(self, index: int, asked: Node, refusal: Any) -> None:
        self._todo.append(index)
        if isinstance(refusal, MovedError):
            self._servers.note_owner(*redirection(refusal, asked))
        elif isinstance(refusal, AskError) and not self._call.is_transaction:
            _, self._detours[index] = redirection(refusal, asked)
            return
        else:
            self._is_unsettled = True
        self._servers.doubt()

    def _told(self, waited: float) -> RedisError:
        assert self._failed is not None  # noqa: S101 - asked by the only caller
        call, failure, unreachable = self._failed
        call.was_sent |= self._was_lost
        error = told(call, failure, unreachable, self._servers.address, waited)
        if isinstance(error, RedisUnavailableError) and len(self._todo) < len(self._slots):
            # It promises that nothing was applied, which holds for this part of the call alone.
            name = name_of(self._call.commands)
            if self._call.may_repeat():
                return timed_out(name, self._servers.address, waited)
            return outcome_unknown(name, self._servers.address)
        return error
