"""Fan-out: one Redis connection, any number of local subscribers."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, get_args

from redis.exceptions import RedisError as ServerError
from redis.exceptions import ResponseError

from betcore_async.errors import (
    ModelError,
    RedisAuthError,
    RedisClosedError,
    RedisError,
    RedisTimeoutError,
    RedisUnavailableError,
)
from betcore_async.redis.buffers import Key, Policy
from betcore_async.redis.commands import Value
from betcore_async.redis.events import Message
from betcore_async.redis.failures import UNANSWERED, backoff, command_error
from betcore_async.redis.link import Link
from betcore_async.redis.subscription import Subscription
from betcore_async.redis.topics import Topic, Topics
from betcore_async.redis.transport import HasTransport
from betcore_async.tasks import finish

_TURN = 64
"""Messages that are handed out before other tasks get a turn: below any useful buffer size, so that a burst does not
overflow the buffers of subscribers who are only waiting to run."""


@dataclass(frozen=True, slots=True)
class HubStats:
    """Counts since `open`, and the state at this moment."""

    subscriptions: int
    """Local subscribers."""
    topics: int
    """Channels and patterns subscribed at the server."""
    received: int
    """Messages that came from the server."""
    lost: int
    """Messages dropped for subscribers of this moment, because their buffers were full."""
    reconnects: int
    """Times the connection was lost and made again."""
    connected: bool


class PubSubHub:
    """Subscribes many at the price of one: `async with PubSubHub(client) as hub, hub.subscribe("prices:*") as stream:`.

    Each subscriber has a buffer of its own of `maxsize` messages, and says what happens when it is full:

    - `drop_oldest`, `drop_newest`: messages are dropped, and a Gap with their number stands in their place.
    - `latest`: only the newest message of each key is kept (`key(message)`, by default the channel);
      `Message.skipped` tells how many it replaced.
    - `disconnect`: the subscription ends with SlowSubscriberError.
    - `block`: nothing is dropped. The hub stops reading, for everybody, until there is room; a subscriber that takes
      nothing for `block_limit` while others wait is ended with SlowSubscriberError. The server keeps what is not read
      in its output buffer, and closes the connection when that overflows (`client-output-buffer-limit`).

    Except through `block`, no subscriber delays another. When the connection is lost, the hub makes it again and
    renews every subscription; each subscriber then gets a Reconnected. After `heartbeat` of silence the server is
    asked for a sign of life, so that a dead peer is noticed.
    """

    def __init__(
        self,
        client: HasTransport,
        *,
        heartbeat: timedelta = timedelta(seconds=15),
        block_limit: timedelta = timedelta(seconds=30),
    ) -> None:
        self._client = client
        self._heartbeat = heartbeat.total_seconds()
        self._block_limit = block_limit.total_seconds()
        self._channels = Topics("SUBSCRIBE", "UNSUBSCRIBE")
        self._patterns = Topics("PSUBSCRIBE", "PUNSUBSCRIBE")
        self._subscriptions: set[Subscription] = set()
        self._changed = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._is_open = self._connected = False
        self._failure: RedisError | None = None
        self._received = self._reconnects = 0

    async def open(self) -> None:
        """Allow subscriptions; the connection is made with the first one."""
        self._is_open = True

    async def close(self) -> None:
        """End every subscription and the connection; may be called again."""
        self._is_open = False
        for subscription in self._subscriptions:
            subscription.end()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.cancel()
            await finish(asyncio.wait([owner]))

    async def publish(self, channel: str, message: Value) -> int:
        """Send `message` to the subscribers of `channel`, of every process; return the number of connections reached.

        Not repeated once it may have been sent: raises RedisOutcomeUnknownError then, else as RedisClient does.
        """
        (reply,) = await self._client.transport.run([("PUBLISH", channel, message)])
        if isinstance(reply, Exception):
            raise command_error(reply, "PUBLISH") from reply
        return int(reply)

    @asynccontextmanager
    async def subscribe(
        self, *channels: str, policy: Policy = "drop_oldest", maxsize: int = 1000, key: Key | None = None
    ) -> AsyncGenerator[Subscription, None]:
        """Yield a Subscription once the server acknowledged every channel; a name with `*` is a pattern.

        Raises RedisUnavailableError, RedisAuthError or RedisTimeoutError when the server does not acknowledge within
        the client's deadline, RedisCommandError when it refuses, ModelError for unusable arguments.
        """
        _check(channels, policy, maxsize)
        if not self._is_open:
            raise RedisClosedError("the hub is not open: use it inside `async with PubSubHub(…)`")
        subscription = Subscription(tuple(dict.fromkeys(channels)), policy, maxsize, key)
        self._join(subscription)
        try:
            await self._acknowledged(subscription)
            yield subscription
        finally:
            self._leave(subscription)

    def stats(self) -> HubStats:
        return HubStats(
            subscriptions=len(self._subscriptions),
            topics=len(self._channels) + len(self._patterns),
            received=self._received,
            lost=sum(subscription.lost for subscription in self._subscriptions),
            reconnects=self._reconnects,
            connected=self._connected,
        )

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Subscribers come and go: plain bookkeeping, the owner task tells the server.

    def _topics_for(self, channel: str) -> Topics:
        return self._patterns if "*" in channel else self._channels

    def _join(self, subscription: Subscription) -> None:
        self._subscriptions.add(subscription)
        for channel in subscription.channels:
            if self._topics_for(channel).join(channel, subscription):
                subscription.acknowledge(channel, self._client.transport.now())
        self._changed.set()
        if self._owner is None:
            self._owner = asyncio.create_task(self._own(), name="betcore-pubsub-hub")

    def _leave(self, subscription: Subscription) -> None:
        subscription.end()
        self._subscriptions.discard(subscription)
        for channel in subscription.channels:
            self._topics_for(channel).leave(channel, subscription)
        self._changed.set()

    async def _acknowledged(self, subscription: Subscription) -> None:
        timeout = self._client.transport.timeout
        try:
            async with asyncio.timeout(timeout):
                await subscription.settled.wait()
        except TimeoutError:
            if isinstance(self._failure, RedisUnavailableError):
                raise copy(self._failure) from self._failure
            raise RedisTimeoutError(
                f"Redis at {self._client.transport.address} did not acknowledge the subscription to"
                f" {', '.join(subscription.channels)} within {timeout:.2f} s",
                command="SUBSCRIBE",
                waited=timeout,
            ) from None
        if subscription.error is not None:
            raise copy(subscription.error) from subscription.error
        if subscription.ended:
            raise RedisClosedError("the hub was closed while the subscription was being made")

    # The owner task: the only one that reads the connection.

    async def _own(self) -> None:
        try:
            await self._stay_connected()
        except Exception as error:  # noqa: BLE001 - a fault of ours: every subscriber is told, instead of waiting for ever
            for subscription in self._subscriptions:
                subscription.end(error)
            self._owner = None  # the next subscriber starts anew

    async def _stay_connected(self) -> None:
        attempt = 0
        while True:
            try:
                link = await Link.connect(self._client.transport, self._heartbeat)
            except RedisError as error:
                self._failure = error
                if isinstance(error, RedisAuthError):
                    self._end_unsettled(error)
            else:
                self._failure = None
                received = self._received
                await self._serve(link)
                self._reconnects += 1
                attempt = 0 if self._received > received else attempt
            await asyncio.sleep(backoff(attempt))
            attempt += 1

    async def _serve(self, link: Link) -> None:
        """Use the connection until it breaks."""
        self._channels.reset()
        self._patterns.reset()
        self._changed.set()
        tender = asyncio.create_task(self._tend(link), name="betcore-pubsub-tender")
        self._connected = True
        try:
            await self._read(link)
        except ResponseError as error:
            # Which subscription the server refuses (an ACL, say) it does not tell; those that wait are the ones.
            self._end_unsettled(command_error(error, "SUBSCRIBE"))
        except (ServerError, OSError):
            pass  # the connection broke: told to the subscribers once it is back
        finally:
            self._connected = False
            self._suspend_all()
            tender.cancel()
            await finish(asyncio.wait([tender]))
            link.close()
            await finish(link.closed())
        if not tender.cancelled() and (fault := tender.exception()):
            raise fault

    async def _read(self, link: Link) -> None:
        while True:
            # What follows one another on one channel is handed out together: a burst costs each subscriber one step.
            topic: Topic | None = None
            run: list[Message] = []
            for reply in await link.receive(_TURN):
                whose, message = self._message_of(reply)
                if message is None or whose is not topic:
                    await self._hand_out(link, topic, run)
                    topic, run = whose, []
                if message is None:
                    self._take_note(reply)
                else:
                    run.append(message)
            await self._hand_out(link, topic, run)
            if link.has_more:
                await asyncio.sleep(0)

    async def _tend(self, link: Link) -> None:
        """Tell the server of changes, and keep the heartbeat; closing the link ends the reader, too."""
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(link.next_beat):
                        await self._changed.wait()
                self._changed.clear()
                if commands := self._channels.commands() + self._patterns.commands():
                    link.send(commands)
                link.beat()
        except (*UNANSWERED, OSError):
            pass
        finally:
            link.close()

    def _message_of(self, reply: Any) -> tuple[Topic | None, Message | None]:
        match reply:
            case [b"message", channel, payload]:
                name = _text(channel)
                return self._channels.find(name), Message(name, payload)
            case [b"pmessage", pattern, channel, payload]:
                name = _text(pattern)
                return self._patterns.find(name), Message(_text(channel), payload, name)
        return None, None

    def _take_note(self, reply: Any) -> None:
        match reply:
            case [b"subscribe", channel, _]:
                self._acknowledge(self._channels.acknowledged(_text(channel)))
            case [b"psubscribe", pattern, _]:
                self._acknowledge(self._patterns.acknowledged(_text(pattern)))
            case ResponseError():
                raise reply

    async def _hand_out(self, link: Link, topic: Topic | None, messages: Sequence[Message]) -> None:
        self._received += len(messages)
        if topic is None or not messages:
            return
        for who, left in [(who, left) for who in topic.subscribers if (left := who.deliver(messages))]:
            link.paused = True
            rest = left
            while rest:
                await who.wait_for_room(self._block_limit)
                rest = who.deliver(rest)
            link.paused = False

    def _acknowledge(self, topic: Topic | None) -> None:
        if topic is not None:
            now = self._client.transport.now()
            for subscription in topic.subscribers:
                subscription.acknowledge(topic.name, now)

    def _suspend_all(self) -> None:
        now = self._client.transport.now()
        for subscription in self._subscriptions:
            subscription.suspend(now)

    def _end_unsettled(self, error: RedisError) -> None:
        for subscription in self._subscriptions:
            if not subscription.settled.is_set():
                subscription.end(error)


def _text(name: bytes) -> str:
    # A pattern matches channels of anybody, whose names need not be UTF-8.
    return name.decode(errors="surrogateescape")


def _check(channels: tuple[str, ...], policy: str, maxsize: int) -> None:
    if not channels or not all(isinstance(channel, str) and channel for channel in channels):
        raise ModelError("name at least one channel, each a text that is not empty", field="channels")
    if policy not in get_args(Policy):
        raise ModelError(f"policy must be one of {', '.join(get_args(Policy))}; got {policy!r}", field="policy")
    if type(maxsize) is not int or maxsize < 1:
        raise ModelError(f"maxsize must be a whole number from 1; got {maxsize!r}", field="maxsize")
