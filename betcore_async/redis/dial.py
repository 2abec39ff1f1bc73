"""Makes a connection: opens it, logs in, and does not call it good before the server answered a PING on it."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import RedisError as ServerError
from redis.exceptions import TimeoutError as ServerTimeoutError

from betcore_async.config import RedisSettings
from betcore_async.redis.commands import Command
from betcore_async.redis.wire import Call, Wire


async def dial(settings: RedisSettings, on_change: Callable[[Wire], None]) -> Wire:
    """Return a wire that is ready for commands, within `settings.connect_timeout`. Raises redis-py's errors."""
    loop = asyncio.get_running_loop()
    wire = Wire(on_change)
    answers: list[Any] = []
    try:
        async with asyncio.timeout(settings.connect_timeout.total_seconds()) as deadline:
            await _connect(loop, settings, wire)
            greeting = Call(_greeting(settings), deadline.when() or 0.0)
            greeting.begin(loop.create_future())
            wire.send([greeting], loop.time())
            answers = await greeting.answer
            for answer in answers:
                if isinstance(answer, ServerError):
                    raise answer
    except BaseException as error:
        wire.abort()
        if isinstance(error, TimeoutError):
            raise ServerTimeoutError("the server does not answer a new connection") from None
        if isinstance(error, OSError):
            raise ServerConnectionError(str(error)) from error
        raise
    return wire


def _greeting(settings: RedisSettings) -> list[Command]:
    commands: list[Command] = []
    if settings.password is not None:
        login = (settings.username,) if settings.username else ()
        commands.append(("AUTH", *login, settings.password.get_secret_value()))
    if settings.db:
        commands.append(("SELECT", settings.db))
    return [*commands, ("PING",)]


async def _connect(loop: asyncio.AbstractEventLoop, settings: RedisSettings, wire: Wire) -> None:
    if settings.addr.startswith("unix:"):
        await loop.create_unix_connection(lambda: wire, settings.addr.removeprefix("unix:"))
        return
    host, _, port = settings.addr.rpartition(":")
    host = host.strip("[]")
    # Read from the disk at each connection: the certificates of the system may be renewed while we run.
    encryption = await asyncio.to_thread(ssl.create_default_context) if settings.tls else None
    transport, _ = await loop.create_connection(lambda: wire, host, int(port), ssl=encryption)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
