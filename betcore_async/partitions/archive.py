"""PartitionArchive: sealed weeks go to an archive and come back; the manager's part between reading and writing."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

from betcore_async.clock import Clock, to_microseconds
from betcore_async.config import DatabaseSettings, PartitionSettings
from betcore_async.errors import (
    BusyTimeoutError,
    PartitionDamagedError,
    PartitionError,
    PartitionMissingError,
)
from betcore_async.partitions.archive_manifest import Manifest
from betcore_async.partitions.archive_steps import (
    REPEATS,
    Work,
    bring_back,
    problems_of,
    put_away,
    put_in_place,
    take_away,
)
from betcore_async.partitions.archive_store import ArchiveStore
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.files import ARCHIVE
from betcore_async.partitions.handles import Identity
from betcore_async.partitions.info import PartitionInfo, describe
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.plan import Catalog, live_week
from betcore_async.partitions.rotation import make_whole
from betcore_async.partitions.router import PartitionRouter
from betcore_async.partitions.scanner import Scanner
from betcore_async.partitions.week import Week
from betcore_async.sqlite.migrations import Migrator
from betcore_async.tasks import finish, in_thread

T = TypeVar("T")

# One that does not say when is left to `archive`, which tells it as damaged.
_SEALED_AT = "SELECT coalesce(sealed_at, starts_at) FROM {schema}.partition_meta WHERE id = 1"


class ArchiveProgress(NamedTuple):
    """How far archiving, restoring or verifying a week has come."""

    stage: str
    """`check`, `compare`, `compress`, `read back` or `restore`."""
    done: int
    """Bytes of this stage that are done."""
    total: int


OnProgress = Callable[[ArchiveProgress], None]


@dataclass(frozen=True, slots=True)
class ArchiveInfo:
    """A week in the archive."""

    week: Week
    location: str
    """Where the archive is."""
    object: str
    """Key of the compressed file, within the archive."""
    size: int
    """Bytes of the file."""
    archived_size: int
    """Bytes it takes in the archive."""
    sha256: str
    """Of the file."""
    schema_version: int
    performed: bool
    """False when the week was archived already."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a look at a week in the archive found."""

    week: Week
    location: str
    problems: tuple[str, ...]
    size: int
    """Bytes of the file that was read, decompressed and compared; 0 where there are problems."""

    @property
    def ok(self) -> bool:
        return not self.problems


class PartitionArchive(PartitionRouter):
    """The archiving part of the PartitionManager."""

    def __init__(
        self, database: DatabaseSettings, settings: PartitionSettings, clock: Clock, migrator: Migrator
    ) -> None:
        super().__init__(database, migrator)
        self._settings = settings
        self._clock = clock
        url = settings.archive_url
        # The process may change its working directory.
        self._archive_url = url if url is None or "://" in url else str(Path(url).absolute())
        self._archive_turn = asyncio.Lock()

    async def archive(self, week: Week | str, *, on_progress: OnProgress | None = None) -> ArchiveInfo:
        """Move a sealed week to the archive: compressed, read back and proven there, then removed here.

        Queries that reach it raise PartitionArchivedError from then on; until then they read it. Cancelled, killed or
        refused anywhere, the week is still here, and archiving it again goes on. Raises PartitionError for the live
        week, one that was sealed too short ago (ids in it may still be repeated) and one that is in use,
        PartitionMissingError, PartitionDamagedError, ArchiveError, BusyTimeoutError while another process archives.
        """
        week = Week.parse(week)
        async with self._archiving():
            entry = self._known(week)
            if entry.archived is not None:
                return _told(entry.archived, performed=False)
            self._insist_sealed(entry)
            await self._opened().calm(week)
            if not await make_whole(entry.path, self._database.busy_timeout):
                raise PartitionError(
                    f"another process still reads {entry.path} from its -wal; archive it again in a while", week=week
                )
            live, now = live_week(self._catalog), to_microseconds(self._clock())
            manifest, seen = await self._work(lambda work: put_away(work, entry, live, now), on_progress)
            await finish(self._let_go(entry, manifest, seen))
            return _told(manifest, performed=True)

    def _known(self, week: Week) -> Partition:
        entry = self._catalog.get(week)
        if entry is None:
            raise PartitionMissingError(f"{week} is not here", weeks=(week,))
        return entry

    def _insist_sealed(self, entry: Partition) -> None:
        if entry.state is PartitionState.DAMAGED:
            raise PartitionDamagedError(entry.problem, path=entry.path, reason=entry.problem)
        if entry.state is not PartitionState.SEALED:
            raise PartitionError(f"{entry.week} is {entry.state}; only sealed weeks can be archived", week=entry.week)
        if entry.week in self._elsewhere:
            raise PartitionError(f"{entry.path} is attached from elsewhere and is not moved", week=entry.week)

    async def _let_go(self, entry: Partition, manifest: Manifest, seen: Identity) -> None:
        async with self._family.alone(self._database.busy_timeout):
            await asyncio.to_thread(take_away, self._family, entry, seen, manifest)
        await self._refresh()
        await self._opened().scanners.forget(entry.week)

    async def restore(self, week: Week | str, *, on_progress: OnProgress | None = None) -> PartitionInfo:
        """Bring a week back from the archive, verified, and migrated where its schema is older than this code.

        The archive keeps its copy, so that archiving the week again costs no upload. A week that is here already is
        left as it is. Raises PartitionMissingError for a week that is not in the archive, ArchiveDamagedError for one
        that is not what was put there, PartitionError, MigrationError, ArchiveError, BusyTimeoutError.
        """
        week = Week.parse(week)
        async with self._archiving():
            await self._restore(week, on_progress)
            return await self.scan(lambda scanner, catalog: describe(scanner, catalog[week]))

    async def _restore(self, week: Week, on_progress: OnProgress | None = None) -> None:
        entry = self._catalog.get(week)
        if entry is not None and entry.state in {PartitionState.LIVE, PartitionState.SEALED}:
            return
        if week > live_week(self._catalog):
            raise PartitionError(f"{week} comes after the live week", week=week)
        final = self._family.path_of(week)
        if final.is_symlink() or final.exists():
            raise PartitionError(f"{final} is there; move it away, then restore {week}", week=week, path=final)
        migrations = self._migrator.migrations
        try:
            staging, manifest = await self._work(lambda work: bring_back(work, week, migrations), on_progress)
            await finish(self._take_back(week, staging, manifest))
        finally:
            await finish(self._remove_leftovers())

    async def _take_back(self, week: Week, staging: Path, manifest: Manifest) -> None:
        async with self._family.alone(self._database.busy_timeout):
            await asyncio.to_thread(put_in_place, self._family, staging, manifest)
        self._detached.pop(week, None)
        await self._refresh()

    async def verify(self, week: Week | str, *, on_progress: OnProgress | None = None) -> VerifyReport:
        """Read a week in the archive as a restore would, and say what is wrong with it; changes nothing.

        Raises PartitionMissingError for a week that was never archived, ArchiveError, BusyTimeoutError.
        """
        week = Week.parse(week)
        async with self._archiving():
            location, manifest, problems = await self._work(
                lambda work: (work.store.location, *problems_of(work, week)), on_progress
            )
        return VerifyReport(week, location, tuple(problems), manifest.size if manifest else 0)

    # Retention

    async def weeks_to_archive(self, keep_weeks: int | None = None) -> list[Week]:
        """Return the sealed weeks that are more than `keep_weeks` before the live one, oldest first.

        `keep_weeks` is PARTITIONS_KEEP_WEEKS where it is not given, and there are none where that is not set, either.
        Those that were sealed too short ago to be archived are left out.
        """
        keep = self._settings.keep_weeks if keep_weeks is None else keep_weeks
        if keep is None:
            return []
        if keep < 1:
            raise PartitionError(f"keep_weeks must be at least 1; got {keep}")

        def answer(scanner: Scanner, catalog: Catalog) -> list[Week]:
            live = live_week(catalog)
            age = keep * (live.ends_at - live.starts_at)  # no date: there may not be one so long ago
            old = [
                entry
                for week, entry in catalog.items()
                if entry.state is PartitionState.SEALED
                and live.starts_at - week.starts_at > age
                and week not in self._elsewhere
            ]
            return [entry.week for entry in old if _sealed_at(scanner, entry) + REPEATS <= live.starts_at]

        return await self.scan(answer)

    async def archive_old_weeks(
        self, keep_weeks: int | None = None, *, on_progress: OnProgress | None = None
    ) -> list[ArchiveInfo]:
        """Archive what `weeks_to_archive` names, oldest first. Stops at the first error, and raises it."""
        return [await self.archive(week, on_progress=on_progress) for week in await self.weeks_to_archive(keep_weeks)]

    # Work on threads

    @contextlib.asynccontextmanager
    async def _archiving(self) -> AsyncIterator[None]:
        """Hold the archive lock: one week goes or comes at a time, in all processes; starts with a fresh look."""
        self._opened()
        async with self._archive_turn, self._family.alone(self._database.busy_timeout, ARCHIVE):
            await self._remove_leftovers()
            await self._refresh()
            yield

    async def _tidy_up(self) -> None:
        """Remove what a killed restore left behind, unless one is going on."""
        with contextlib.suppress(BusyTimeoutError):
            async with self._family.alone(timedelta(0), ARCHIVE):
                await self._remove_leftovers()

    async def _remove_leftovers(self) -> None:
        def clean() -> None:
            for path in self._family.restoring_files():
                with contextlib.suppress(OSError):
                    path.unlink()

        await asyncio.to_thread(clean)

    async def _work(self, function: Callable[[Work], T], on_progress: OnProgress | None) -> T:
        """Return `function(work)`, run on a thread; it is stopped when the caller is cancelled."""
        loop = asyncio.get_running_loop()

        def report(stage: str, done: int, total: int) -> None:
            if on_progress is not None:
                loop.call_soon_threadsafe(on_progress, ArchiveProgress(stage, done, total))

        def run(stop: threading.Event) -> T:
            store = ArchiveStore(self._archive_url, self._family.default_archive)
            return function(Work(self._family, store, stop, report))

        return await in_thread(run)

    async def _restore_on_demand(self, weeks: Sequence[Week]) -> bool:
        if not self._settings.restore_on_demand:
            return False
        async with self._archiving():
            for week in weeks:
                await self._restore(week)
        return True


def _sealed_at(scanner: Scanner, entry: Partition) -> int:
    schema = scanner.attach(entry.week, entry.path)
    return int(scanner.link.raw.execute(_SEALED_AT.format(schema=schema)).fetchone()[0])


def _told(manifest: Manifest, *, performed: bool) -> ArchiveInfo:
    return ArchiveInfo(
        week=manifest.week,
        location=manifest.location,
        object=manifest.object,
        size=manifest.size,
        archived_size=manifest.archived_size,
        sha256=manifest.sha256,
        schema_version=manifest.schema_version,
        performed=performed,
    )
