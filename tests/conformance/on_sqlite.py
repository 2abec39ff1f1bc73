"""The engine on weekly SQLite files, for the conformance tests."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from ledger_files import NOON, WEEK, open_books

from betcore_async.clock import ManualClock
from betcore_async.stores import SQLiteLedger


@dataclass
class SQLiteDeployment:
    folder: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOON))
    partitions: dict = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[SQLiteLedger]:
        async with open_books(self.folder, self.clock) as books:
            self.partitions[books.engine] = books.partitions
            yield books.engine

    async def end_week(self, engine: SQLiteLedger) -> None:
        self.clock.advance(WEEK)
        await self.partitions[engine].rotate_to_new_week()


@contextlib.asynccontextmanager
async def deployment(folder: Path) -> AsyncIterator[SQLiteDeployment]:
    yield SQLiteDeployment(folder)
