"""`betcore redis`: a private Redis-protocol server in the foreground."""

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from betcore_async.cli.output import JsonOption, print_json

if TYPE_CHECKING:
    from betcore_async.redis import EmbeddedRedis

_LOOK = 0.2
"""Seconds between two looks whether parent and server are still there."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PortOption = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0 takes any free one.", metavar="N")
]
BinaryOption = Annotated[
    Path | None,
    typer.Option(
        "--binary", help="A redis-server or valkey-server. Default: that of the extra `embedded`.", metavar="FILE"
    ),
]


def redis(*, port: PortOption = 0, binary: BinaryOption = None, as_json: JsonOption = False) -> None:
    """Run a private Redis-protocol server, and print its URL once it answers.

    It keeps nothing on disk, and ends with Ctrl-C, SIGTERM, or the process that started this command. Status 0 when
    it was asked to end, 2 when it cannot be started or ended by itself.
    """
    from betcore_async.redis import EmbeddedRedis

    asyncio.run(_serve(EmbeddedRedis(binary=binary, port=port), as_json=as_json))


async def _serve(server: "EmbeddedRedis", *, as_json: bool) -> None:
    parent, ended = os.getppid(), asyncio.Event()
    for number in _SIGNALS:  # before the start, so that no moment is left in which a server could be forgotten
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with server:
        if as_json:
            print_json({"url": server.url, "pid": server.pid})
        else:
            print(server.url, flush=True)
        await _until_asked_or_alone(server, parent, ended)


async def _until_asked_or_alone(server: "EmbeddedRedis", parent: int, ended: asyncio.Event) -> None:
    from betcore_async.errors import RedisUnavailableError

    # A look now and then, because only Linux tells of a parent's end, and then by SIGKILL without any clearing up.
    while not ended.is_set() and os.getppid() == parent:
        if server.pid is None:
            raise RedisUnavailableError("the server ended by itself", address=server.url)
        try:
            async with asyncio.timeout(_LOOK):
                await ended.wait()
        except TimeoutError:
            continue
