"""Which channels are wanted, announced to the server, acknowledged by it: the bookkeeping of the hub, without I/O."""

from collections.abc import Iterator

from betcore_async.redis.commands import Command
from betcore_async.redis.history import Offset, Standing
from betcore_async.redis.subscription import Subscription

_MOST_CHANNELS = 100_000
"""Channels with durable messages that are remembered for one pattern."""


def is_pattern(name: str) -> bool:
    return "*" in name


class Topic:
    """A channel, or a pattern, and who listens to it."""

    __slots__ = ("acks_due", "ahead", "announced", "is_known", "is_pattern", "name", "seen", "subscribers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_pattern = is_pattern(name)
        self.subscribers: set[Subscription] = set()
        self.announced = False
        """Whether the last command sent for it was a SUBSCRIBE."""
        self.acks_due = 0
        """SUBSCRIBE commands that the server has not answered yet."""
        self.seen = Standing({})
        """The last durable messages that came live, or where the histories stood before."""
        self.is_known = False
        """Whether where the histories stood before was looked up, or needs not be."""
        self.ahead: dict[str, Offset] = {}
        """Of each channel, the newest durable message that was read in its history and has not come live yet."""

    @property
    def is_live(self) -> bool:
        return self.announced and self.acks_due == 0

    def note_seen(self, channel: str, offset: Offset) -> None:
        """Take note of a durable message that came live."""
        self.seen.offsets[channel] = offset
        self.is_known = self.is_known or not self.is_pattern  # nothing but this one channel was to be looked up
        if len(self.seen.offsets) > _MOST_CHANNELS:
            self.seen.forget(_MOST_CHANNELS // 2)
        if self.ahead and offset >= self.ahead.get(channel, offset):
            self.ahead.pop(channel, None)


class Topics:
    """All topics of one kind. `subscribe` and `unsubscribe` are the commands for it."""

    def __init__(self, subscribe: str, unsubscribe: str) -> None:
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._topics: dict[str, Topic] = {}
        self._changed: dict[str, Topic] = {}

    def __len__(self) -> int:
        return len(self._topics)

    def __iter__(self) -> Iterator[Topic]:
        return iter(self._topics.values())

    def find(self, name: str) -> Topic | None:
        return self._topics.get(name)

    def join(self, name: str, subscription: Subscription) -> bool:
        """Add a listener; return whether the topic is live already."""
        topic = self._topics.setdefault(name, Topic(name))
        topic.subscribers.add(subscription)
        self._changed[name] = topic
        return topic.is_live

    def leave(self, name: str, subscription: Subscription) -> None:
        topic = self._topics[name]
        topic.subscribers.discard(subscription)
        self._changed[name] = topic

    def commands(self) -> list[Command]:
        """Return the commands that tell the server what changed, and take them as sent."""
        changed, self._changed = self._changed, {}
        new = [topic for topic in changed.values() if topic.subscribers and not topic.announced]
        old = [topic for topic in changed.values() if topic.announced and not topic.subscribers]
        for topic in new:
            topic.announced = True
            topic.acks_due += 1
        for topic in old:
            topic.announced = False
        for name, topic in changed.items():
            if not topic.subscribers and not topic.acks_due:
                del self._topics[name]
        commands: list[Command] = []
        if new:
            commands.append((self._subscribe, *(topic.name for topic in new)))
        if old:
            commands.append((self._unsubscribe, *(topic.name for topic in old)))
        return commands

    def acknowledged(self, name: str) -> Topic | None:
        """Take note of the server's answer to a SUBSCRIBE; return the topic if it is live now."""
        topic = self._topics.get(name)
        if topic is None:
            return None
        topic.acks_due -= 1
        if not (topic.subscribers or topic.announced or topic.acks_due):
            del self._topics[name]  # left again before this answer came
        return topic if topic.is_live else None

    def reset(self) -> None:
        """Forget what the server was told: the connection is a new one."""
        for topic in self._topics.values():
            topic.announced, topic.acks_due = False, 0
        self._changed = dict(self._topics)
