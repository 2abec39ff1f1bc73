"""One pub/sub connection: raw replies in, commands out, a heartbeat that notices a peer that fell silent."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Self

from redis.exceptions import TimeoutError as ServerTimeoutError

from betcore_async.redis.commands import Command
from betcore_async.redis.transport import Transport
from betcore_async.redis.wire import Wire, packed

_AHEAD = 1000
"""Replies kept ahead of the reader. Beyond that the socket is left unread, so that the server holds the rest."""


class Link:
    """Read by one task; another may send meanwhile."""

    def __init__(self, transport: Transport, wire: Wire, interval: float) -> None:
        self._wire = wire
        self._now = transport.now
        self._interval = interval
        self._patience = transport.timeout
        self._replies: deque[Any] = deque()
        self._news = asyncio.Event()
        self._is_unread = False
        self._heard_at = self._now()
        self._asked_at: float | None = None
        self.paused = False
        """Set while the reader deliberately does not read; the peer's silence means nothing then."""
        wire.redirect(self._arrived, lambda _: self._news.set())

    @classmethod
    async def connect(cls, transport: Transport, interval: float) -> Self:
        """Connect; the peer is asked for a sign of life after `interval` seconds of silence."""
        return cls(transport, await transport.connect_apart(), interval)

    async def receive(self, most: int) -> list[Any]:
        """Return the next replies, as many as are there, but at most `most`; an error reply stands there as a value.

        Raises redis-py's error for what broke the connection, after all replies were returned.
        """
        while not self._replies:
            if self._wire.closed.done():
                raise self._wire.closed.result()
            self._news.clear()
            await self._news.wait()
        take = self._replies.popleft
        replies = [take() for _ in range(min(most, len(self._replies)))]
        if self._is_unread and len(self._replies) < _AHEAD // 2:
            self._is_unread = False
            self._wire.resume_reading()
        return replies

    @property
    def has_more(self) -> bool:
        """Whether `receive` would return at once."""
        return bool(self._replies)

    def send(self, commands: Sequence[Command]) -> None:
        """Write without waiting; raises redis-py's ConnectionError when the connection is gone."""
        self._wire.write(b"".join(map(packed, commands)))

    @property
    def next_beat(self) -> float:
        """Seconds until `beat` should be called."""
        due = self._heard_at + self._interval if self._asked_at is None else self._asked_at + self._patience
        return max(0.0, due - self._now())

    def beat(self) -> None:
        """PING when it is time to; raise redis-py's TimeoutError when the last PING stayed unanswered."""
        now = self._now()
        if self.paused or self._is_unread:
            self._heard_at = now
        if self._asked_at is not None and self._heard_at >= self._asked_at:
            self._asked_at = None
        if self._asked_at is None and now - self._heard_at >= self._interval:
            self._asked_at = now
            self.send([("PING",)])
        elif self._asked_at is not None and now - self._asked_at >= self._patience:
            raise ServerTimeoutError("the server does not answer PING any more")

    def close(self) -> None:
        """Close without a goodbye."""
        self._wire.abort()

    async def closed(self) -> None:
        """Return once nothing of the connection is left."""
        await self._wire.closed

    def _arrived(self, reply: Any) -> None:
        self._heard_at = self._now()
        self._replies.append(reply)
        self._news.set()
        if not self._is_unread and len(self._replies) > _AHEAD:
            self._is_unread = True
            self._wire.pause_reading()
