"""OutboxRelay: tells what happened, after it was committed, at least once and in order."""

import asyncio
import random
import sqlite3
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from betcore_async.errors import BetcoreError
from betcore_async.logs import get_logger
from betcore_async.partitions import PartitionManager, PartitionState, Week
from betcore_async.partitions.plan import Catalog, missing_error
from betcore_async.partitions.scanner import Scanner
from betcore_async.redis import PubSubHub
from betcore_async.stores import outbox
from betcore_async.stores.events import channel_of
from betcore_async.stores.outbox import OutboxCursor, Told
from betcore_async.tasks import stop

BATCH = 500
"""Events that are read, published and ticked off together."""

POLL = 0.25
"""Seconds, on average, between two looks for what other processes wrote, and for whether their relay is gone."""

LONGEST_PAUSE = 5.0
"""Seconds between two attempts while Redis, or a file, is away."""


@dataclass(frozen=True, slots=True)
class RelayStats:
    """Counts since `open`, and the state at this moment."""

    leading: bool
    """Whether this relay, of all on these files, is the one that works."""
    relayed: int
    """Events that were published; those that were published again count again."""
    failures: int
    """Attempts that were cut off by an error; they were repeated, or will be."""


class OutboxRelay:
    """Publishes the events of the ledger to `events:user:{id}`, as durable messages of a hub.

        async with OutboxRelay(partitions, hub):
            ...

    Opened for the first time on these weekly files, it makes them tell events from then on. Of all relays on them, in
    all processes, one works; when it is closed or dies, another takes over within a second. An event is published once
    it is committed, at least once (`id` and `sequence` tell a repeat) and, for each user, in order; after a crash, an
    outage of Redis or a rotation, it goes on where it was.
    """

    def __init__(self, partitions: PartitionManager, hub: PubSubHub) -> None:
        self._partitions = partitions
        self._hub = hub
        self._task: asyncio.Task[None] | None = None
        self._leading = False
        self._relayed = self._failures = 0

    async def open(self) -> None:
        """Begin to tell events, and to relay them in the background."""
        if self._task is not None:
            raise BetcoreError("the relay is open already")
        await self._partitions.write(outbox.turn_on)
        self._relayed = self._failures = 0
        self._task = asyncio.create_task(self._run(), name="betcore-relay")

    async def close(self) -> None:
        """Stop; what was not told yet is told by the next relay. May be called again."""
        task, self._task = self._task, None
        await stop(task)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def stats(self) -> RelayStats:
        return RelayStats(self._leading, self._relayed, self._failures)

    async def _run(self) -> None:
        attempts = 0
        while True:
            before = self._relayed
            try:
                with self._partitions.claim("relay") as self._leading:
                    while self._leading:
                        await self._work()
                attempts = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, the relay goes on, and so may another meanwhile
                attempts = 1 if self._relayed > before else attempts + 1
                self._failures += 1
                get_logger("relay").warning("events wait to be told", error=str(error), attempts=attempts)
            finally:
                self._leading = False
            await asyncio.sleep(_jittered(min(POLL * 2**attempts, LONGEST_PAUSE)))

    async def _work(self) -> None:
        """Tell what there is to tell, or wait until there may be more."""
        self._partitions.wrote.clear()
        cursor, told = await self._partitions.read(_events_of_live)
        if cursor is not None and told is None:
            told, upto = await self._partitions.scan(partial(_events_of_sealed, cursor=cursor))
            if not told:
                await self._partitions.write(lambda raw, _: outbox.advance(raw, cursor, upto))
                return
        if cursor is None or not told:
            await self._wait()
            return
        await self._tell(cursor, told)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_jittered(POLL)):
                await self._partitions.wrote.wait()
        except TimeoutError:
            pass  # others may have written

    async def _tell(self, cursor: OutboxCursor, told: list[Told]) -> None:
        """Publish events, of each user one after the other, and tick off those before the first that failed."""
        sent: set[int] = set()
        by_user: dict[str, list[int]] = {}
        for at, (event, _) in enumerate(told):
            by_user.setdefault(event.user_id, []).append(at)

        async def tell_user(numbers: list[int]) -> None:
            for at in numbers:
                event = told[at][0]
                await self._hub.publish(channel_of(event.user_id), event.encode(), durable=True)
                sent.add(at)

        answers = await asyncio.gather(*map(tell_user, by_user.values()), return_exceptions=True)
        self._relayed += len(sent)
        done = next((at for at in range(len(told)) if at not in sent), len(told))
        if done:
            upto = told[done - 1][1]
            await self._partitions.write(lambda raw, _: outbox.advance(raw, cursor, upto))
        for answer in answers:
            if answer is not None:
                raise answer


def _events_of_live(raw: sqlite3.Connection) -> tuple[OutboxCursor | None, list[Told] | None]:
    """Return the cursor and the events behind it; None for them where they lie in an earlier week."""
    cursor = outbox.cursor_of(raw)
    if cursor is None or cursor.week != outbox.week_of(raw):
        return cursor, None
    return cursor, outbox.events_behind(raw, "main", cursor, BATCH)


def _events_of_sealed(scanner: Scanner, catalog: Catalog, *, cursor: OutboxCursor) -> tuple[list[Told], OutboxCursor]:
    """Return the events behind the cursor in a sealed week, and, where there is none, the cursor of the next week.

    Raises PartitionMissingError, PartitionArchivedError for a week that cannot be read: it may hold what is to be told.
    """
    raw, schema = scanner.link.raw, _attached(scanner, catalog, Week(cursor.week))
    told = outbox.events_behind(raw, schema, cursor, BATCH)
    if told:
        return told, cursor
    successor = outbox.successor_of(raw, schema)
    return [], outbox.into_week(raw, _attached(scanner, catalog, Week(successor)), successor, cursor)


def _attached(scanner: Scanner, catalog: Catalog, week: Week) -> str:
    entry = catalog.get(week)
    if entry is None or entry.state not in {PartitionState.LIVE, PartitionState.SEALED}:
        raise missing_error(catalog, (week,), optional=False)
    return scanner.attach(week, entry.path)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - no secret hangs on it
