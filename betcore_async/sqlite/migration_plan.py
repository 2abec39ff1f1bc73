"""Which migration comes next: what the files offer, set against what a database says was applied. Touches neither."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from betcore_async.errors import (
    MigrationDownMissingError,
    MigrationEditedError,
    MigrationError,
    MigrationGapError,
    MigrationMissingError,
    SchemaTooNewError,
)
from betcore_async.sqlite.migration_files import Migration, Script

Direction = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """A migration that was run: one row of the history, or one step that was just done."""

    version: int
    name: str
    direction: Direction
    path: str
    """The script that was run."""
    applied_at: datetime
    """UTC; for a step down, when it was taken back."""
    duration_ms: int


@dataclass(frozen=True, slots=True)
class PlannedMigration:
    """A step that has not been taken yet."""

    version: int
    name: str
    direction: Direction
    path: str
    sql: str


@dataclass(frozen=True, slots=True)
class UnfinishedMigration:
    """A `no-transaction` migration that was begun and not ended: it was cut off, or is being run right now."""

    version: int
    direction: Direction
    statements_done: int
    checksum: str
    """SHA-256 of the statements that were done. The others may still be edited: one of them may be the culprit."""
    started_at: datetime


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """Where a database stands."""

    path: str
    """The database."""
    current: int
    """Version of its schema; 0 before the first migration."""
    head: int
    """Newest version there is a file for."""
    applied: tuple[AppliedMigration, ...]
    pending: tuple[PlannedMigration, ...]
    unfinished: UnfinishedMigration | None

    @property
    def up_to_date(self) -> bool:
        return not self.pending and self.unfinished is None


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """A row of `schema_migrations`."""

    version: int
    name: str
    checksum: str
    applied_at: datetime
    duration_ms: int


@dataclass(frozen=True, slots=True)
class History:
    """What a database says about itself."""

    rows: tuple[HistoryRow, ...] = ()
    unfinished: UnfinishedMigration | None = None
    path: str = "a new database"
    """The database."""

    @property
    def version(self) -> int:
        return self.rows[-1].version if self.rows else 0


@dataclass(frozen=True, slots=True)
class Step:
    """One migration to run in one direction."""

    migration: Migration
    direction: Direction
    script: Script

    @property
    def planned(self) -> PlannedMigration:
        return PlannedMigration(
            self.migration.version, self.migration.name, self.direction, self.script.path, self.script.text
        )


def head_of(migrations: tuple[Migration, ...]) -> int:
    """Return the newest version of `migrations`, 0 when there is none."""
    return migrations[-1].version if migrations else 0


def check_history(history: History, migrations: tuple[Migration, ...]) -> None:
    """Raise the typed error of the first thing that keeps `migrations` from being the story of this database.

    SchemaTooNewError, MigrationMissingError, MigrationEditedError, MigrationGapError.
    """
    on_disk = {migration.version: migration for migration in migrations}
    head = head_of(migrations)
    if history.version > head:
        raise _too_new(history, history.version, head)
    for row in history.rows:
        migration = on_disk.get(row.version)
        if migration is None:
            file = f"{row.version:04d}_{row.name}.up.sql"
            raise MigrationMissingError(
                f"{file} was applied to {history.path}, but it is gone; put it back",
                version=row.version,
                name=row.name,
                path=file,
                database=history.path,
            )
        if not migration.matches(row.checksum):
            raise MigrationEditedError(
                f"{migration.up.path} or its .down.sql was edited after it was applied to {history.path}; "
                "put the old text back and write the change as a new migration (or accept it with a baseline)",
                version=row.version,
                path=migration.up.path,
                database=history.path,
            )
    _check_dense(
        [
            (row.version, history.path, f"{row.version:04d}_{row.name} was applied to {history.path}")
            for row in history.rows
        ],
        "was never applied",
    )
    files = [(migration.version, migration.up.path, f"there is {migration.up.path}") for migration in migrations]
    _check_dense(files, "has no file; numbers go up by one")


def plan_steps(
    history: History, migrations: tuple[Migration, ...], target: int, direction: Direction | None = None
) -> list[Step]:
    """Return the steps from where `history` ends to version `target`, only those in `direction` where one is given.

    A migration that was cut off is the first step. Raises what `check_history` does; MigrationDownMissingError;
    MigrationError for a target there is no file for, or one that leads away from a migration that was cut off.
    """
    check_history(history, migrations)
    if not 0 <= target <= head_of(migrations):
        raise MigrationError(
            f"there is no version {target}; versions go from 0 to {head_of(migrations)}", version=target
        )
    current = history.version
    way: Direction = "up" if target >= current else "down"
    if direction not in {None, way}:
        return []
    _check_unfinished(history, migrations, way)
    if way == "up":
        return [Step(migration, "up", migration.up) for migration in migrations[current:target]]
    return [_step_down(migration) for migration in reversed(migrations[target:current])]


def status_of(path: str, history: History, migrations: tuple[Migration, ...]) -> MigrationStatus:
    """Return what `history` and `migrations` amount to. Raises what `check_history` does."""
    check_history(history, migrations)
    return MigrationStatus(
        path=path,
        current=history.version,
        head=head_of(migrations),
        applied=tuple(
            AppliedMigration(row.version, row.name, "up", migration.up.path, row.applied_at, row.duration_ms)
            for row, migration in zip(history.rows, migrations, strict=False)
        ),
        pending=tuple(Step(migration, "up", migration.up).planned for migration in migrations[history.version :]),
        unfinished=history.unfinished,
    )


def _too_new(history: History, version: int, head: int) -> SchemaTooNewError:
    return SchemaTooNewError(
        f"{history.path} has version {version}, this code knows versions up to {head}; upgrade the code",
        version=version,
        head=head,
        path=history.path,
    )


def _step_down(migration: Migration) -> Step:
    if migration.down is None:
        raise MigrationDownMissingError(
            f"{migration.label} has no .down.sql; without one there is no way back below version {migration.version}",
            version=migration.version,
            path=migration.up.path,
        )
    return Step(migration, "down", migration.down)


def _check_dense(found: list[tuple[int, str, str]], reason: str) -> None:
    for expected, (version, path, text) in enumerate(found, start=1):
        if version != expected:
            raise MigrationGapError(f"{text}, but migration {expected:04d} {reason}", version=expected, path=path)


def _check_unfinished(history: History, migrations: tuple[Migration, ...], direction: Direction) -> None:
    cut = history.unfinished
    if cut is None:
        return
    if cut.version > head_of(migrations):
        raise _too_new(history, cut.version, head_of(migrations))
    if direction != cut.direction:
        raise MigrationError(
            f"migration {cut.version:04d} {cut.direction} was cut off after {cut.statements_done} of its statements; "
            f"go {cut.direction} to finish it first",
            version=cut.version,
            direction=cut.direction,
        )
    migration = migrations[cut.version - 1]
    script = _step_down(migration).script if cut.direction == "down" else migration.up
    if script.transaction or script.checksum_of(cut.statements_done) != cut.checksum:
        raise MigrationEditedError(
            f"{script.path} was cut off after statement {cut.statements_done}, and what was done has been edited "
            "since; put the old text back (later statements may change)",
            version=cut.version,
            path=script.path,
        )
