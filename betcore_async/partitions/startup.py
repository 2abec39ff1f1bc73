"""What happens to the folder when a family of weekly files is opened, under the folder's lock."""

from collections.abc import Iterable

from betcore_async.errors import DatabaseError, MigrationError, PartitionDamagedError
from betcore_async.partitions.catalog import Discovery, Partition, ask, clean, discover
from betcore_async.partitions.files import ROTATION, Family, publish
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.migrating import move_each, other_version
from betcore_async.partitions.rotation import finalize
from betcore_async.partitions.staging import build_first
from betcore_async.partitions.week import Week
from betcore_async.sqlite.migration_files import Migration
from betcore_async.sqlite.migrations import Migrator, schema_at
from betcore_async.sqlite.schema_dump import schema_objects


def put_in_order(family: Family, migrations: tuple[Migration, ...], first_week: Week, now: int) -> Discovery:
    """Find the weekly files, clean up after crashes, and make the first file where there is none. Synchronous."""
    head = migrations[-1].version
    discovery = discover(family, head)
    try:
        with family.claim(ROTATION) as nobody_rotates:
            clean(family, discovery, staging=nobody_rotates)
        if discovery.live is None:
            staging = family.new_staging(first_week)
            build_first(staging, first_week, migrations, now)
            publish(staging, family.path_of(first_week))
            discovery = discover(family, head)
    except OSError as error:
        raise DatabaseError(f"cannot use the folder {family.folder}: {error.strerror}", path=family.folder) from error
    for partition in discovery.partitions.values():
        if partition.state is PartitionState.SEALED:
            finalize(partition.path)
    return discovery


def refuse_foreign_code(partitions: Iterable[Partition], migrations: tuple[Migration, ...]) -> None:
    """Raise PartitionDamagedError where the live file has triggers or views that its migrations do not make.

    Whatever is written would run them. Files that are only read cannot run any.
    """
    for entry in partitions:
        if entry.state is PartitionState.LIVE:
            own = schema_at(migrations, entry.schema_version)
            found = ask(entry.path, schema_objects)
            code = {name: sql for name, sql in found.items() if name.startswith(("trigger ", "view "))}
            if foreign := ", ".join(name for name, sql in code.items() if own.get(name) != sql):
                raise PartitionDamagedError(
                    f"{entry.path} has code that no migration made, and that each write would run: {foreign}; look who "
                    "put it there, and drop it or bring back the file",
                    path=entry.path,
                    reason="foreign code",
                )


async def migrate(partitions: Iterable[Partition], migrator: Migrator, *, allowed: bool) -> bool:
    """Bring files to the newest schema; tells whether any was not there.

    A sealed file that stays behind is set aside: queries that reach it say so. The live one has to come along: raises
    what kept it, or MigrationError where migrating is not `allowed`.
    """
    head = migrator.migrations[-1].version
    here = (entry for entry in partitions if entry.state in {PartitionState.LIVE, PartitionState.SEALED})
    old = [entry for entry in here if entry.schema_version != head]
    if allowed:
        for result in await move_each(old, migrator, migrator.up):
            if result.error is not None and result.state is PartitionState.LIVE:
                raise result.error
    elif live := next((entry for entry in old if entry.state is PartitionState.LIVE), None):
        raise MigrationError(other_version(live, head), path=live.path)
    return bool(old)
