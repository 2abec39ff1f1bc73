"""What the Redis tests share: waiting for a condition, reading subscriptions, a proxy that loses replies."""

import asyncio
import os
import random
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from betcore_async.redis import EmbeddedRedis, Message


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
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
    async with asyncio.timeout(30):
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
    """Return a port for a server that starts later, or more than once.

    Not one of those that the system hands out by itself: meanwhile any connection of another test could get it.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


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


class FaultyProxy:
    """Stands between client and server and passes everything on, with the faults that are switched on."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.delay = 0.0
        """Seconds that each piece of a reply is kept back."""
        self.is_silent = False
        """Take everything, pass nothing on, close nothing: what a cable that was pulled looks like."""
        self.cut_after: int | None = None
        """Bytes of reply after which the connection is reset, once."""
        self.cuts = 0
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FaultyProxy"]:
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
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
            await asyncio.sleep(0)  # the transports end in the next turn

    def reset_all(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._path)
        except (asyncio.CancelledError, OSError):
            writer.transport.abort()
            return
        back = asyncio.create_task(self._pass_back(server_reader, writer))
        self._tasks.add(back)
        back.add_done_callback(self._tasks.discard)
        try:
            while request := await reader.read(65536):
                if not self.is_silent:
                    server_writer.write(request)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            back.cancel()
            self._writers.discard(writer)
            for end in (writer, server_writer):
                end.transport.abort()

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while reply := await reader.read(65536):
            await asyncio.sleep(self.delay)
            if self.cut_after is not None:
                reply, self.cut_after = reply[: self.cut_after], max(0, self.cut_after - len(reply))
            if not self.is_silent:
                writer.write(reply)
            if self.cut_after == 0:
                await writer.drain()
                await asyncio.sleep(0.02)  # a reset overtakes what was not read yet
                self.cut_after, self.cuts = None, self.cuts + 1
                _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
