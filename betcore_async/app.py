"""Betcore: the whole toolkit, opened in order and closed in reverse."""

import contextlib
from types import TracebackType
from typing import Self

from betcore_async.clock import Clock, system_clock
from betcore_async.config import Settings
from betcore_async.errors import BetcoreError
from betcore_async.health import Health, Stats
from betcore_async.partitions import AutoRotation, PartitionManager
from betcore_async.redis import PriceCache, PubSubHub, RedisClient
from betcore_async.relay import OutboxRelay
from betcore_async.stores import BetStore, LedgerStore, SQLiteLedger, UserStore


class Betcore:
    """Users, bets, ledger, partitions, prices and messages behind one `async with`; one per event loop.

        async with Betcore() as core:
            user = await core.users.create("0xabc", opening_balance=10_000)
            bet = await core.bets.place(user.id, "BTC-USD:46300-46400", amount=500, reward_rate=1.9)

    `settings` default to `Settings()`, the environment. `clock` says what time it is, for tests and replays.
    """

    users: UserStore
    bets: BetStore
    ledger: LedgerStore

    def __init__(self, settings: Settings | None = None, *, clock: Clock = system_clock) -> None:
        self.settings = Settings() if settings is None else settings
        self.partitions = PartitionManager(self.settings.db, self.settings.partitions, clock=clock)
        self._auto_rotation = AutoRotation(self.partitions, clock)
        self.redis = RedisClient(self.settings.redis)
        self.hub = PubSubHub(self.redis)
        self.prices = PriceCache(self.redis, self.settings.prices, clock=clock, hub=self.hub)
        engine = SQLiteLedger(self.partitions, clock)
        self.users, self.bets, self.ledger = UserStore(engine), BetStore(engine), LedgerStore(engine)
        self.relay = OutboxRelay(self.partitions, self.hub) if self.settings.events.enabled else None
        self._opened: contextlib.AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        """Discover and migrate the weekly files, open the live one, reach Redis; begin what runs behind.

        Raises MigrationError, PartitionError, DatabaseError, RedisUnavailableError; nothing stays open then.
        """
        if self._opened is not None:
            raise BetcoreError("this Betcore is open already; one per event loop is enough")
        async with contextlib.AsyncExitStack() as opening:
            for part in (self.partitions, self.redis, self.hub):
                await opening.enter_async_context(part)
            if self.settings.partitions.auto_rotate:
                await opening.enter_async_context(self._auto_rotation)
            if self.relay is not None:
                await opening.enter_async_context(self.relay)
            self._opened = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()

    async def health(self) -> Health:
        """Ask every part whether it answers; never raises for one that does not."""
        return Health(database=await self.partitions.health(), redis=await self.redis.health())

    def stats(self) -> Stats:
        """Return the counters of every part as they are now."""
        relay = None if self.relay is None else self.relay.stats()
        return Stats(database=self.partitions.stats(), redis=self.redis.stats(), hub=self.hub.stats(), relay=relay)
