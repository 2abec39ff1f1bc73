"""One local subscriber: a bounded buffer with a reader."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Self

from betcore_async.errors import BetcoreError, SlowSubscriberError
from betcore_async.redis.buffers import Key, Policy, buffer_for
from betcore_async.redis.events import Event, Gap, Message, Reconnected
from betcore_async.redis.history import Offset, Refill, Standing, is_after, offset_of
from betcore_async.redis.waking import Waiter, Wakeups

_MOST_HELD = 1000
"""Messages that are kept back, at least, while the history is read."""


class Subscription:
    """An async iterator of Message, Gap and Reconnected; made by `PubSubHub.subscribe`.

    Iteration ends when the hub is closed, after what is buffered was read. It raises SlowSubscriberError, likewise
    after the rest, when this subscriber fell too far behind for its policy. A cancelled `anext` loses nothing.
    """

    __slots__ = (
        "_awaited",
        "_buffer",
        "_held",
        "_held_lost",
        "_lost_at",
        "_most_held",
        "_next_at",
        "_pause",
        "_quick",
        "_room",
        "_spare",
        "_waiting",
        "_wakeups",
        "channels",
        "cursors",
        "ended",
        "error",
        "floors",
        "is_live",
        "policy",
        "settled",
    )

    def __init__(
        self,
        wakeups: Wakeups,
        channels: tuple[str, ...],
        policy: Policy,
        maxsize: int,
        *,
        key: Key | None = None,
        max_rate: float | None = None,
    ) -> None:
        self.channels = channels
        self.policy = policy
        self._pause = 1 / max_rate if max_rate else 0.0
        self._next_at = 0.0
        self._buffer = buffer_for(policy, maxsize, key)
        self._quick: deque[Event] | None = None
        """The buffer's messages, while taking the leftmost is all there is to do."""
        self._wakeups = wakeups
        self._waiting: list[Waiter] = []
        self._spare: Waiter | None = None
        self._room: asyncio.Event | None = None
        """There while the hub waits for something to be taken."""
        self.ended = False
        self.error: BaseException | None = None
        """What ended the subscription, if it was not the hub's end."""
        self.settled: asyncio.Future[None] = wakeups.loop.create_future()
        """Done when all channels are acknowledged for the first time, or the subscription ended before."""
        self._awaited = set(channels)
        self._lost_at: float | None = None
        self.is_live = False
        """Whether every channel is subscribed at this moment, and what was missed was read."""
        self.cursors: dict[str, Standing] = {}
        """After what reading the history has to begin, for each channel or pattern that has to be read."""
        self.floors: dict[tuple[str | None, str], Offset] = {}
        """Durable messages up to these, by pattern and channel, were had from the history; they may come live again."""
        self._most_held = max(maxsize, _MOST_HELD)
        self._held: list[Message] | None = None
        self._held_lost = 0

    @property
    def pending(self) -> int:
        """Messages that wait to be read: how far behind this subscriber is."""
        return self._buffer.pending

    @property
    def lost(self) -> int:
        """Messages dropped so far, because the buffer was full. Conflated ones are not lost."""
        return self._buffer.lost

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._quick:  # first, because nearly every call ends here
            return self._quick.popleft()
        if self._pause:
            # Before anything is taken, so that a cancelled wait loses nothing and what is taken is the newest.
            await asyncio.sleep(max(0.0, self._next_at - self._wakeups.loop.time()))
        while not self._quick:
            if self._quick is None and (event := self._take()) is not None:
                return event
            if self.ended:
                raise self.error or StopAsyncIteration
            waiter, self._spare = self._spare or Waiter(self._wakeups.loop), None
            self._waiting.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                raise
            self._spare = waiter
        return self._quick.popleft()

    async def batch(self, most: int = 100) -> list[Event]:
        """Return all events that wait, at least one and at most `most`, in order: for who sends them on together.

        An empty list means the end, where `async for` would stop; what iteration raises is raised here, too. With
        `max_rate` events come one by one.
        """
        try:
            events = [await anext(self)]
        except StopAsyncIteration:
            return []
        while not self._pause and len(events) < most and (event := self._take()) is not None:
            events.append(event)
            if self._quick and len(self._quick) <= most - len(events):
                events += self._quick
                self._quick.clear()
        return events

    def _take(self) -> Event | None:
        """Take the next event, if there is one, with all that may hang on it."""
        event = self._buffer.take()
        if self._pause:
            if isinstance(event, Message):
                self._next_at = self._wakeups.loop.time() + self._pause
        elif self._room is None:
            self._quick = self._buffer.plain
        if self._room is not None:
            self._room.set()
        return event

    # What follows is for the hub.

    def suspend(self, now: float) -> None:
        """Deliver nothing until every channel is subscribed again: the connection is gone."""
        if self.is_live:
            self._lost_at = now
        self._awaited = set(self.channels)
        self.is_live, self._held = False, None

    def acknowledge(self, channel: str) -> bool:
        """Take note that the server subscribed `channel`; return whether it was the last one that was missing."""
        was_complete = not self._awaited
        self._awaited.discard(channel)
        return not (was_complete or self._awaited or self.ended)

    def hold(self) -> None:
        """Keep back what comes until what was missed is here."""
        self._held = []

    def resume(self, now: float, missed: Sequence[Refill] = ()) -> None:
        """Go live: tell of the outage if there was one, then give what was missed, then what was held back."""
        if self.ended:
            return
        self.is_live = True
        self.cursors.clear()
        held, self._held = self._held or [], None
        if self._lost_at is not None:
            self._buffer.note(Reconnected(now - self._lost_at))
            self._lost_at = None
        try:
            for refill in missed:
                if refill.lost != 0:
                    self._buffer.note(Gap(refill.lost or 0))
                self._buffer.force(refill.messages)
            if self._held_lost:
                self._buffer.note(Gap(self._held_lost))
                self._held_lost = 0
            self._buffer.force(self._above_floors(held))
        except Exception as error:  # noqa: BLE001 - the caller's `key` failed: its own iteration shall say so
            self.end(error)
        self._quick = None
        self._changed()

    def deliver(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Hand over `messages`; return those for which there is no room, when the policy is `block`."""
        if self._held is not None:
            return self._hold_back(messages)
        if not self.is_live:
            return ()
        if self.floors:
            messages = self._above_floors(messages)
        try:
            accepted = self._buffer.offer_all(messages)
            if self._quick is not None:
                self._quick = self._buffer.plain
        except Exception as error:  # noqa: BLE001 - the caller's `key` failed: its own iteration shall say so
            self.end(error)
            return ()
        if self._waiting:
            self._wakeups.add(self._waiting)
            self._waiting.clear()
        if accepted == len(messages):
            return ()
        if self.policy == "disconnect":
            self.end(self._too_slow("its buffer was full"))
            return ()
        return messages[accepted:]

    async def wait_for_room(self, limit: float) -> None:
        """Wait until the subscriber takes something; end it when it takes nothing for `limit` seconds."""
        self._room, self._quick = asyncio.Event(), None
        try:
            async with asyncio.timeout(limit):
                while not self._has_room() and not self.ended:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            self.end(self._too_slow(f"it took nothing for {limit:g} s while its buffer was full"))
        finally:
            self._room = None

    def _has_room(self) -> bool:
        return self._buffer.has_room if self._held is None else len(self._held) < self._most_held

    def _hold_back(self, messages: Sequence[Message]) -> Sequence[Message]:
        assert self._held is not None  # noqa: S101 - asked by the only caller
        if self.policy == "block":
            room = self._most_held - len(self._held)
            self._held += messages[:room]
            return messages[room:]
        self._held += messages
        surplus = max(0, len(self._held) - self._most_held)
        del self._held[:surplus]
        self._held_lost += surplus
        return ()

    def _above_floors(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Leave out what was had from the history already."""
        return [message for message in messages if message.offset is None or self._is_new(message)]

    def _is_new(self, message: Message) -> bool:
        place = message.pattern, message.channel
        floor = self.floors.get(place)
        if floor is None:
            return True
        if not is_after(offset_of(message.offset or ""), floor):
            return False
        del self.floors[place]  # they come in order: from here on each is new
        return True

    def end(self, error: BaseException | None = None) -> None:
        """Let iteration end, with `error` if there is one, once the buffer is read."""
        if not self.ended:
            self.ended, self.error, self.is_live = True, error, False
            self._changed()

    def _changed(self) -> None:
        """Have everybody look who waits for this subscription."""
        if not self.settled.done():
            self.settled.set_result(None)
        if self._room is not None:
            self._room.set()
        self._wake()

    def _wake(self) -> None:
        if self._waiting:
            self._wakeups.add(self._waiting)
            self._waiting.clear()

    def _too_slow(self, why: str) -> BetcoreError:
        return SlowSubscriberError(
            f"the subscription to {', '.join(self.channels)} was ended: {why}",
            channels=self.channels,
            policy=self.policy,
        )
