"""Settles the big cell and says what it came to: `cell_worker.py FOLDER CHUNK`. Killed by its parent before that."""

import asyncio
import sys
from pathlib import Path

from ledger_files import CELL, NOON, WEEK, open_books

from betcore_async.clock import ManualClock
from betcore_async.stores import bets as bets_module


async def main(folder: str, chunk: str) -> None:
    bets_module.CHUNK = int(chunk)
    async with open_books(Path(folder), ManualClock(NOON + WEEK)) as books:
        print("ready", flush=True)  # noqa: T201 - it is what the parent reads
        settled = await books.bets.settle_cell(CELL, True)
        print(settled.bets, settled.payout, flush=True)  # noqa: T201


asyncio.run(main(*sys.argv[1:]))
