"""Brings subscriptions up to date from the histories of their channels before live messages go on."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

from betcore_async.errors import RedisClosedError, RedisCommandError, RedisError
from betcore_async.redis.failures import backoff
from betcore_async.redis.history import EMPTY, LAST, History, Offset, Refill, Refills, is_after
from betcore_async.redis.subscription import Subscription
from betcore_async.redis.topics import Topic, Topics
from betcore_async.redis.transport import HasTransport
from betcore_async.tasks import finish


class CatchUp:
    """Reads each history once for all subscriptions that need it; they hold back live messages meanwhile."""

    def __init__(self, client: HasTransport, channels: Topics, history: History) -> None:
        self._client = client
        self._channels = channels
        self._history = history
        self._tasks: set[asyncio.Task[None]] = set()
        self.refilled = 0
        """Messages that were read from a history after an outage, or for a replay."""

    def begin(self, subscriptions: Sequence[Subscription]) -> None:
        """Let subscriptions whose channels are all acknowledged go live, after reading what they missed."""
        now = self._client.transport.now()
        behind = []
        for subscription in subscriptions:
            if self._wanted(subscription):
                subscription.hold()
                behind.append(subscription)
            else:
                for topic in self._topics_of(subscription):
                    # Read for others, but not heard live yet: older than this subscription.
                    if topic.newest is not None and topic.seen is not None and topic.newest != topic.seen:
                        subscription.floors[topic.name] = topic.newest
                subscription.resume(now)
        if behind:
            task = asyncio.create_task(self._run(behind), name="betcore-pubsub-catch-up")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def suspend(self, subscriptions: Iterable[Subscription]) -> None:
        """Note where each subscription stands: the connection is gone."""
        now = self._client.transport.now()
        for subscription in subscriptions:
            if subscription.is_live:
                for topic in self._topics_of(subscription):
                    position = subscription.floors.get(topic.name, topic.seen)
                    if position is not None:
                        subscription.cursors[topic.name] = position
            subscription.suspend(now)

    async def stop(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await finish(asyncio.wait(self._tasks))

    def _topics_of(self, subscription: Subscription) -> list[Topic]:
        return [topic for name in subscription.channels if (topic := self._channels.find(name)) is not None]

    def _wanted(self, subscription: Subscription) -> list[tuple[str, Offset]]:
        """Return what has to be read: what was missed, and where a channel that is new here stands."""
        return [
            (topic.name, subscription.cursors.get(topic.name, LAST))
            for topic in self._topics_of(subscription)
            if topic.name in subscription.cursors or topic.seen is None
        ]

    async def _run(self, behind: Sequence[Subscription]) -> None:
        wanted = {each for subscription in behind for each in self._wanted(subscription)}
        with suppress(RedisClosedError):
            found = await self._read(wanted)
            now = self._client.transport.now()
            for subscription in behind:
                self._complete(subscription, found, now)

    async def _read(self, wanted: set[tuple[str, Offset]]) -> Refills:
        attempt = 0
        while True:
            try:
                return await self._history.read(self._client.transport, wanted)
            except RedisClosedError:
                raise
            except RedisCommandError:  # we may not read histories: then nobody knows what they hold
                return {(channel, after): Refill((), 0 if after == LAST else None, None) for channel, after in wanted}
            except RedisError:
                await asyncio.sleep(backoff(attempt))
                attempt += 1

    def _complete(self, subscription: Subscription, found: Refills, now: float) -> None:
        missed = []
        for channel, after in self._wanted(subscription):
            refill = found.get((channel, after))
            topic = self._channels.find(channel)
            if refill is None or topic is None:
                continue
            topic.newest = refill.newest or topic.newest
            if topic.seen is None:
                topic.seen = refill.newest or EMPTY
            if channel in subscription.cursors:
                missed.append(refill)
                self.refilled += len(refill.messages)
                if refill.newest is not None:
                    subscription.floors[channel] = refill.newest
        subscription.resume(now, missed)


def note_seen(topic: Topic, offset: Offset) -> None:
    """Take note of a durable message that came live."""
    topic.seen = offset
    if topic.newest is None or is_after(offset, topic.newest):
        topic.newest = offset
