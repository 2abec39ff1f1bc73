"""Kills processes that archive or restore a week, one after the other, and looks after each of them.

archive_worker.py FOLDER SCRATCH WHAT EVERY     WHAT is `archive` or `restore`; a kill at each EVERYth step

This process itself never uses obstore: its runtime does not survive the forks.
"""

import asyncio
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

from killing import Killer  # noqa: E402 - the path comes first
from weekly_files import ALWAYS, Platform, W, names_in, platform  # noqa: E402

from betcore_async.errors import PartitionArchivedError  # noqa: E402
from betcore_async.partitions import archive_store, archive_transfer  # noqa: E402

WEEK, LIVE = W[1], W[5]
CALLS = ("put", "get", "get_range", "head", "list", "delete")


def install(killer: Killer) -> None:
    """Strike before a call to the store, too, and at each piece of a file."""
    import obstore

    killer.install()
    for name in CALLS:
        setattr(obstore, name, killer.watched(getattr(obstore, name)))
    archive_transfer.PIECE = 16 * 1024
    archive_transfer.Digest.add = killer.watched(archive_transfer.Digest.add)  # type: ignore[method-assign]
    archive_store.PART = 5 * 1024 * 1024


async def struck(folder: Path, number: int, what: str) -> None:
    killer = Killer(number)
    install(killer)
    async with platform(folder, LIVE) as it:
        killer.armed = True
        await getattr(it.manager, what)(WEEK)


async def look(it: Platform) -> list[Any]:
    assert (await it.ledger.audit()).ok
    return [
        tuple(row) for row in await it.manager.query("SELECT * FROM bets ORDER BY id", start=ALWAYS[0], end=ALWAYS[1])
    ]


async def repeat(folder: Path, what: str, expected: list[Any]) -> None:
    """Hold what must hold right after the kill, and after doing it again."""
    async with platform(folder, LIVE) as it:
        try:
            assert await look(it) == expected
            here = True
        except PartitionArchivedError as error:
            assert error.weeks == (WEEK,)  # noqa: PT017 - both are right
            here = False
        assert here == it.file(WEEK).exists()
        await getattr(it.manager, what)(WEEK)
        assert it.file(WEEK).exists() == (what == "restore")
        assert (await it.manager.verify(WEEK)).ok
        (manifest, *objects) = sorted((folder / "bets.db-archive" / str(WEEK)).iterdir(), reverse=True)
        assert (manifest.name, len(objects)) == ("manifest.json", 1), objects
        await it.manager.restore(WEEK)
        assert await look(it) == expected
    weeks = {f"bets-{week}.db" for week in W[:6]}
    rest = names_in(folder) - weeks
    assert rest <= {f"bets-{WEEK}.db.archived", "bets.db-archive", "bets.db.figures"}, rest


def in_child(work: Callable[[], Awaitable[None]]) -> int:
    """Return the status of a forked process that did `work`."""
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(work())  # type: ignore[arg-type]
        except BaseException:  # noqa: BLE001 - whatever it is, this copy of the parent must not go on
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


async def contents(folder: Path) -> list[Any]:
    async with platform(folder, LIVE) as it:
        return await look(it)


async def archived(folder: Path) -> None:
    async with platform(folder, LIVE) as it:
        await it.manager.archive(WEEK)


def main(template: str, scratch: str, what: str, every: str) -> None:
    expected = asyncio.run(contents(Path(template)))
    start = Path(scratch) / "start"
    shutil.copytree(template, start)
    if what == "restore" and in_child(lambda: archived(start)) != 0:
        sys.exit("the week could not be archived")
    left = {"here": 0, "archived": 0}
    for kills in itertools.count():
        number = kills * int(every)
        folder = Path(scratch) / str(number)
        shutil.copytree(start, folder)
        status = in_child(lambda: struck(folder, number, what))  # noqa: B023 - run at once
        if status != 0 and (not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL):
            sys.exit(f"the child failed by itself: {status}")
        left["here" if (folder / f"bets-{WEEK}.db").exists() else "archived"] += 1
        if in_child(lambda: repeat(folder, what, expected)) != 0:  # noqa: B023 - run at once
            sys.exit(f"after a kill at step {number}")
        shutil.rmtree(folder)
        if status == 0:
            print(json.dumps({"killed": kills, "left": left, "steps": number}))  # noqa: T201 - what the parent reads
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
