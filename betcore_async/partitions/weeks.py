"""The weekly files from which one question is answered. Synchronous: used on a scanner's thread, in one hop."""

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime

from betcore_async.partitions import figures
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.figure_cache import FigureCache
from betcore_async.partitions.figures import Figures
from betcore_async.partitions.handles import Handle, identify
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.plan import Catalog, Span, missing_error, plan, timeline
from betcore_async.partitions.scanner import Scanner
from betcore_async.partitions.user_filter import UserFilter
from betcore_async.partitions.week import Week


class Weeks:
    """What a question may look at, and what it had to do without."""

    def __init__(self, scanner: Scanner, catalog: Catalog, cache: FigureCache, *, allow_partial: bool) -> None:
        self.scanner = scanner
        self.catalog = catalog
        self.missing: set[Week] = set()
        """What was done without."""
        self.uncounted: set[Week] = set()
        """Sealed weeks that might have been spared, were they counted."""
        self.counted = False
        """Whether a sealed week was counted for this question."""
        self._allow_partial = allow_partial
        self._cache = cache
        self._counted = cache.known()
        self._known = timeline(catalog)
        self._figures: dict[str, Figures] = {}  # by week

    @property
    def newest(self) -> Partition:
        return self._known.readable[-1]

    def spans(self, start: datetime, end: datetime) -> tuple[Span, ...]:
        """Return what [start, end) reaches, oldest first. Raises PartitionMissingError unless `allow_partial`."""
        reach = plan(self.catalog, start, end, allow_partial=self._allow_partial)
        self.missing.update(reach.missing)
        return reach.spans

    def after(self, home: Week) -> Iterator[Partition]:
        """Yield the files after a week, oldest first. Raises at the first gap between them unless `allow_partial`."""
        gaps = [week for week in self._known.missing if week > home]
        for holder in self._known.readable[self._known.place[home.name] + 1 :]:
            while gaps and gaps[0] < holder.week:
                if not self._allow_partial:
                    raise missing_error(self.catalog, tuple(week for week in gaps if week < holder.week))
                self.missing.add(gaps.pop(0))
            yield holder

    def raw(self, partition: Partition) -> sqlite3.Connection:
        """Return a connection to a file, good until another one is asked for."""
        return self.scanner.handle(partition).raw

    # What a file comes to

    def figures(self, partition: Partition) -> Figures:
        """Return what the bets in a file come to: of a sealed one all, of the live one those that were carried over."""
        found = self._figures.get(partition.week.name)
        if found is None:
            found = self._sealed(partition) if partition.state is PartitionState.SEALED else self._carried(partition)
            self._figures[partition.week.name] = found
        return found

    def promising(self, spans: Sequence[Span], user: int) -> Iterator[tuple[Span, bool]]:
        """Yield the spans in whose weeks the user with that hash may have placed bets, and whether that is known."""
        for span in spans:
            handle = self.scanner.standing_open(span.partition)
            users = (handle and handle.users) or self._users(span.partition, handle)
            if users is None:
                yield span, False
            elif users.may_have(user):
                yield span, True

    def _users(self, partition: Partition, handle: Handle | None) -> UserFilter | None:
        """Return who placed bets in a week, if its file was counted as it is now."""
        counted = self._counted.get(partition.week.name)
        if counted is not None:
            identity, found = counted
            if handle is None and identify(partition.path) == identity:
                return found.users
            if handle is not None and handle.identity == identity:
                handle.users = found.users
                return found.users
            self.scanner.let_go(partition.week)  # finalized since it was opened, or another file by now
        if partition.state is PartitionState.SEALED:
            self.uncounted.add(partition.week)
        return None

    def _sealed(self, partition: Partition) -> Figures:
        identity, known = identify(partition.path), self._cache.known().get(partition.week.name)
        if known is not None and known[0] == identity:
            return known[1]
        if self.scanner.handle(partition).identity != identity:  # finalized since, or another file by now
            self.scanner.let_go(partition.week)
        handle = self.scanner.handle(partition)
        found = figures.count(handle.raw)
        self._cache.put(partition.week, handle.identity, found)
        self.counted = True
        return found

    def _carried(self, partition: Partition) -> Figures:
        handle = self.scanner.handle(partition)
        inode = handle.identity[1]
        last = self._cache.last_carried(partition.path, inode)
        if last is None:
            last = figures.last_carried(handle.raw)
            self._cache.know_last_carried(partition.path, inode, last)
        return figures.count_carried(handle.raw, last)
