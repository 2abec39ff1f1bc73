"""One local subscriber: a bounded buffer with a reader."""

import asyncio
from typing import Self

from betcore_async.errors import BetcoreError, SlowSubscriberError
from betcore_async.redis.buffers import Key, Policy, buffer_for
from betcore_async.redis.events import Event, Message, Reconnected


class Subscription:
    """An async iterator of Message, Gap and Reconnected; made by `PubSubHub.subscribe`.

    Iteration ends when the hub is closed, after what is buffered was read. It raises SlowSubscriberError, likewise
    after the rest, when this subscriber fell too far behind for its policy. A cancelled `anext` loses nothing.
    """

    def __init__(self, channels: tuple[str, ...], policy: Policy, maxsize: int, key: Key | None) -> None:
        self.channels = channels
        self.policy = policy
        self._buffer = buffer_for(policy, maxsize, key)
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self.ended = False
        self.error: BaseException | None = None
        """What ended the subscription, if it was not the hub's end."""
        self.settled = asyncio.Event()
        """Set when all channels are acknowledged for the first time, or the subscription ended before."""
        self._awaited = set(channels)
        self._lost_at: float | None = None

    @property
    def lost(self) -> int:
        """Messages dropped so far, because the buffer was full. Conflated ones are not lost."""
        return self._buffer.lost

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while (event := self._buffer.take()) is None:
            if self.error is not None:
                raise self.error
            if self.ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        self._room.set()
        return event

    # What follows is for the hub.

    @property
    def is_live(self) -> bool:
        """Whether every channel is subscribed at this moment."""
        return not self._awaited and not self.ended

    def suspend(self, now: float) -> None:
        """Deliver nothing until every channel is subscribed again: the connection is gone."""
        if not self._awaited:
            self._lost_at = now
        self._awaited = set(self.channels)

    def acknowledge(self, channel: str, now: float) -> None:
        """Take note that the server subscribed `channel`."""
        self._awaited.discard(channel)
        if self._awaited or self.ended:
            return
        self.settled.set()
        if self._lost_at is not None:
            self._buffer.note(Reconnected(now - self._lost_at))
            self._lost_at = None
            self._ready.set()

    def deliver(self, message: Message) -> bool:
        """Hand over `message`; False when the policy is `block` and there is no room."""
        if not self.is_live:
            return True
        try:
            accepted = self._buffer.offer(message)
        except Exception as error:  # noqa: BLE001 - the caller's `key` failed: its own iteration shall say so
            self.end(error)
            return True
        if not accepted and self.policy == "disconnect":
            self.end(self._too_slow("its buffer was full"))
            return True
        self._ready.set()
        return accepted

    async def wait_for_room(self, limit: float) -> None:
        """Wait until the subscriber takes something; end it when it takes nothing for `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                while not self._buffer.has_room and not self.ended:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            self.end(self._too_slow(f"it took nothing for {limit:g} s while its buffer was full"))

    def end(self, error: BaseException | None = None) -> None:
        """Let iteration end, with `error` if there is one, once the buffer is read."""
        if not self.ended:
            self.ended, self.error = True, error
            for event in (self._ready, self._room, self.settled):
                event.set()

    def _too_slow(self, why: str) -> BetcoreError:
        return SlowSubscriberError(
            f"the subscription to {', '.join(self.channels)} was ended: {why}",
            channels=self.channels,
            policy=self.policy,
        )
