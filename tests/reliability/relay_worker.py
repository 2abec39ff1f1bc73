"""Writes, relays, and is killed at the publication of an event: `relay_worker.py FOLDER URL NTH WHEN`."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from ledger_files import CELL, open_books

from betcore_async.config import RedisSettings
from betcore_async.redis import PubSubHub, RedisClient
from betcore_async.relay import OutboxRelay


class DeadlyHub(PubSubHub):
    """Kills the process before or after its nth publication."""

    left, when = 0, ""

    async def publish(self, channel, message, *, durable=False):
        self.left -= 1
        if self.left == 0 and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        reached = await super().publish(channel, message, durable=durable)
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return reached


async def main(folder, url, nth, when):
    async with (
        open_books(Path(folder)) as books,
        RedisClient(RedisSettings.from_url(url)) as client,
        DeadlyHub(client) as hub,
    ):
        hub.left, hub.when = int(nth), when
        user = await books.users.by_wallet("0xabc")
        for _ in range(5):  # committed, not told: the relay is not there yet
            await books.bets.settle((await books.bets.place(user.id, CELL, 1, 2.0)).id, won=False)
        async with OutboxRelay(books.partitions, hub):
            await asyncio.sleep(60)


asyncio.run(main(*sys.argv[1:]))
