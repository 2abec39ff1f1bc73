"""KnownPartitions: which weekly files there are, kept up to date, and how a question gets to them."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from betcore_async.config import DatabaseSettings
from betcore_async.errors import (
    PartitionArchivedError,
    PartitionDamagedError,
    PartitionError,
    PartitionMissingError,
    PoolClosedError,
)
from betcore_async.partitions.catalog import Discovery, Partition, discover, inspect, is_plain, nothing_left
from betcore_async.partitions.files import Family
from betcore_async.partitions.handles import StaleCatalogError
from betcore_async.partitions.info import PartitionInfo, describe
from betcore_async.partitions.lineage import insist_on_same_database
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.migrating import at_version, is_news, move_each
from betcore_async.partitions.plan import Catalog, live_week, timeline
from betcore_async.partitions.reading import Reading
from betcore_async.partitions.rotation import make_whole
from betcore_async.partitions.scanner import Scanner
from betcore_async.partitions.week import Week
from betcore_async.sqlite.migrations import Migrator
from betcore_async.sqlite.retry import retry_busy

T = TypeVar("T")

_STATE = "SELECT state FROM partition_meta WHERE id = 1"


class KnownPartitions:
    """The weekly files that an open manager knows; those of the folder, and those attached from elsewhere."""

    def __init__(self, database: DatabaseSettings, migrator: Migrator) -> None:
        self._database = database
        self._migrator = migrator
        self._family = Family(database.path.absolute())  # the process may change its working directory
        # Replaced as a whole and never changed: scanners look at it from their threads.
        self._catalog: Catalog = {}
        self._elsewhere: dict[Week, Partition] = {}  # attached from outside the folder
        self._detached: dict[Week, Path | None] = {}  # with the file, where it is one of the folder
        self._reading: Reading | None = None

    @property
    def _head(self) -> int:
        return self._migrator.migrations[-1].version

    def _opened(self) -> Reading:
        if self._reading is None:
            raise PoolClosedError("the partitions are not open; use `async with`")
        return self._reading

    # The catalog

    async def partitions(self) -> list[PartitionInfo]:
        """Return every weekly file that is known, oldest first, damaged ones included."""
        return await self.scan(lambda scanner, catalog: [describe(scanner, entry) for entry in catalog.values()])

    async def attach_partition(self, week: Week | str, path: str | Path) -> PartitionInfo:
        """Let queries of this process read the sealed week in the file at `path`, wherever it is.

        A file of an older schema is migrated first. Raises PartitionDamagedError for a file that is not that week, or
        which a week beside it shows to be another database's, PartitionError for a week that is there already or not
        over yet, PartitionMissingError where there is no file, MigrationError and DatabaseError where it cannot be
        migrated.
        """
        week, file, head = Week.parse(week), _existing(path, Week.parse(week)), self._head
        entry = await self._at_desk(lambda: inspect(file, week, head))
        if entry.state is not PartitionState.SEALED:
            reason = entry.problem or f"it is {entry.state}"
            raise PartitionDamagedError(f"{file} cannot be attached as {week}: {reason}", path=file, reason=reason)
        if week in self._catalog and self._catalog[week].state is not PartitionState.ARCHIVED:
            raise PartitionError(f"{week} is there already: {self._catalog[week].path}", week=week)
        if week > live_week(self._catalog):
            raise PartitionError(f"{week} comes after the live week", week=week)
        if entry.schema_version < head:
            (result,) = await move_each([entry], self._migrator, self._migrator.up)
            if result.error is not None:
                raise result.error
            entry = await self._at_desk(lambda: inspect(file, week, head))
        await self._at_desk(lambda: insist_on_same_database(entry, self._catalog))
        self._detached.pop(week, None)
        self._elsewhere[week] = entry
        self._catalog = dict(sorted({**self._catalog, week: entry}.items()))
        return await self.scan(lambda scanner, _: describe(scanner, entry))

    async def detach_partition(self, week: Week | str) -> None:
        """Let go of a sealed week in this process, so that its file may be moved; waits for queries that read it.

        Queries that reach it raise PartitionMissingError from now on. Raises PartitionError for the live week, and
        where another process goes on to read the week from its -wal, without which the file is not whole yet, for
        longer than DB_BUSY_TIMEOUT. Then, and when cancelled, call it again.
        """
        week = Week.parse(week)
        entry = self._catalog.get(week)
        if entry is None and week not in self._detached:
            raise PartitionMissingError(f"{week} is not here", weeks=(week,))
        reading = self._opened()
        if entry is not None:
            if entry.state is PartitionState.LIVE:
                raise PartitionError(f"{week} is the live week and cannot be detached", week=week)
            if entry.state is PartitionState.ARCHIVED:
                raise PartitionError(f"{week} was archived; there is no file to detach", week=week)
            ours = entry.state is PartitionState.SEALED and self._elsewhere.pop(week, None) is None
            self._detached[week] = entry.path if ours else None
            self._catalog = {known: other for known, other in self._catalog.items() if known != week}
        await reading.calm(week)
        file = self._detached.get(week)
        if file is None or not file.exists():
            return
        if not await make_whole(file, self._database.busy_timeout):
            raise PartitionError(
                f"{file} cannot be moved yet: another process still reads it from its -wal; detach it again in a while",
                week=week,
                path=file,
            )

    async def _refresh(self) -> Discovery:
        """Read the catalog anew from the files, so that a rotation of another process is seen."""
        head = self._head
        discovery = await self._at_desk(lambda: discover(self._family, head))
        if discovery.live is None:  # without this, all questions would be answered as if nothing had ever been there
            raise nothing_left(self._family)
        self._elsewhere = {week: entry for week, entry in self._elsewhere.items() if is_plain(entry.path)}
        # A sealed week that was not migrated along, or by a newer release, would be read wrongly.
        found = {week: at_version(entry, head) for week, entry in discovery.partitions.items()}
        here = {week: entry for week, entry in found.items() if week not in self._detached}
        self._catalog = dict(sorted((here | self._elsewhere).items()))
        return discovery

    async def _came_back(self, weeks: Collection[Week]) -> bool:
        """Read the catalog anew where somebody brought files of weeks that could not be read; False for no news."""
        head, place = self._head, self._family.path_of
        known = {week: self._catalog.get(week) for week in weeks if week not in self._detached}

        def any_news() -> bool:
            return any(is_news(entry, place(week), week, head) for week, entry in known.items())

        if not known or not await self._at_desk(any_news):
            return False
        await self._refresh()
        return any(self._catalog.get(week) != entry for week, entry in known.items())

    async def _at_desk(self, work: Callable[[], T]) -> T:
        """Return `work()`, done on the thread for the folder and single files; waits out other processes."""
        desk = self._opened().desk
        return await retry_busy(
            lambda: desk.run(lambda _: work()), self._database.busy_timeout, f"reading {self._family.folder}"
        )

    # Asking the files

    async def scan(self, function: Callable[[Scanner, Catalog], T]) -> T:
        """Return `function(scanner, catalog)`, run on a scanner's thread in one hop, with an up-to-date catalog."""

        def checked(scanner: Scanner) -> T:
            # Looked at here and not before the call stood in line: a week may have been detached meanwhile.
            catalog = self._catalog
            for live in timeline(catalog).live:
                # With this the question's snapshot of the live week is taken.
                if scanner.handle(live).raw.execute(_STATE).fetchone()[0] != PartitionState.LIVE:
                    raise StaleCatalogError  # a rotation, here or in another process, moved on
            return function(scanner, catalog)

        while True:
            try:
                return await self._opened().scanners.run(checked)
            except StaleCatalogError:
                await self._refresh()
            except PartitionMissingError as error:
                if not await self._came_back(error.weeks):
                    raise
            except PartitionArchivedError as error:
                if not (await self._came_back(error.weeks) or await self._restore_on_demand(error.weeks)):
                    raise

    async def _restore_on_demand(self, weeks: Sequence[Week]) -> bool:  # noqa: ARG002 - for who has an archive
        """Bring archived weeks back that a query reaches, if that is wanted; False where it is not."""
        return False


def _existing(path: str | Path, week: Week) -> Path:
    try:
        return Path(path).resolve(strict=True)
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        raise PartitionMissingError(f"there is no file {str(path)[:200]!r}: {error}", weeks=(week,)) from error
