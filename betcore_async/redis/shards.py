"""Subscriptions on a cluster: a connection to each server that has some of the channels, read as if it were one."""

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Sequence
from typing import Any, Self

from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import RedisError as ServerError

from betcore_async.addresses import Node
from betcore_async.redis.cluster import Cluster
from betcore_async.redis.commands import Command, Value
from betcore_async.redis.failures import MovedError, UnsettledError, backoff, translate
from betcore_async.redis.link import Link
from betcore_async.redis.slots import redirection, slot_of_key
from betcore_async.redis.transport import Transport
from betcore_async.tasks import finish

_AHEAD = 1000
"""Replies kept ahead of the reader; beyond that the connections are left unread."""

_KINDS = {b"ssubscribe": b"subscribe", b"sunsubscribe": b"unsubscribe", b"smessage": b"message"}
"""What a server says of sharded channels, and how it says the same of others."""


class _Shard:
    """The connection to one server; `outbox` is what it shall be told once it is there."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.link: Link | None = None
        self.outbox: list[Command] = []
        self.leaving: Counter[Value] = Counter()
        """Channels we asked to leave, and how often that was not answered yet."""
        self.task: asyncio.Task[None] | None = None


class ShardedLink:
    """Takes SUBSCRIBE and gives replies as a Link does. When one connection breaks, all of it is broken.

    A server that cannot be reached when it is first needed holds up its own channels alone: it is tried again until it
    answers, or another server has its slots.
    """

    def __init__(self, transport: Transport, cluster: Cluster, interval: float) -> None:
        self._transport = transport
        self._cluster = cluster
        self._interval = interval
        self._shards: dict[Node, _Shard] = {}
        self._ended: list[asyncio.Task[None]] = []
        self._replies: deque[Any] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._failure: Exception | None = None
        self._paused = False

    @classmethod
    async def connect(cls, transport: Transport, cluster: Cluster, interval: float) -> Self:
        """Return a link without connections: they are made as channels need them. Raises RedisError."""
        started = transport.now()
        failure = await cluster.known(started + transport.timeout)
        if failure is not None:
            waited = transport.now() - started
            raise translate(
                failure, command="connect", address=transport.address, waited=waited, in_doubt=False
            ) from failure
        return cls(transport, cluster, interval)

    async def receive(self, most: int) -> list[Any]:
        """Return the next replies, at most `most`; raises redis-py's error for what broke a connection."""
        while not self._replies:
            if self._failure is not None:
                raise self._failure
            self._news.clear()
            await self._news.wait()
        take = self._replies.popleft
        replies = [take() for _ in range(min(most, len(self._replies)))]
        self._room.set()
        return replies

    @property
    def has_more(self) -> bool:
        """Whether `receive` would return at once."""
        return bool(self._replies)

    @property
    def paused(self) -> bool:
        """Set while the reader deliberately does not read."""
        return self._paused

    @paused.setter
    def paused(self, value: bool) -> None:
        self._paused = value
        for link in self._links():
            link.paused = value

    def send(self, commands: Sequence[Command]) -> None:
        """Tell each server of its channels; raises redis-py's ConnectionError when a connection is gone."""
        for name, *channels in commands:
            for channel in channels:
                # One by one: a command may not have channels of several slots.
                self._send(f"S{name!s}", channel)

    @property
    def next_beat(self) -> float:
        """Seconds until `beat` should be called."""
        return min((link.next_beat for link in self._links()), default=self._interval)

    def beat(self) -> None:
        """PING where it is time to; raise redis-py's TimeoutError when a server does not answer any more."""
        for link in self._links():
            link.beat()

    def close(self) -> None:
        """Close without a goodbye."""
        self._break(ServerConnectionError("the connection was closed"))
        for shard in self._shards.values():
            if shard.task is not None:
                shard.task.cancel()

    async def closed(self) -> None:
        """Return once nothing of the connections is left."""
        tasks = [*self._ended, *(shard.task for shard in self._shards.values() if shard.task is not None)]
        if tasks:
            await asyncio.wait(tasks)

    def _links(self) -> Collection[Link]:
        return [shard.link for shard in self._shards.values() if shard.link is not None]

    def _send(self, name: str, channel: Value) -> None:
        node = self._cluster.server_for(slot_of_key(channel))
        if node not in self._shards:
            shard = self._shards[node] = _Shard(node)
            shard.task = asyncio.create_task(self._run(shard), name="betcore-pubsub-shard")
        shard = self._shards[node]
        if name == "SUNSUBSCRIBE":
            shard.leaving[_written(channel)] += 1
        if shard.link is None:
            shard.outbox.append((name, channel))
        else:
            shard.link.send([(name, channel)])

    def _break(self, why: Exception) -> None:
        self._failure = self._failure or why
        self._news.set()

    async def _run(self, shard: _Shard) -> None:
        """Connect, then pass on what the server says."""
        link = None
        try:
            link = await self._connected(shard)
            if link is not None:
                await self._pass_on(shard, link)
        except Exception as error:  # noqa: BLE001 - the reader of all connections gets it, whatever it is
            self._cluster.doubt()
            self._break(error)
        finally:
            if link is not None:
                link.close()
                await finish(link.closed())

    async def _connected(self, shard: _Shard) -> Link | None:
        """Return the connection once there is one; None when other servers have got all its channels meanwhile."""
        attempt = 0
        while True:
            try:
                wire = await self._cluster.dial_to(shard.node)
            except ServerError:
                self._cluster.doubt()
            else:
                shard.link = Link(self._transport, wire, self._interval)
                shard.link.paused = self._paused
                if shard.outbox:
                    shard.link.send(shard.outbox)
                return shard.link
            await asyncio.sleep(backoff(attempt))
            attempt += 1
            if any(self._cluster.server_for(slot_of_key(channel)) != shard.node for _, channel in shard.outbox):
                self._hand_on(shard)
                return None

    def _hand_on(self, shard: _Shard) -> None:
        del self._shards[shard.node]
        if shard.task is not None:
            self._ended.append(shard.task)
        for name, channel in shard.outbox:
            self._send(str(name), channel)

    async def _pass_on(self, shard: _Shard, link: Link) -> None:
        while True:
            while len(self._replies) > _AHEAD:
                self._room.clear()
                await self._room.wait()
            for reply in await link.receive(_AHEAD):
                self._replies.append(self._translated(shard, reply))
            self._news.set()

    def _translated(self, shard: _Shard, reply: Any) -> Any:
        if isinstance(reply, MovedError):
            self._cluster.note_owner(*redirection(reply, shard.node))
            raise ServerConnectionError("the channel is on another server now") from reply
        if isinstance(reply, UnsettledError):
            raise ServerConnectionError(str(reply)) from reply  # no refusal: another attempt will do
        if not isinstance(reply, list):
            return reply
        if reply[0] == b"sunsubscribe":
            if not shard.leaving[reply[1]]:
                # Not what we asked for: the slot has left this server, and the channel with it.
                raise ServerConnectionError("the slot of a channel has moved")
            shard.leaving[reply[1]] -= 1
        return [_KINDS.get(reply[0], reply[0]), *reply[1:]]


AnyLink = Link | ShardedLink


async def connect(transport: Transport, interval: float) -> AnyLink:
    """Return the link of a hub; the peer is asked for a sign of life after `interval` seconds. Raises RedisError."""
    if isinstance(transport.route, Cluster):
        return await ShardedLink.connect(transport, transport.route, interval)
    return await Link.connect(transport, interval)


def _written(channel: Value) -> bytes:
    """Return a channel as servers write it."""
    return channel if isinstance(channel, bytes) else str(channel).encode()
