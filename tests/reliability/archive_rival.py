"""A process that archives, restores, verifies and asks, in competition with others, until stdin ends.

archive_rival.py FOLDER USER BETS      BETS: the ids of each week's bets, as JSON; prints what it did, a word each time

What it is told has to be true each time: all bets, or those of the weeks that are here, and which weeks are not.
"""

import asyncio
import json
import random
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from weekly_files import ALWAYS, Platform, W, platform

from betcore_async.errors import PartitionArchivedError
from betcore_async.partitions import Week

GOES, LIVE = W[:3], W[5]


class Rival:
    def __init__(self, it: Platform, user: str, bets: dict[Week, list[str]]) -> None:
        self.it, self.user, self.bets = it, user, bets

    def _but(self, missing: Any = ()) -> list[str]:
        return sorted(bet for week, ids in self.bets.items() if week not in missing for bet in ids)

    async def archive(self) -> None:
        await self.it.manager.archive(random.choice(GOES))

    async def retain(self) -> None:
        await self.it.manager.archive_old_weeks(2)

    async def restore(self) -> None:
        week = random.choice(GOES)
        info = await self.it.manager.restore(week)
        carried = 2 * GOES.index(week)  # two a week stay open
        assert (info.week, info.bets) == (week, len(self.bets[week]) + carried), info

    async def verify(self) -> None:
        report = await self.it.manager.verify(random.choice(GOES))
        assert report.ok, report.problems

    async def query(self) -> None:
        try:
            page = await self.it.manager.query_bets(self.user, *ALWAYS)
        except PartitionArchivedError as error:
            assert error.weeks, error  # noqa: PT017 - both are right
            assert set(error.weeks) <= set(GOES), error.weeks  # noqa: PT017
        else:
            assert sorted(bet.id for bet in page.bets) == self._but()

    async def query_what_is_here(self) -> None:
        page = await self.it.manager.query_bets(self.user, *ALWAYS, allow_partial=True)
        assert sorted(bet.id for bet in page.bets) == self._but(page.missing_weeks), page.missing_weeks
        assert set(page.missing_weeks) <= set(GOES)

    async def add_up(self) -> None:
        totals = await self.it.manager.sum_bets(*ALWAYS, allow_partial=True)
        assert totals.amount == 10 * len(self._but(totals.missing_weeks)), totals

    async def select(self) -> None:
        span = {"start": ALWAYS[0], "end": ALWAYS[1]}
        rows = await self.it.manager.query("SELECT id FROM bets", **span, allow_partial=True)
        assert sorted(row["id"] for row in rows) == self._but(rows.missing_weeks), rows.missing_weeks

    async def stream(self) -> None:
        seen = []
        try:
            async for bet in self.it.manager.iterate_bets(*ALWAYS, chunk=1):
                seen.append(bet.id)  # noqa: PERF401 - what was seen before the error counts, too
        except PartitionArchivedError:
            assert len(seen) == len(set(seen))
            assert set(seen) <= set(self._but())
        else:
            assert sorted(seen) == self._but()

    async def audit(self) -> None:
        report = await self.it.ledger.audit()
        assert report.ok, report.violations


async def main(folder: str, user: str, bets: str) -> None:
    ended = threading.Thread(target=sys.stdin.read, daemon=True)
    ended.start()
    by_week = {Week(week): ids for week, ids in json.loads(bets).items()}
    async with platform(Path(folder), LIVE, busy_timeout=timedelta(seconds=50)) as it:
        rival = Rival(it, user, by_week)
        work = [rival.archive, rival.retain, rival.restore, rival.restore, rival.verify]
        work += [rival.query, rival.query_what_is_here, rival.add_up, rival.select, rival.stream, rival.audit]
        while ended.is_alive():
            one = random.choice(work)
            await one()
            print(one.__name__, flush=True)  # noqa: T201 - what the parent reads


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
