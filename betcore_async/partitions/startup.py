"""What happens to the folder when a family of weekly files is opened. Synchronous; under the family's lock."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from betcore_async.errors import DatabaseError
from betcore_async.partitions.catalog import Discovery, Partition, clean, discover
from betcore_async.partitions.files import Family, publish
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.rotation import build, finalize
from betcore_async.partitions.week import Week
from betcore_async.sqlite.migration_files import Migration


@dataclass(frozen=True, slots=True)
class Found:
    """The folder, put in order."""

    discovery: Discovery
    removed: list[Path]
    """Leftovers of builds and rotations that were cut."""


def put_in_order(
    family: Family,
    migrations: tuple[Migration, ...],
    first_week: Week,
    now: int,
    new_id: Callable[[], str],
) -> Found | None:
    """Find the weekly files, clean up after crashes, and make the first file where there is none.

    None when another process holds the family's lock (it is starting or rotating): try again in a moment.
    """
    try:
        family.make_folder()
        with family.lock() as held:
            if not held:
                return None
            head = migrations[-1].version
            discovery = discover(family, head)
            removed = clean(family, discovery)
            if discovery.live is None:
                staging = family.new_staging(first_week)
                build(staging, first_week, migrations, now, new_id=new_id)
                publish(staging, family.path_of(first_week))
                discovery = discover(family, head)
            for partition in discovery.partitions.values():
                _finish_sealing(partition)
    except OSError as error:
        raise DatabaseError(f"cannot use the folder {family.folder}: {error.strerror}", path=family.folder) from error
    return Found(discovery, removed)


def _finish_sealing(partition: Partition) -> None:
    if partition.state is PartitionState.SEALED:
        finalize(partition.path)
