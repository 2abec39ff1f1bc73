"""The hub's one connection: who listens to what, and the one task that reads it and hands out."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError as ServerError
from redis.exceptions import ResponseError

from betcore_async.errors import RedisAuthError, RedisError
from betcore_async.redis.catch_up import CatchUp
from betcore_async.redis.events import Message
from betcore_async.redis.failures import UNANSWERED, backoff, command_error
from betcore_async.redis.history import History, message_of, name_of_channel, offset_of
from betcore_async.redis.shards import AnyLink, connect
from betcore_async.redis.subscription import Subscription
from betcore_async.redis.topics import Topic, Topics, is_pattern
from betcore_async.redis.transport import HasTransport
from betcore_async.tasks import finish, stop

_TURN = 64
"""Messages that are handed out before other tasks get a turn: below any useful buffer size, so that a burst does not
overflow the buffers of subscribers who are only waiting to run."""


class Feed:
    """Made with the first subscription, made again when it is lost; every subscription is told."""

    def __init__(self, client: HasTransport, history: History, heartbeat: float, block_limit: float) -> None:
        self._client = client
        self._heartbeat = heartbeat
        self._block_limit = block_limit
        self._channels = Topics("SUBSCRIBE", "UNSUBSCRIBE")
        self._patterns = Topics("PSUBSCRIBE", "PUNSUBSCRIBE")
        self._catch_up = CatchUp(client, self._topics_for, history)
        self._changed = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self.subscriptions: set[Subscription] = set()
        self.is_connected = False
        self.failure: RedisError | None = None
        """Why there is no connection, if there is none."""
        self.received = self.reconnects = 0

    @property
    def topics(self) -> int:
        """Channels and patterns that somebody listens to."""
        return len(self._channels) + len(self._patterns)

    @property
    def refilled(self) -> int:
        """Durable messages that were read from a history."""
        return self._catch_up.refilled

    async def close(self) -> None:
        """End every subscription and the connection."""
        for subscription in self.subscriptions:
            subscription.end()
        owner, self._owner = self._owner, None
        await stop(owner)

    # Subscribers come and go: plain bookkeeping, the owner task tells the server.

    def _topics_for(self, channel: str) -> Topics:
        return self._patterns if is_pattern(channel) else self._channels

    def join(self, subscription: Subscription) -> None:
        self.subscriptions.add(subscription)
        for channel in subscription.channels:
            if self._topics_for(channel).join(channel, subscription) and subscription.acknowledge(channel):
                self._catch_up.begin([subscription])
        self._changed.set()
        if self._owner is None:
            self._owner = asyncio.create_task(self._own(), name="betcore-pubsub-hub")

    def leave(self, subscription: Subscription) -> None:
        subscription.end()
        self.subscriptions.discard(subscription)
        for channel in subscription.channels:
            self._topics_for(channel).leave(channel, subscription)
        self._changed.set()

    # The owner task: the only one that reads the connection.

    async def _own(self) -> None:
        try:
            await self._stay_connected()
        except Exception as error:  # noqa: BLE001 - a fault of ours: every subscriber is told, instead of waiting for ever
            for subscription in self.subscriptions:
                subscription.end(error)
            self._owner = None  # the next subscriber starts anew

    async def _stay_connected(self) -> None:
        attempt = 0
        while True:
            try:
                link = await connect(self._client.transport, self._heartbeat)
            except RedisError as error:
                self.failure = error
                if isinstance(error, RedisAuthError):
                    self._end_unsettled(error)
            else:
                self.failure = None
                received = self.received
                await self._serve(link)
                self.reconnects += 1
                attempt = 0 if self.received > received else attempt
            await asyncio.sleep(backoff(attempt))
            attempt += 1

    async def _serve(self, link: AnyLink) -> None:
        """Use the connection until it breaks."""
        self._changed.set()
        tender = asyncio.create_task(self._tend(link), name="betcore-pubsub-tender")
        self.is_connected = True
        try:
            await self._read(link)
        except ResponseError as error:
            # Which subscription the server refuses (an ACL, say) it does not tell; those that wait are the ones.
            self._end_unsettled(command_error(error, "SUBSCRIBE"))
        except (ServerError, OSError):
            pass  # the connection broke: told to the subscribers once it is back
        finally:
            self.is_connected = False
            self._channels.reset()
            self._patterns.reset()
            self._catch_up.suspend(self.subscriptions)
            await self._catch_up.stop()
            await stop(tender)
            link.close()
            await finish(link.closed())
        if not tender.cancelled() and (fault := tender.exception()):
            raise fault

    async def _read(self, link: AnyLink) -> None:
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

    async def _tend(self, link: AnyLink) -> None:
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
                name = name_of_channel(channel)
                topic, message = self._channels.find(name), message_of(name, payload)
            case [b"pmessage", pattern, channel, payload]:
                asked = name_of_channel(pattern)
                topic, message = self._patterns.find(asked), message_of(name_of_channel(channel), payload, asked)
            case _:
                return None, None
        if topic is not None and message.offset is not None:
            topic.note_seen(message.channel, offset_of(message.offset))
        return topic, message

    def _take_note(self, reply: Any) -> None:
        match reply:
            case [b"subscribe", channel, _]:
                self._acknowledge(self._channels.acknowledged(name_of_channel(channel)))
            case [b"psubscribe", pattern, _]:
                self._acknowledge(self._patterns.acknowledged(name_of_channel(pattern)))
            case ResponseError():
                raise reply

    async def _hand_out(self, link: AnyLink, topic: Topic | None, messages: Sequence[Message]) -> None:
        self.received += len(messages)
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
            self._catch_up.begin([who for who in topic.subscribers if who.acknowledge(topic.name)])

    def _end_unsettled(self, error: RedisError) -> None:
        for subscription in self.subscriptions:
            if not subscription.settled.done():
                subscription.end(error)
