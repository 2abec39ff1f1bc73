"""What happens to the folder when a family of weekly files is opened. Synchronous; under the family's lock."""

from collections.abc import Callable

from betcore_async.errors import DatabaseError
from betcore_async.partitions.catalog import Discovery, clean, discover
from betcore_async.partitions.files import Family, publish
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.rotation import build, finalize
from betcore_async.partitions.week import Week
from betcore_async.sqlite.migration_files import Migration


def put_in_order(
    family: Family,
    migrations: tuple[Migration, ...],
    first_week: Week,
    now: int,
    new_id: Callable[[], str],
) -> Discovery:
    """Find the weekly files, clean up after crashes, and make the first file where there is none."""
    head = migrations[-1].version
    discovery = discover(family, head)
    try:
        clean(family, discovery)
        if discovery.live is None:
            staging = family.new_staging(first_week)
            build(staging, first_week, migrations, now, new_id=new_id)
            publish(staging, family.path_of(first_week))
            discovery = discover(family, head)
    except OSError as error:
        raise DatabaseError(f"cannot use the folder {family.folder}: {error.strerror}", path=family.folder) from error
    for partition in discovery.partitions.values():
        if partition.state is PartitionState.SEALED:
            finalize(partition.path)
    return discovery
