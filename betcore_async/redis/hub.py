"""Fan-out: one Redis connection, any number of local subscribers."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self, get_args

from betcore_async.errors import (
    ModelError,
    RedisClosedError,
    RedisTimeoutError,
    RedisUnavailableError,
)
from betcore_async.redis.buffers import Key, Policy
from betcore_async.redis.commands import Value
from betcore_async.redis.failures import command_error
from betcore_async.redis.feed import Feed
from betcore_async.redis.history import LAST, START, History, Standing, offset_of
from betcore_async.redis.pipeline import milliseconds
from betcore_async.redis.subscription import Subscription
from betcore_async.redis.topics import is_pattern
from betcore_async.redis.transport import HasTransport
from betcore_async.redis.waking import Wakeups


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
    lag: int
    """Messages that the slowest subscriber of this moment has not read yet."""
    refilled: int
    """Durable messages that were read from a history, after an outage or for a replay."""
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

    Messages published with `durable=True` are kept in a history besides, the last `history` of each channel until
    `history_life` after the last of them. After an outage subscribers get from there what they missed: none lost,
    none twice, in order of each channel, or a Gap in place of what the history does not hold any more.
    """

    def __init__(
        self,
        client: HasTransport,
        *,
        heartbeat: timedelta = timedelta(seconds=15),
        block_limit: timedelta = timedelta(seconds=30),
        history: int = 1000,
        history_life: timedelta = timedelta(hours=1),
    ) -> None:
        self._client = client
        self._history = History(_checked_size(history), milliseconds(history_life, "history_life"))
        self._feed = Feed(client, self._history, heartbeat.total_seconds(), block_limit.total_seconds())
        self._is_open = False

    async def open(self) -> None:
        """Allow subscriptions; the connection is made with the first one."""
        if not self._is_open:
            self._wakeups = Wakeups(asyncio.get_running_loop())
            self._is_open = True

    async def close(self) -> None:
        """End every subscription and the connection; may be called again."""
        self._is_open = False
        await self._feed.close()

    async def publish(self, channel: str, message: Value, *, durable: bool = False) -> int:
        """Send `message` to the subscribers of `channel`, of every process; return the number of connections reached.

        `durable` messages are written to the channel's history in the same step. Subscribers that are no hub see them
        begin with a mark and their offset. They need a server of version 7 or later.

        Not repeated once it may have been sent: raises RedisOutcomeUnknownError then, else as RedisClient does.
        """
        if durable:
            return await self._history.publish(self._client.transport, channel, message)
        transport = self._client.transport
        (reply,) = await transport.run([(transport.publishing, channel, message)])
        if isinstance(reply, Exception):
            raise command_error(reply, transport.publishing) from reply
        return int(reply)

    @asynccontextmanager
    async def subscribe(
        self,
        *channels: str,
        policy: Policy = "drop_oldest",
        maxsize: int = 1000,
        key: Key | None = None,
        replay_from: str | None = None,
        max_rate: float | None = None,
    ) -> AsyncGenerator[Subscription, None]:
        """Yield a Subscription once the server acknowledged every channel; a name with `*` is a pattern.

        `replay_from` begins with durable messages of the past, then goes on live, with none missing in between: those
        after the offset of a message (of one channel), `start` for all that the history holds, or `last` for the
        newest of each channel: a snapshot, then the stream. `max_rate` hands out at most so many messages a second;
        what happens to those that come faster is for the policy to say.

        Raises RedisUnavailableError, RedisAuthError or RedisTimeoutError when the server does not acknowledge within
        the client's deadline, RedisCommandError when it refuses, ModelError for unusable arguments, and for a pattern
        on a cluster, which knows none.
        """
        _check(channels, policy, maxsize, max_rate)
        if self._client.transport.is_cluster and any(map(is_pattern, channels)):
            raise ModelError("a cluster knows no patterns of channels: name the channels", field="channels")
        cursors = _cursors(channels, replay_from)
        if not self._is_open:
            raise RedisClosedError("the hub is not open: use it inside `async with PubSubHub(…)`")
        names = tuple(dict.fromkeys(channels))
        subscription = Subscription(self._wakeups, names, policy, maxsize, key=key, max_rate=max_rate)
        subscription.cursors = cursors
        self._feed.join(subscription)
        try:
            await self._acknowledged(subscription)
            yield subscription
        finally:
            self._feed.leave(subscription)

    def stats(self) -> HubStats:
        return HubStats(
            subscriptions=len(self._feed.subscriptions),
            topics=self._feed.topics,
            received=self._feed.received,
            lost=sum(subscription.lost for subscription in self._feed.subscriptions),
            lag=max((subscription.pending for subscription in self._feed.subscriptions), default=0),
            refilled=self._feed.refilled,
            reconnects=self._feed.reconnects,
            connected=self._feed.is_connected,
        )

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _acknowledged(self, subscription: Subscription) -> None:
        timeout = self._client.transport.timeout
        settled, _ = await asyncio.wait([subscription.settled], timeout=timeout)
        if not settled:
            if isinstance(self._feed.failure, RedisUnavailableError):
                raise copy(self._feed.failure) from self._feed.failure
            raise RedisTimeoutError(
                f"Redis at {self._client.transport.address} did not acknowledge the subscription to"
                f" {', '.join(subscription.channels)} within {timeout:.2f} s",
                command="SUBSCRIBE",
                waited=timeout,
            )
        if subscription.error is not None:
            raise copy(subscription.error) from subscription.error
        if subscription.ended:
            raise RedisClosedError("the hub was closed while the subscription was being made")


def _check(channels: tuple[str, ...], policy: str, maxsize: int, max_rate: float | None) -> None:
    if not channels or not all(isinstance(channel, str) and channel for channel in channels):
        raise ModelError("name at least one channel, each a text that is not empty", field="channels")
    if policy not in get_args(Policy):
        raise ModelError(f"policy must be one of {', '.join(get_args(Policy))}; got {policy!r}", field="policy")
    if type(maxsize) is not int or maxsize < 1:
        raise ModelError(f"maxsize must be a whole number from 1; got {maxsize!r}", field="maxsize")
    if max_rate is not None and not 0 < max_rate < 1e6:
        raise ModelError(f"max_rate must be messages a second, above 0; got {max_rate!r}", field="max_rate")


def _cursors(channels: tuple[str, ...], replay_from: str | None) -> dict[str, Standing]:
    if replay_from is None:
        return {}
    if any(map(is_pattern, channels)):
        raise ModelError("a pattern has no history to replay; name the channels", field="replay_from")
    offset = offset_of(replay_from)
    if offset not in {START, LAST} and len(set(channels)) > 1:
        raise ModelError("an offset belongs to one channel; subscribe each with its own", field="replay_from")
    return {channel: Standing({channel: offset}) for channel in channels}


def _checked_size(history: int) -> int:
    if type(history) is not int or not 1 <= history <= 1_000_000:
        raise ModelError(f"history must be a number of messages from 1; got {history!r}", field="history")
    return history
