"""Places batches while its disk fails at one page after the other: `disk_worker.py FOLDER USER USER`."""

import asyncio
import json
import resource
import sys
from pathlib import Path

from ledger_files import NOON, WEEK, open_books, path_of
from reliability.crash_points import log_of

from betcore_async.clock import ManualClock
from betcore_async.errors import CommitOutcomeUnknownError
from betcore_async.stores.commands import PlaceBet, PlaceBets

PAGE = 4096 + 24  # with the header that it has in the log


def limit(size: int) -> None:
    """Let no file of this process grow beyond `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def main(folder: str, *users: str) -> None:
    found = {"unknown": 0, "half": []}
    path = path_of(Path(folder), "2026-W48")
    async with open_books(Path(folder), ManualClock(NOON + WEEK)) as books:

        async def total() -> int:
            return sum([await books.ledger.balance(user) for user in users])

        await books.users.deposit(users[0], 1)  # the log is there
        for page in range(100):
            new_id, before = books.engine.new_id, await total()
            batch = PlaceBets(tuple(PlaceBet(new_id(), user, "cell", 1, 1_500_000) for user in users * 2))
            limit(len(log_of(path)) + page * PAGE + PAGE // 2)
            try:
                placed = await books.engine.execute(batch)
            except CommitOutcomeUnknownError:
                limit(resource.RLIM_INFINITY)
                found["unknown"] += 1
                left = before - await total()
                placed = await books.engine.execute(batch)
                if left not in {0, len(batch.bets)} or {bet.replayed for bet in placed} != {left > 0}:
                    found["half"].append([page, left])
            else:
                break  # all of it found room
            finally:
                limit(resource.RLIM_INFINITY)
            if before - await total() != len(batch.bets) or not (await books.ledger.audit()).ok:
                found["half"].append([page, "after the repeat"])
    print(json.dumps(found))  # noqa: T201 - it is what the parent reads


asyncio.run(main(*sys.argv[1:]))
