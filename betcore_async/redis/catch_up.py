"""Brings subscriptions up to date from the histories of their channels before live messages go on."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from betcore_async.errors import RedisClosedError, RedisCommandError, RedisError
from betcore_async.redis.failures import backoff
from betcore_async.redis.history import EMPTY, LAST, History, Matches, Offset, Refill, Standing
from betcore_async.redis.subscription import Subscription
from betcore_async.redis.topics import Topic, Topics
from betcore_async.redis.transport import HasTransport
from betcore_async.tasks import stop

_Wanted = tuple[Topic, Standing | None]
"""A topic to be read after a standing; None asks only where it stands."""


@dataclass(frozen=True, slots=True)
class _News:
    """What the histories of a topic hold after a given standing; the same for all who stood there."""

    after: dict[str, Offset]
    """Where reading began, by channel."""
    refills: Sequence[Refill]
    newest: dict[str, Offset]
    memory: bytes | None = None


class CatchUp:
    """Reads each history once for all subscriptions that need it; they hold back live messages meanwhile."""

    def __init__(self, client: HasTransport, topics_for: Callable[[str], Topics], history: History) -> None:
        self._client = client
        self._topics_for = topics_for
        self._history = history
        self._tasks: set[asyncio.Task[None]] = set()
        self.refilled = 0
        """Messages that were read from a history after an outage, or for a replay."""

    def begin(self, subscriptions: Sequence[Subscription]) -> None:
        """Let subscriptions whose channels are all acknowledged go live, after reading what they missed."""
        now = self._client.transport.now()
        behind = []
        for subscription in subscriptions:
            if any(self._wanted(subscription)):
                subscription.hold()
                behind.append(subscription)
            else:
                for topic in self._topics_of(subscription):
                    # Read for others, but not heard live yet: older than this subscription.
                    subscription.floors |= _floors(topic, topic.ahead)
                subscription.resume(now)
        if behind:
            task = asyncio.create_task(self._run(behind), name="betcore-pubsub-catch-up")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def suspend(self, subscriptions: Iterable[Subscription]) -> None:
        """Note where each subscription stands: the connection is gone."""
        now = self._client.transport.now()
        standings: dict[Topic, Standing] = {}  # shared by all that have nothing of their own to add
        for subscription in subscriptions:
            if subscription.is_live:
                for topic in self._topics_of(subscription):
                    if topic not in standings:
                        standings[topic] = topic.seen.copy(now)
                    subscription.cursors[topic.name] = _with_floors(standings[topic], subscription, topic)
            subscription.suspend(now)

    async def stop(self) -> None:
        """Give up what is under way."""
        await stop(*self._tasks)

    def _topics_of(self, subscription: Subscription) -> Iterator[Topic]:
        for name in subscription.channels:
            if (topic := self._topics_for(name).find(name)) is not None:
                yield topic

    def _wanted(self, subscription: Subscription) -> Iterator[_Wanted]:
        """Yield what has to be read: what was missed, and where a topic that is new here stands (None)."""
        for topic in self._topics_of(subscription):
            standing = subscription.cursors.get(topic.name)
            if standing is not None or not topic.is_known:
                yield topic, standing

    async def _run(self, behind: Sequence[Subscription]) -> None:
        # By identity: those who stood at the same place share one Standing.
        wanted = {
            (topic.name, id(standing)): (topic, standing)
            for subscription in behind
            for topic, standing in self._wanted(subscription)
        }
        with suppress(RedisClosedError):
            news = await self._read(wanted.values())
            by_identity = dict(zip(wanted, news, strict=True))
            for topic, standing in wanted.values():
                _take_note(topic, by_identity[topic.name, id(standing)])
            now = self._client.transport.now()
            for subscription in behind:
                self._complete(subscription, by_identity, now)

    async def _read(self, wanted: Collection[_Wanted]) -> list[_News]:
        attempt = 0
        while True:
            try:
                return await self._look_up(wanted)
            except RedisClosedError:
                raise
            except RedisCommandError:  # we may not read histories: then nobody knows what they hold
                return [_nothing_known(standing) for _, standing in wanted]
            except RedisError:
                await asyncio.sleep(backoff(attempt))
                attempt += 1

    async def _look_up(self, wanted: Collection[_Wanted]) -> list[_News]:
        transport = self._client.transport
        patterns = {topic.name for topic, _ in wanted if topic.is_pattern}
        matches = {pattern: await self._history.matching(transport, pattern) for pattern in patterns}
        after = [_after(topic, standing, matches.get(topic.name)) for topic, standing in wanted]
        found = await self._history.read(transport, {pair for offsets in after for pair in offsets.items()})
        news = []
        for (topic, standing), offsets in zip(wanted, after, strict=True):
            refills = {channel: found[channel, offset] for channel, offset in offsets.items()}
            newest = {channel: refill.newest for channel, refill in refills.items() if refill.newest is not None}
            match = matches.get(topic.name)
            if match is not None and standing is not None:
                is_recent = transport.now() - standing.at < self._history.life
                refills = {
                    channel: _of_pattern(
                        topic.name, refill, _lost(channel, refill, standing, match, is_recent=is_recent)
                    )
                    for channel, refill in refills.items()
                }
            told = [refill for refill in refills.values() if refill.messages or refill.lost != 0]
            news.append(_News(offsets, told if standing else (), newest, match.memory if match else None))
        return news

    def _complete(self, subscription: Subscription, news: dict[tuple[str, int], _News], now: float) -> None:
        missed: list[Refill] = []
        for topic, standing in self._wanted(subscription):
            found = news.get((topic.name, id(standing)))
            if found is not None and standing is not None:
                missed += found.refills
                # What did not move needs no floor, except where a replay begins at a message that may be on its way.
                moved = (
                    pair for pair in found.newest.items() if not topic.is_pattern or pair not in found.after.items()
                )
                subscription.floors |= _floors(topic, dict(moved))
        self.refilled += sum(len(refill.messages) for refill in missed)
        subscription.resume(now, missed)


def _after(topic: Topic, standing: Standing | None, match: Matches | None) -> dict[str, Offset]:
    """Return where to begin reading, for each channel of a topic."""
    channels = {topic.name} if match is None else match.channels
    if standing is None:
        return dict.fromkeys(channels, LAST)
    # A channel that a pattern matches and that was never heard: all of it came during the outage.
    return {channel: standing.offsets.get(channel, EMPTY) for channel in channels | standing.offsets.keys()}


def _lost(channel: str, refill: Refill, standing: Standing, match: Matches, *, is_recent: bool) -> int | None:
    """Return how many messages of a pattern's channel are missing, None when nobody knows."""
    if channel in standing.offsets:
        # A pattern sees channels come and go. A history is gone because its time was over, and not with the server's
        # memory, when the index is the old one; what came during the outage would still be there.
        expired = refill.newest is None and is_recent and match.memory is not None and match.memory == standing.memory
        return 0 if expired else refill.lost
    was_forgotten = refill.newest is not None and refill.newest[0] <= standing.forgotten
    return None if was_forgotten else refill.lost


def _of_pattern(pattern: str, refill: Refill, lost: int | None) -> Refill:
    was_forgotten = lost is None and refill.lost is not None  # then nobody knows which of them are new
    messages = () if was_forgotten else [replace(message, pattern=pattern) for message in refill.messages]
    return Refill(messages, lost, refill.newest)


def _nothing_known(standing: Standing | None) -> _News:
    offsets = standing.offsets if standing else {}
    is_snapshot = LAST in offsets.values()
    return _News(offsets, [Refill((), None, None)] if standing and not is_snapshot else (), {})


def _take_note(topic: Topic, news: _News) -> None:
    """Keep in mind where the histories of a topic stand."""
    seen = topic.seen
    for channel, newest in news.newest.items():
        if not topic.is_known:
            seen.offsets.setdefault(channel, newest)
        if newest > seen.offsets.get(channel, EMPTY):
            topic.ahead[channel] = newest
    for channel, offset in news.after.items():
        if channel not in news.newest and seen.offsets.get(channel) == offset:
            del seen.offsets[channel]  # its history is gone, which was told: a new one will be new from its start
    if not topic.is_pattern:
        seen.offsets.setdefault(topic.name, EMPTY)
    seen.memory = news.memory
    topic.is_known = True


def _floors(topic: Topic, newest: dict[str, Offset]) -> dict[tuple[str | None, str], Offset]:
    pattern = topic.name if topic.is_pattern else None
    return {(pattern, channel): offset for channel, offset in newest.items()}


def _with_floors(standing: Standing, subscription: Subscription, topic: Topic) -> Standing:
    """Return where a subscription stands, who may have been given more from the history than came live."""
    mine = {
        channel: offset
        for (pattern, channel), offset in subscription.floors.items()
        if (pattern or channel) == topic.name
    }
    return replace(standing, offsets=standing.offsets | mine) if mine else standing
