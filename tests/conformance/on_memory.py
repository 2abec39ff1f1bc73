"""The engine in memory, for the conformance tests."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from conformance.memory_ledger import MemoryLedger, World

from betcore_async.clock import ManualClock


@dataclass
class MemoryDeployment:
    world: World = field(default_factory=World)

    @property
    def clock(self) -> ManualClock:
        return self.world.clock

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[MemoryLedger]:
        yield MemoryLedger(self.world)

    async def end_week(self, _: MemoryLedger) -> None:
        self.clock.advance(timedelta(days=7))


@contextlib.asynccontextmanager
async def deployment(folder: Path) -> AsyncIterator[MemoryDeployment]:
    yield MemoryDeployment()
