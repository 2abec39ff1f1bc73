"""`betcore relay`: tell subscribers what happened, in a process of its own."""

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from betcore_async.config import Settings

OffOption = Annotated[
    bool, typer.Option("--off", help="Tell nothing any more: what was not told yet is forgotten. Then end.")
]


def relay(off: OffOption = False) -> None:
    """Publish the events of the ledger to Redis until SIGINT or SIGTERM; stands by while another relay does."""
    from betcore_async.config import Settings
    from betcore_async.logs import configure_logging

    settings = Settings()
    configure_logging(settings.log)
    asyncio.run(_turn_off(settings) if off else _relay(settings))


async def _turn_off(settings: "Settings") -> None:
    from betcore_async.cli.partition_work import opened
    from betcore_async.stores import outbox

    async with opened(settings) as partitions:
        await partitions.write(outbox.turn_off)


async def _relay(settings: "Settings") -> None:
    from betcore_async.partitions import PartitionManager
    from betcore_async.redis import PubSubHub, RedisClient
    from betcore_async.relay import OutboxRelay

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as opened:
        partitions = await opened.enter_async_context(PartitionManager(settings.db, settings.partitions))
        client = await opened.enter_async_context(RedisClient(settings.redis))
        hub = await opened.enter_async_context(PubSubHub(client))
        await opened.enter_async_context(OutboxRelay(partitions, hub))
        await stop.wait()
