"""One local subscriber: a bounded buffer with a reader."""

import asyncio
from collections.abc import Sequence
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
        # Plain futures instead of an asyncio.Event: waking thousands of readers is what a fan-out spends its time on.
        self._readers: list[asyncio.Future[None]] = []
        self._room = asyncio.Event()
        self.ended = False
        self.error: BaseException | None = None
        """What ended the subscription, if it was not the hub's end."""
        self.settled = asyncio.Event()
        """Set when all channels are acknowledged for the first time, or the subscription ended before."""
        self._awaited = set(channels)
        self._lost_at: float | None = None
        self.is_live = False
        """Whether every channel is subscribed at this moment."""

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
            reader = asyncio.get_running_loop().create_future()
            self._readers.append(reader)
            await reader
        self._room.set()
        return event

    # What follows is for the hub.

    def suspend(self, now: float) -> None:
        """Deliver nothing until every channel is subscribed again: the connection is gone."""
        if not self._awaited:
            self._lost_at = now
        self._awaited = set(self.channels)
        self.is_live = False

    def acknowledge(self, channel: str, now: float) -> None:
        """Take note that the server subscribed `channel`."""
        self._awaited.discard(channel)
        if self._awaited or self.ended:
            return
        self.is_live = True
        self.settled.set()
        if self._lost_at is not None:
            self._buffer.note(Reconnected(now - self._lost_at))
            self._lost_at = None
            self._wake()

    def deliver(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Hand over `messages`; return those for which there is no room, when the policy is `block`."""
        if not self.is_live:
            return ()
        try:
            accepted = self._buffer.offer_all(messages)
        except Exception as error:  # noqa: BLE001 - the caller's `key` failed: its own iteration shall say so
            self.end(error)
            return ()
        if self._readers:
            self._wake()
        if accepted == len(messages):
            return ()
        if self.policy == "disconnect":
            self.end(self._too_slow("its buffer was full"))
            return ()
        return messages[accepted:]

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
            self.ended, self.error, self.is_live = True, error, False
            self._wake()
            self._room.set()
            self.settled.set()

    def _wake(self) -> None:
        for reader in self._readers:
            if not reader.done():  # cancelled, with the task that waited
                reader.set_result(None)
        self._readers.clear()

    def _too_slow(self, why: str) -> BetcoreError:
        return SlowSubscriberError(
            f"the subscription to {', '.join(self.channels)} was ended: {why}",
            channels=self.channels,
            policy=self.policy,
        )
