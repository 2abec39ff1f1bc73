"""Executes one command and stops before its COMMIT until it is told to go on: `held_worker.py FOLDER KIND TERMS`.

KIND is a command, TERMS its arguments as a JSON list. Prints "reached" there, and what came of it behind.
"""

import asyncio
import json
import sys
from pathlib import Path

from ledger_files import NOON, WEEK, open_books

from betcore_async.clock import ManualClock
from betcore_async.errors import LedgerError
from betcore_async.sqlite.group import GroupCommit
from betcore_async.stores import commands

commit = GroupCommit.commit


def when_told(group: GroupCommit) -> None:
    print("reached", flush=True)  # noqa: T201 - it is what the parent reads
    sys.stdin.readline()
    commit(group)


async def main(folder: str, kind: str, terms: str) -> None:
    async with open_books(Path(folder), ManualClock(NOON + WEEK)) as books:
        GroupCommit.commit = when_told
        try:
            outcome = await books.engine.execute(getattr(commands, kind)(*json.loads(terms)))
        except LedgerError as error:
            outcome = error
        print(repr(outcome), flush=True)  # noqa: T201


asyncio.run(main(*sys.argv[1:]))
