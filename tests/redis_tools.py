"""What the Redis tests share: waiting for a condition, reading subscriptions, a proxy that loses replies."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from betcore_async.redis import EmbeddedRedis, Message


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until `condition()` is true; an awaitable result is awaited."""
    async with asyncio.timeout(seconds):
        while True:
            met = condition()
            if asyncio.iscoroutine(met):
                met = await met
            if met:
                return
            await asyncio.sleep(0.002)


async def kill(server: EmbeddedRedis) -> None:
    """Kill the server and wait until it is known to be dead."""
    os.kill(server.pid, signal.SIGKILL)
    await until(lambda: server.pid is None)


async def take(subscription, count):
    async with asyncio.timeout(10):
        return [await anext(subscription) for _ in range(count)]


def payloads(events):
    """Return the numbers that messages carry; other events as they are."""
    return [int(event.payload) if isinstance(event, Message) else event for event in events]


async def publish(client, channel, numbers):
    """Publish numbers in one write."""
    pipeline = client.pipeline()
    for number in numbers:
        pipeline.publish(channel, number)
    await pipeline.execute()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Proxy:
    """Stands between client and server, and can let replies vanish together with the connection."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.losing: bytes | None = None
        """A request that contains this is passed on; its reply is not."""
        self.lost = 0
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        server_reader, server_writer = await asyncio.open_unix_connection(self._path)
        try:
            while request := await reader.read(65536):
                server_writer.write(request)
                reply = await server_reader.read(65536)
                if self.losing and self.losing in request:
                    self.lost += 1
                    return
                writer.write(reply)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            for end in (writer, server_writer):
                end.close()
