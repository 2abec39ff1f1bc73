"""What tests of weekly files share: a platform on a clock of its own, a look at the folder from outside."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from betcore_async.clock import ManualClock
from betcore_async.config import DatabaseSettings, PartitionSettings
from betcore_async.partitions import PartitionManager, Week
from betcore_async.partitions.files import Family
from betcore_async.partitions.staging import Staging, Step
from betcore_async.sqlite.migrations import Migrator
from betcore_async.stores import BetStore, LedgerStore, SQLiteLedger, UserStore

W = [Week(f"2026-W{number:02}") for number in range(20, 54)]
"""The weeks of the tests: W[0] is 2026-W20, a Monday in May, W[33] the 53rd week of 2026."""

WEEK = timedelta(days=7)

HEAD = Migrator().migrations[-1].version
"""The newest schema that is shipped."""
NEXT = HEAD + 1
"""The number of a migration of the tests' own, on top of those that are shipped."""
ALWAYS = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))


@dataclass
class Platform:
    """An opened manager with the stores on top."""

    manager: PartitionManager
    clock: ManualClock
    folder: Path

    def __post_init__(self) -> None:
        engine = SQLiteLedger(self.manager, self.clock)
        self.users, self.bets, self.ledger = UserStore(engine), BetStore(engine), LedgerStore(engine)

    def file(self, week: Week) -> Path:
        return self.folder / f"bets-{week}.db"

    def be_impatient(self) -> None:
        """Have what is asked from now on not wait for other processes for long."""
        self.manager._database = self.manager._database.model_copy(update={"busy_timeout": timedelta(seconds=0.05)})

    async def next_week(self, weeks: int = 1) -> None:
        """Move the clock into the week after the live one, an hour past its start, and rotate."""
        week = self.manager.current_week
        for _ in range(weeks):
            week = week.next()
        self.clock.now = week.start + timedelta(hours=1)
        assert (await self.manager.rotate_to_new_week()).performed


def manager_for(
    folder: Path,
    clock: ManualClock,
    migrator: Migrator | None = None,
    *,
    name: str = "bets.db",
    migrate: bool = True,
    **others: Any,
) -> PartitionManager:
    database = DatabaseSettings(path=folder / name, **others)
    return PartitionManager(database, PartitionSettings(migrate_on_open=migrate), clock=clock, migrator=migrator)


@contextlib.asynccontextmanager
async def platform(folder: Path, week: Week = W[0], **others: Any) -> AsyncIterator[Platform]:
    """Open a platform on the files in `folder`, its clock an hour past the start of `week`."""
    clock = ManualClock(week.start + timedelta(hours=1))
    async with manager_for(folder, clock, **others) as manager:
        yield Platform(manager, clock, folder)


def build_successor(folder: Path, week: Week, before: Week, path: Path | None = None) -> Path:
    """Make the file that a rotation from `before` to `week` leaves behind when it is cut before its commit."""
    staging = Staging(Step(Family(folder / "bets.db"), before, week, Migrator().migrations, week.starts_at))
    with contextlib.closing(staging.open()) as raw:
        staging.copy(raw)
        staging.complete(raw)
    return staging.path.replace(path or staging.final)


@contextlib.contextmanager
def direct(path: Path) -> Any:
    """A plain connection to a file, in autocommit."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as raw:
        yield raw


def states(folder: Path) -> dict[str, str]:
    """Return what each weekly file of the family says it is, by week."""
    found = {}
    for path in sorted(folder.glob("bets-*.db")):
        with direct(path) as raw:
            found[path.stem.removeprefix("bets-")] = raw.execute("SELECT state FROM partition_meta").fetchone()[0]
    return found


def live_weeks(folder: Path) -> list[str]:
    """Return the unsealed weeks that nothing precedes, or that their sealed predecessor names: there has to be one."""
    metas = {}
    for path in folder.glob("bets-*.db"):
        with direct(path) as raw:
            week, *rest = raw.execute("SELECT week, state, predecessor, successor FROM partition_meta").fetchone()
            metas[week] = tuple(rest)
    return [
        week
        for week, (state, predecessor, _) in metas.items()
        if state == "live" and (predecessor is None or metas[predecessor][2] == week)
    ]


def names_in(folder: Path) -> set[str]:
    """Return the names of the files in a folder, without lock, figures and what SQLite keeps beside a file in use."""
    return {
        path.name
        for path in folder.iterdir()
        if not path.name.endswith(("-wal", "-shm", "-journal", ".lock", ".figures"))
    }
