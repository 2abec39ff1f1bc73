"""One pub/sub connection: raw replies in, commands out, a heartbeat that notices a peer that fell silent."""

from collections.abc import Sequence
from typing import Any, Self

from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import TimeoutError as ServerTimeoutError

from betcore_async.redis.failures import Command
from betcore_async.redis.transport import Connection, Transport, packed


class Link:
    """Read by one task; another may send meanwhile.

    redis-py's PubSub object is not used: it may resubscribe by itself while we do, reports a dead peer only with the
    next command, and its acknowledgements cannot be awaited.
    """

    def __init__(self, transport: Transport, connection: Connection, interval: float) -> None:
        self._connection = connection
        self._now = transport.now
        self._interval = interval
        self._patience = transport.timeout
        self._heard_at = self._now()
        self._asked_at: float | None = None
        self.paused = False
        """Set while the reader deliberately does not read; the peer's silence means nothing then."""

    @classmethod
    async def connect(cls, transport: Transport, interval: float) -> Self:
        """Connect; the peer is asked for a sign of life after `interval` seconds of silence."""
        return cls(transport, await transport.connect_apart(), interval)

    async def receive(self) -> Any:
        """Return the next reply. Raises redis-py's errors."""
        reply = await self._connection.read_response(disable_decoding=True)
        self._heard_at = self._now()
        return reply

    async def send(self, commands: Sequence[Command]) -> None:
        # redis-py would silently connect anew here, without the subscriptions.
        if not self._connection.is_connected:
            raise ServerConnectionError("the connection is gone")
        await self._connection.send_packed_command(b"".join(map(packed, commands)), check_health=False)

    @property
    def next_beat(self) -> float:
        """Seconds until `beat` should be called."""
        due = self._heard_at + self._interval if self._asked_at is None else self._asked_at + self._patience
        return max(0.0, due - self._now())

    async def beat(self) -> None:
        """PING when it is time to; raise redis-py's TimeoutError when the last PING stayed unanswered."""
        now = self._now()
        if self.paused:
            self._heard_at = now
        if self._asked_at is not None and self._heard_at >= self._asked_at:
            self._asked_at = None
        if self._asked_at is None and now - self._heard_at >= self._interval:
            self._asked_at = now
            await self.send([("PING",)])
        elif self._asked_at is not None and now - self._asked_at >= self._patience:
            raise ServerTimeoutError("the server does not answer PING any more")

    async def close(self) -> None:
        """Close without a goodbye; does not wait."""
        await self._connection.disconnect(nowait=True)
