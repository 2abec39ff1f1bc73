"""Makes a connection: opens it, logs in, and does not call it good before the server answered a PING on it."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import SecretStr
from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import RedisError as ServerError
from redis.exceptions import TimeoutError as ServerTimeoutError

from betcore_async.addresses import Node
from betcore_async.config import RedisSettings
from betcore_async.redis.commands import Command
from betcore_async.redis.wire import Call, Wire


async def dial(
    node: Node, settings: RedisSettings, on_change: Callable[[Wire], None], *, only_master: bool = False
) -> Wire:
    """Return a wire that is ready for commands, within `settings.connect_timeout`. Raises redis-py's errors.

    `only_master`: a server that calls itself anything else counts as one that does not answer.
    """
    select: list[Command] = [("SELECT", settings.db)] if settings.db else []
    role: list[Command] = [("ROLE",)] if only_master else []
    greeting = [*login(settings.username, settings.password), *select, *role, ("PING",)]
    wire, answers = await _dial(node, settings, on_change, greeting)
    if only_master and answers[-2][0] != b"master":
        wire.abort()
        raise ServerConnectionError(f"{node} is no master")
    return wire


async def ask(node: Node, settings: RedisSettings, commands: Sequence[Command]) -> list[Any]:
    """Return the replies to `commands` on a connection made for them alone; raises as `dial`."""
    wire, replies = await _dial(node, settings, lambda _: None, commands)
    wire.abort()
    return replies


def login(username: str | None, password: SecretStr | None) -> list[Command]:
    """Return the command that logs in, if one is needed."""
    if password is None:
        return []
    return [("AUTH", *((username,) if username else ()), password.get_secret_value())]


async def _dial(
    node: Node, settings: RedisSettings, on_change: Callable[[Wire], None], greeting: Sequence[Command]
) -> tuple[Wire, list[Any]]:
    loop = asyncio.get_running_loop()
    wire = Wire(on_change, node)
    try:
        async with asyncio.timeout(settings.connect_timeout.total_seconds()) as deadline:
            await _connect(loop, node, settings, wire)
            call = Call(greeting, deadline.when() or 0.0)
            call.begin(loop.create_future())
            wire.send([call], loop.time())
            answers = await call.answer
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
    return wire, answers


async def _connect(loop: asyncio.AbstractEventLoop, node: Node, settings: RedisSettings, wire: Wire) -> None:
    if not node.port:
        await loop.create_unix_connection(lambda: wire, node.host)
        return
    # Read from the disk at each connection: the certificates of the system may be renewed while we run.
    encryption = await asyncio.to_thread(ssl.create_default_context) if settings.tls else None
    transport, _ = await loop.create_connection(lambda: wire, node.host, node.port, ssl=encryption)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
