"""One run of the demonstration, from an empty folder (or an interrupted run) to its summary."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from betcore_async.app import Betcore
from betcore_async.clock import ManualClock
from betcore_async.config import PriceSettings, RedisSettings, Settings
from betcore_async.demo.cells import Cell, window_length
from betcore_async.demo.feed import FeedFacts
from betcore_async.demo.folder import DataFolder, RunTerms, chosen_folder, private_folder
from betcore_async.demo.histories import Histories, read_histories
from betcore_async.demo.pace import Pace
from betcore_async.demo.players import Desk, seat_users
from betcore_async.demo.replay import Replay
from betcore_async.demo.settlement import SettlementWorker
from betcore_async.demo.summary import DemoSummary, Timing, Verdict, peak_memory
from betcore_async.demo.tally import Tally
from betcore_async.demo.trace import Trace
from betcore_async.errors import LedgerError, RedisError
from betcore_async.models import PricePoint
from betcore_async.partitions import Week
from betcore_async.redis import EmbeddedRedis, RedisClient
from betcore_async.redis.buffers import Policy
from betcore_async.tasks import all_of, finish, task_group

_DESKS: tuple[Policy, ...] = ("latest", "drop_oldest", "latest", "drop_oldest", "latest", "drop_oldest")
"""The live subscribers among whom the users are divided, by what becomes of ticks they are too slow for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    facts: FeedFacts
    ticks: Callable[[], Iterator[PricePoint]]  # reads the feed anew
    settings: Settings
    users: int = 200
    seed: int = 1
    redis: RedisSettings | None = None  # None: a private server for this run
    data: Path | None = None  # None: a private folder
    keep: bool = False  # the private folder


class Demo:
    """Runs a plan. `tally` can be watched meanwhile; setting `stop` ends the replay early and cleanly."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tally = Tally(plan.facts.ticks)
        self.trace = Trace(plan.facts)
        self.stop = asyncio.Event()
        self._clock = ManualClock(plan.facts.first)

    async def run(self) -> DemoSummary:
        """Return the summary, once bets in flight are finished and the audit is done.

        Raises ConfigError for a data folder that cannot be used and RedisUnavailableError for a server that is not
        there, both before anything is written; LedgerError when an interrupted run does not pass its audit.
        """
        plan = self.plan
        terms = RunTerms(plan.facts.fingerprint, plan.users, plan.seed)
        async with _server(plan.redis) as redis:
            with chosen_folder(plan.data, terms) if plan.data else private_folder(terms, keep=plan.keep) as folder:
                found = await self._run_in(folder, redis)
                complete = self.tally.last == plan.facts.last
                if complete:
                    folder.finish()
        # Only now, that the private server has ended, is the memory it took known.
        return self._summary(found, folder, complete=complete)

    async def _run_in(self, folder: DataFolder, redis: RedisSettings) -> "_Found":
        parts = {
            "db": self.plan.settings.db.model_copy(update={"path": folder.database}),
            "partitions": self.plan.settings.partitions.model_copy(update={"auto_rotate": False}),  # weeks pass at will
            "redis": redis,
            "prices": PriceSettings(key_prefix=folder.run),  # on a server of the user's own others may live, too
        }
        async with Betcore(self.plan.settings.model_copy(update=parts), clock=self._clock) as betcore:
            try:
                users = await seat_users(betcore, self.plan.users)
                start, cells = self.plan.facts.first, set[Cell]()
                if folder.resumed:
                    start, cells = await self._pick_up(betcore, users)
                await self._replay(betcore, users, start, cells, f"{folder.run}:placed")
                return await self._reckon(betcore, users)
            finally:
                if self.plan.redis is not None:
                    await finish(_clear(betcore.redis, folder.run))

    async def _pick_up(self, betcore: Betcore, users: list[str]) -> tuple[datetime, set[Cell]]:
        """Audit an interrupted run; return how far it came in feed time, and the cells that still have open bets."""
        self.tally.stage = "picking up an interrupted run"
        audit = Verdict.of(await betcore.ledger.audit())
        if not audit.ok:
            raise LedgerError(f"the interrupted run does not pass its audit: {audit.violations[0]}", audit=audit)
        histories = await read_histories(betcore, users, self.plan.facts, self.tally.query)
        self.tally.bets_of = dict(histories.bets_of)
        changed = [user.updated_at for user in await all_of(betcore.users.get(user) for user in users)]
        # A bet that loses changes no user, but its cell is closed: nobody may bet in the time before its window.
        reached = max(self.plan.facts.first, betcore.partitions.current_week.start, histories.settled_until, *changed)
        self._clock.now = reached
        return reached, histories.open_cells

    async def _replay(self, betcore: Betcore, users: list[str], start: datetime, cells: set[Cell], placed: str) -> None:
        """Replay the feed to users who bet from `start` on; bets on `cells` are open from an earlier run."""
        plan, tally, pace = self.plan, self.tally, Pace()
        settlement = SettlementWorker(betcore, plan.facts.symbols, tally, self.trace)
        for cell in cells:
            settlement.watch(cell)
        desks = [
            Desk(betcore, plan.facts, users[place :: len(_DESKS)], name=f"desk {place}", seed=plan.seed, start=start)
            for place in range(len(_DESKS))
        ]
        for name in (settlement.name, *(desk.name for desk in desks)):
            pace.join(name)
        # The windows of cells that are still open are replayed again: a private server has forgotten their prices.
        again = min([start, *(cell.start for cell in cells)])
        ticks = (tick for tick in plan.ticks() if tick.at >= again)
        async with task_group() as group:
            tasks = [group.create_task(settlement.work(placed, pace))]
            for desk, policy in zip(desks, _DESKS, strict=True):
                tasks.append(group.create_task(desk.play(policy, placed, pace, tally)))
            tally.stage = "replaying"
            tally.start()
            replay = Replay(betcore, self._clock, pace, tally, self.trace)
            await replay.run(ticks, window_length(plan.facts.interval), group, self.stop)
            tally.end()
            # Everybody is done with every tick and nothing is in flight: nothing is cut off here.
            for task in tasks:
                task.cancel()
        if settlement.missed_messages and tally.last is not None:
            for cell in (await read_histories(betcore, users, plan.facts, tally.query)).open_cells:
                settlement.watch(cell)
            await settlement.settle_until(tally.last)

    async def _reckon(self, betcore: Betcore, users: list[str]) -> "_Found":
        self.tally.stage = "querying all weeks"
        histories = await read_histories(betcore, users, self.plan.facts, self.tally.query)
        known = tuple(info.week for info in await betcore.partitions.partitions())
        self.trace.latencies = self.tally.latencies
        self.trace.balances = await all_of(betcore.ledger.balance(user) for user in users)
        self.tally.stage = "auditing"
        return _Found(histories, known, Verdict.of(await betcore.ledger.audit()))

    def _summary(self, found: "_Found", folder: DataFolder, *, complete: bool) -> DemoSummary:
        tally, plan = self.tally, self.plan
        return DemoSummary(
            feed=plan.facts.source,
            first=tally.first,
            last=tally.last,
            complete=complete,
            resumed=folder.resumed,
            users=plan.users,
            ticks=tally.ticks,
            ticks_settled=tally.ticks_settled,
            live_deliveries=tally.live_deliveries,
            bets=tally.bets,
            refused=tally.refused,
            settlements=tally.settlements,
            rotations=tally.rotations,
            weeks=found.histories.weeks(found.weeks),
            lost_bets=found.histories.missing(tally.bets_of),
            doubled_bets=found.histories.doubled,
            elapsed=round(tally.elapsed, 3),
            timings={name: Timing.of(latencies) for name, latencies in tally.latencies.items()},
            audit=found.audit,
            peak_memory=peak_memory(),
            data=str(folder.path) if plan.data or plan.keep else None,
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """What was read back at the end."""

    histories: Histories
    weeks: tuple[Week, ...]
    audit: Verdict


@contextlib.asynccontextmanager
async def _server(given: RedisSettings | None) -> AsyncIterator[RedisSettings]:
    if given is None:
        async with EmbeddedRedis() as server:
            yield RedisSettings.from_url(server.url)
    else:
        async with RedisClient(given):  # raises where there is no server, before a folder is made
            pass
        yield given


async def _clear(redis: RedisClient, prefix: str) -> None:
    """Remove the keys of this run from a server that is the user's own, if it still answers."""
    with contextlib.suppress(RedisError):
        cursor = 0
        while True:
            cursor, keys = await redis.execute("SCAN", cursor, "MATCH", f"{prefix}:*", "COUNT", 1000)
            await redis.delete(*keys)
            if int(cursor) == 0:
                return
