"""Which call goes out on which connection, and when: up to `pool_size` of them, shared."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import count as count_up
from typing import Any

from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import RedisError as ServerError

from betcore_async.addresses import Node
from betcore_async.config import RedisSettings
from betcore_async.redis.failures import LateError, backoff, is_final, translate
from betcore_async.redis.wire import Call, Wire

Dial = Callable[[Callable[[Wire], None]], Awaitable[Wire]]
"""Makes a wire that reports its changes to what is given."""

_SWEEPS = 20
"""Looks for late calls within one `timeout`: a deadline is kept to a twentieth of it."""


class Switchboard:
    """Calls made in one turn of the loop go out in one write on one connection.

    Another connection is opened when the first is held up by something slow, or when a call needs one for itself.
    Calls for which there is no connection yet wait in an outbox, surely not sent.
    """

    def __init__(self, settings: RedisSettings, dial: Dial, *, patient: bool = True) -> None:
        """`patient`: go on trying to connect while calls wait; otherwise they fail with the first attempt."""
        self._settings = settings
        self._patient = patient
        self._dial_wire = dial
        self._timeout = settings.timeout.total_seconds()
        self._outbox: deque[Call] = deque()
        self._outbox_alone: deque[Call] = deque()
        self._wires: list[Wire] = []
        self._retired: list[Wire] = []
        self._connector: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._flush_is_due = False
        self.is_closed = True
        self.connects = self.refused = 0
        self.failure: ServerError | None = None
        """Why the last attempt to connect failed, if it did."""

    @property
    def is_busy(self) -> bool:
        """Whether anything is still open, or about to be."""
        return bool(self._wires or self._retired or self._connector or self.waiting)

    @property
    def peers(self) -> set[Node]:
        """Servers that it is connected to."""
        return {wire.peer for wire in self._wires if wire.is_open}

    @property
    def in_use(self) -> int:
        """Connections on which an answer is awaited."""
        return sum(bool(wire.unanswered) for wire in self._wires)

    @property
    def idle(self) -> int:
        return sum(wire.is_open for wire in self._wires) - self.in_use

    @property
    def waiting(self) -> int:
        """Calls that were not sent yet."""
        return sum(not call.answer.done() for call in self._unsent())

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.is_closed = False

    async def close(self) -> None:
        """Close every connection; calls that are under way fail."""
        self.is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._connector is not None:
            self._connector.cancel()
            await asyncio.wait([self._connector])
        self._refuse(ServerConnectionError("the client was closed"))
        wires = (*self._wires, *self._retired)
        for wire in wires:
            wire.abort()
        for wire in wires:
            await wire.closed

    async def warm(self, count: int) -> None:
        """Have `count` connections open; raises as a call does."""
        try:
            while len(self._wires) < count:
                await self._add()
        except ServerError as error:
            address = self._settings.addr
            waited = self._settings.connect_timeout.total_seconds()
            raise translate(error, command="connect", address=address, waited=waited, in_doubt=False) from error

    def put_through(self, call: Call) -> asyncio.Future[list[Any]]:
        """Return the future of the call's replies; it fails with redis-py's errors, LateError at the deadline."""
        call.begin(self._loop.create_future())
        (self._outbox_alone if call.alone else self._outbox).append(call)
        if not self._flush_is_due:
            # Whatever other tasks ask for in this turn of the loop goes out with it.
            self._flush_is_due = True
            self._loop.call_soon(self._flush)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._timeout / _SWEEPS, self._sweep)
        return call.answer

    def retire(self, peer: Node) -> None:
        """Send nothing more on the connections to `peer`; they close once what they have is answered."""
        leaving = [wire for wire in self._wires if wire.peer == peer]
        self._wires = [wire for wire in self._wires if wire not in leaving]
        self._retired += leaving
        for wire in leaving:
            wire.retire()

    # Plain steps without I/O: which call goes where.

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._outbox_alone:
            self._flush_alone()
        if not self._outbox:
            return
        now = self._loop.time()
        wire = self._best_wire(now)
        if wire is not None:
            calls = [call for call in self._outbox if not call.answer.done()]
            self._outbox.clear()
            if calls:
                wire.send(calls, now)

    def _flush_alone(self) -> None:
        while self._outbox_alone:
            call = self._outbox_alone[0]
            wire = None if call.answer.done() else self._free_wire()
            if wire is not None:
                self._lend(wire, call)
            elif not call.answer.done():
                self._connect_another()
                return
            self._outbox_alone.popleft()

    def _best_wire(self, now: float) -> Wire | None:
        """Return the first connection that is not held up; else open another, and take the least busy meanwhile."""
        usable = [wire for wire in self._wires if wire.holder is None and wire.is_open]
        for wire in usable:
            if not wire.is_held_up(now):
                return wire
        self._connect_another()
        usable = [wire for wire in usable if not wire.is_clogged]
        return min(usable, key=lambda wire: len(wire.unanswered)) if usable else None

    def _free_wire(self) -> Wire | None:
        """Return a connection to lend; the last one that is shared only if there may be no other."""
        shared = [wire for wire in self._wires if wire.holder is None]
        if len(shared) < 2 and self._settings.pool_size > 1:
            return None
        free = [wire for wire in shared if wire.is_open and not wire.is_clogged]
        # One that others await answers on would end with a borrower that is cancelled: only where there is no choice.
        idle = [wire for wire in free if not wire.unanswered]
        if idle:
            return idle[-1]
        return free[-1] if free and len(self._wires) >= self._settings.pool_size else None

    def _lend(self, wire: Wire, call: Call) -> None:
        wire.holder = call

        def take_back(answer: asyncio.Future[list[Any]]) -> None:
            wire.holder = None
            if answer.cancelled() or answer.exception():
                wire.abort()  # whatever it still does there, it shall not do for nobody
            self._changed(wire)

        call.answer.add_done_callback(take_back)
        wire.send([call], self._loop.time())

    def _changed(self, wire: Wire) -> None:
        if not wire.is_open:
            with suppress(ValueError):
                self._wires.remove(wire)
        self._go_on()

    def _go_on(self) -> None:
        if self._outbox or self._outbox_alone:
            self._flush()

    def _unsent(self) -> Iterator[Call]:
        yield from self._outbox
        yield from self._outbox_alone

    def _refuse(self, error: ServerError) -> None:
        """Fail every call that waits for a connection."""
        for call in self._unsent():
            call.fail(error)
        self._outbox.clear()
        self._outbox_alone.clear()

    def _sweep(self) -> None:
        """Fail every call that is out of time. The only timer, however many calls there are."""
        now, late = self._loop.time(), LateError("no answer in time")
        for outbox in (self._outbox, self._outbox_alone):
            for call in [call for call in outbox if call.answer.done() or call.deadline <= now]:
                outbox.remove(call)
                call.fail(late)
        for wire in (*self._wires, *self._retired):
            wire.expire(now, late)
        self._retired = [wire for wire in (*self._wires, *self._retired) if wire.is_retired and wire.is_open]
        self._wires = [wire for wire in self._wires if wire.is_open and not wire.is_retired]
        is_needed = self._outbox or self._outbox_alone or self._retired or self.in_use
        self._sweeper = self._loop.call_later(self._timeout / _SWEEPS, self._sweep) if is_needed else None
        self._go_on()

    # The one task: it makes connections while they are wanted.

    def _connect_another(self) -> None:
        if self._connector is None and not self.is_closed and len(self._wires) < self._settings.pool_size:
            self._connector = self._loop.create_task(self._connect(), name="betcore-redis-connector")

    async def _connect(self) -> None:
        try:
            for attempt in count_up():
                try:
                    await self._add()
                    return
                except ServerError as error:
                    self.failure = error
                    if is_final(error) or not self._patient:
                        self._refuse(error)
                if not self.waiting:
                    return
                self.refused += 1
                await asyncio.sleep(backoff(attempt))
        finally:
            self._connector = None
            if not self.is_closed:
                self._go_on()

    async def _add(self) -> None:
        wire = await self._dial_wire(self._changed)
        # Only now: the list is another one after each sweep, of which there may have been some meanwhile.
        self._wires.append(wire)
        self.failure = None
        self.connects += 1
