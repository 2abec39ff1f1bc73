"""Migrations: plain SQL files, applied to a database exactly once, however many processes start at one time."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from functools import cached_property, lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from betcore_async.clock import Clock, system_clock
from betcore_async.config import DatabaseSettings
from betcore_async.errors import DatabaseError, MigrationError, NotBetcoreDatabaseError, StorageFullError
from betcore_async.sqlite.connection import connect, open_raw
from betcore_async.sqlite.looking import open_to_look
from betcore_async.sqlite.migration_files import (
    Migration,
    create_migration,
    is_installed,
    load_migrations,
    shipped_folder,
)
from betcore_async.sqlite.migration_history import check_baseline, read_history
from betcore_async.sqlite.migration_plan import (
    AppliedMigration,
    Direction,
    MigrationStatus,
    PlannedMigration,
    UnfinishedMigration,
    head_of,
    plan_steps,
    status_of,
)
from betcore_async.sqlite.migration_runner import migrate_connection, take_baseline, take_step
from betcore_async.sqlite.retry import error_code, retry_busy
from betcore_async.sqlite.rewrite import is_read_only, rewrite
from betcore_async.sqlite.schema_dump import as_script, check_drift, dump_schema, schema_objects
from betcore_async.tasks import finish

T = TypeVar("T")

__all__ = [
    "AppliedMigration",
    "Migration",
    "MigrationStatus",
    "Migrator",
    "PlannedMigration",
    "UnfinishedMigration",
    "create_migration",
    "is_installed",
    "load_migrations",
    "migrate_connection",
    "shipped_folder",
]


class Migrator:
    """Applies the migrations of a folder to database files.

    `source` is the folder with `NNNN_name.up.sql` and `NNNN_name.down.sql`, by default the one that `settings` name
    (DB_MIGRATIONS), else the one shipped with this library. It is read once, at first use: a deployment that changes
    it does not change a running process. `settings` also say how long to wait for locks (`busy_timeout`).

        await Migrator().up("data/bets-2026-W47.db")

    A sealed file, one without write permission, is changed as a copy that then takes its place.

    Every method refuses a file of something else (NotBetcoreDatabaseError) without touching it, raises the typed error
    of whatever is wrong with the files or the history, BusyTimeoutError when others hold the lock for too long, and
    DatabaseError for a file that cannot be read. Cancelled half-way, the step at hand is undone.
    """

    def __init__(
        self,
        source: str | Path | None = None,
        *,
        settings: DatabaseSettings = DatabaseSettings(),  # noqa: B008 - frozen
        clock: Clock = system_clock,
    ) -> None:
        self.source = Path(source or settings.migrations or shipped_folder())
        self.settings = settings
        self._clock = clock

    @cached_property
    def migrations(self) -> tuple[Migration, ...]:
        """The migrations on disk, by number."""
        return load_migrations(self.source)

    async def up(self, database: str | Path, target: int | None = None) -> list[AppliedMigration]:
        """Apply what is missing up to version `target` (default: the newest) and return the steps this call took.

        A file that does not exist is created. What another process applies at the same time is not among the steps.
        """
        return await self._move(Path(database), "up", lambda _: self._head if target is None else target)

    async def down(self, database: str | Path, steps: int = 1) -> list[AppliedMigration]:
        """Take back the newest `steps` migrations (or all there are, if fewer) and return the steps this call took."""
        if steps < 1:
            raise MigrationError(f"cannot go down by {steps} steps; name at least 1")
        return await self._move(Path(database), "down", lambda current: max(0, current - steps))

    async def goto(self, database: str | Path, version: int) -> list[AppliedMigration]:
        """Go up or down to `version` and return the steps this call took."""
        history = await self._read(Path(database), read_history)
        return await self._move(Path(database), "up" if version > history.version else "down", lambda _: version)

    async def plan(self, database: str | Path, target: int | None = None) -> list[PlannedMigration]:
        """Return the steps from here to version `target` (default: the newest), with their SQL; takes none."""
        history = await self._read(Path(database), read_history)
        return [step.planned for step in plan_steps(history, self.migrations, self._head if target is None else target)]

    async def status(self, database: str | Path) -> MigrationStatus:
        """Return where the database stands. A file that does not exist stands at 0, and is not created."""
        return status_of(str(database), await self._read(Path(database), read_history), self.migrations)

    async def verify(self, database: str | Path) -> MigrationStatus:
        """Return the status when all is well: whole history, unedited files, and the schema the migrations make.

        Raises the typed error of the first thing that is wrong; SchemaDriftError for a schema that was changed by hand.
        """
        path = Path(database)
        _require(path)
        history, found = await self._read(path, lambda raw: (read_history(raw), schema_objects(raw)))
        status = status_of(str(database), history, self.migrations)
        if history.unfinished is None:  # else the schema is between two versions
            wanted = await finish(asyncio.to_thread(schema_at, self.migrations, history.version))
            check_drift(path, wanted, found)
        return status

    async def baseline(self, database: str | Path, version: int) -> MigrationStatus:
        """Record migrations 1 to `version` as applied without running them, and return the status after it.

        For a database whose schema was made in another way, or, at its own version, to accept edited files. What is
        recorded already is left as it is.
        """
        path = Path(database)
        _require(path)
        await self._read(path, lambda connection: check_baseline(connection, self.migrations, version))
        await self._repeat(path, lambda raw: take_baseline(raw, self.migrations, version, clock=self._clock))
        return await self.status(path)

    async def dump(self, database: str | Path) -> str:
        """Return the schema of the database as SQL, normalised so that equal schemas have equal texts."""
        _require(Path(database))
        return await self._read(Path(database), dump_schema)

    async def schema(self, version: int | None = None) -> str:
        """Return the schema that the migrations up to `version` (default: the newest) make, as `dump` would."""
        wanted = self._head if version is None else version
        objects = await finish(asyncio.to_thread(schema_at, self.migrations, wanted))
        return as_script(objects)

    @property
    def _head(self) -> int:
        return head_of(self.migrations)

    async def _move(self, path: Path, direction: Direction, target: Callable[[int], int]) -> list[AppliedMigration]:
        # Looked at read-only first: a foreign file, a refused plan or nothing to do must not touch the file.
        if direction == "down":
            _require(path)
        history = await self._read(path, read_history)
        goal = target(history.version)
        if not plan_steps(history, self.migrations, goal, direction):
            return []

        def step(raw: sqlite3.Connection) -> AppliedMigration | None:
            return take_step(raw, self.migrations, goal, direction, clock=self._clock)

        return await self._repeat(path, step)

    async def _repeat(self, path: Path, step: Callable[[sqlite3.Connection], T | None]) -> list[T]:
        """Call `step` until it returns None and return what it returned before; each call waits out BUSY by itself."""
        if is_read_only(path):
            return await self._patiently(
                path, lambda: rewrite(path.resolve(), lambda raw: list(iter(partial(step, raw), None)))
            )
        link = await connect(path, self.settings)
        returned = []
        try:
            while (result := await self._patiently(path, lambda: link.run(step))) is not None:
                returned.append(result)
        finally:
            await link.close()
        return returned

    async def _read(self, path: Path, function: Callable[[sqlite3.Connection], T]) -> T:
        async def attempt() -> T:
            return await finish(asyncio.to_thread(_read_file, path, function))

        return await self._patiently(path, attempt)

    async def _patiently(self, path: Path, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await retry_busy(attempt, self.settings.busy_timeout, f"migrating {path}")
        except sqlite3.Error as exc:
            raise _translated(exc, path) from exc


@lru_cache(maxsize=8)  # each start asks for it, and each rotation while writers wait: some 10 ms
def schema_at(migrations: tuple[Migration, ...], version: int) -> Mapping[str, str]:
    """Return the SQL of each object, by kind and name, that the migrations up to `version` make."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate_connection(connection, migrations, version)
        return MappingProxyType(schema_objects(connection))


def _require(path: Path) -> None:
    if _size(path) is None:
        raise MigrationError(f"there is no database {path}", path=str(path))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise DatabaseError(f"{path} cannot be read: {exc.strerror}", path=str(path)) from exc


def _read_file(path: Path, function: Callable[[sqlite3.Connection], T]) -> T:
    # An empty database in memory says what a new file would say, without making one.
    with closing(open_to_look(path.absolute()) if _size(path) else sqlite3.connect(":memory:")) as connection:
        try:
            return function(connection)
        except sqlite3.OperationalError as exc:
            if error_code(exc) & 0xFF not in _NEEDS_RECOVERY:
                raise
    # Left behind by a crash: only a connection that may write can bring such a file into order.
    with closing(open_raw(path.absolute(), readonly=False)) as connection:
        return function(connection)


_NEEDS_RECOVERY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}


def _translated(error: sqlite3.Error, path: Path) -> DatabaseError | NotBetcoreDatabaseError:
    code = error_code(error) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return NotBetcoreDatabaseError(f"{path} is not a database; nothing was changed", path=str(path))
    if code == sqlite3.SQLITE_FULL:
        return StorageFullError(f"{path}: the disk is full; the step at hand was undone", path=str(path))
    return DatabaseError(f"{path}: {error}", path=str(path))
