"""What tests of users, bets and the ledger share: a family of weekly files with the stores over it, and raw access."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from betcore_async.clock import Clock, ManualClock
from betcore_async.config import DatabaseSettings
from betcore_async.ids import IdGenerator
from betcore_async.partitions import PartitionManager
from betcore_async.stores import BetStore, LedgerStore, SQLiteLedger, UserStore

WEEK = timedelta(days=7)
NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)  # a Wednesday, in 2026-W47
CELL = "BTC-USD:46300-46400"


@dataclass
class Books:
    """One process's view of a family of weekly files."""

    partitions: PartitionManager
    engine: SQLiteLedger
    users: UserStore
    bets: BetStore
    ledger: LedgerStore
    clock: Clock
    folder: Path

    async def next_week(self) -> None:
        """Move a ManualClock to the same moment of the next week, and rotate."""
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(WEEK)
        await self.partitions.rotate_to_new_week()

    async def assert_audit_is_clean(self) -> None:
        report = await self.ledger.audit()
        assert not report.violations, report.violations
        assert report.counts["money_in"] == report.counts["money_out"]


def path_of(folder: Path, week: str) -> Path:
    return folder / f"bets-{week}.db"


@contextlib.asynccontextmanager
async def open_books(folder: Path, clock: Clock | None = None, **database: object) -> AsyncIterator[Books]:
    """Open the family in `folder`, made when it is not there, with a clock that stands still."""
    clock = clock or ManualClock(NOON)
    settings = DatabaseSettings(path=folder / "bets.db", **({"max_open_conns": 3, "max_idle_conns": 1} | database))
    async with PartitionManager(settings, clock=clock) as partitions:
        engine = SQLiteLedger(partitions, clock)
        yield Books(partitions, engine, UserStore(engine), BetStore(engine), LedgerStore(engine), clock, folder)


def id_born(moment: datetime) -> str:
    """Return a UUIDv7 that carries `moment`."""
    return IdGenerator(ManualClock(moment))()


@contextlib.contextmanager
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that nobody guards: no triggers, no constraints, no foreign keys. For planting faults."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as raw:
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute("BEGIN IMMEDIATE")
        for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {name}")
        yield raw
        raw.execute("COMMIT")
    path.chmod(mode)
