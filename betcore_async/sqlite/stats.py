"""Counters of one pool. They are kept as plain numbers while it runs and handed out frozen."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import monotonic

GROUP_SIZE_CLASSES = 17
"""Powers of two up to the largest size that settings allow."""


@dataclass(slots=True)
class Tally:
    """What one thread did: it alone adds to it, so that no lock is needed."""

    waited: float = 0.0
    used: float = 0.0
    statements: int = 0

    def add(self, other: "Tally") -> None:
        self.waited += other.waited
        self.used += other.used
        self.statements += other.statements


@dataclass(slots=True)
class Counters:
    """What happened so far; written by the pool's parts, each number by one thread at a time."""

    requests: int = 0
    requests_queued: int = 0
    reads: int = 0
    writes: int = 0
    groups: int = 0
    largest_group: int = 0
    groups_split: int = 0
    group_sizes: list[int] = field(default_factory=lambda: [0] * GROUP_SIZE_CLASSES)
    transactions: int = 0
    commits: int = 0
    busy_retries: int = 0
    interrupts: int = 0
    overruns: int = 0
    cancelled: int = 0
    timeouts: int = 0
    refused: int = 0
    opened: int = 0
    closed: int = 0
    broken: int = 0
    connections_errors: int = 0
    connecting: float = 0.0
    tally: Tally = field(default_factory=Tally)
    """Of the loop, and of connections that are closed."""

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Count a connection that is opened inside the block, and how long that takes."""
        started = monotonic()
        try:
            yield
        except BaseException:
            self.connections_errors += 1
            raise
        else:
            self.opened += 1
        finally:
            self.connecting += monotonic() - started


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A moment in the life of a pool; counts and times run from its opening."""

    readers: int
    """Reader connections that are open."""
    readers_idle: int
    """Of these, the ones with nothing to do."""
    readers_max: int
    """Most readers there may be."""
    requests: int
    """Calls that wanted a connection: reads, writes, transactions, `acquire()`, `iterate()`."""
    requests_queued: int
    """Of these, the ones that found no connection free."""
    requests_waiting: int
    """Calls that wait for a connection now."""
    requests_wait_ms: int
    """Milliseconds all calls together waited until they had a connection."""
    requests_errors: int
    """Calls that never had one: waited too long (`timeouts`), refused (`refused`)."""
    reads_waiting: int
    """Reads, `iterate()` and `acquire()` calls waiting for a reader."""
    writes_waiting: int
    """Writes and transactions waiting for the writer."""
    usage_ms: int
    """Milliseconds all connections together were in use."""
    statements: int
    """SQL statements of the callers; a cursor that is used again counts once, `executemany` as one."""
    reads: int
    """Reads that were answered."""
    writes: int
    """Write functions that were committed by a group commit."""
    groups: int
    """Group commits; `writes / groups` is the mean size of a group."""
    largest_group: int
    """Most write functions that shared one commit."""
    group_sizes: tuple[int, ...]
    """Group commits by size: of 1 write, of 2 to 3, of 4 to 7, of 8 to 15, and so on."""
    groups_split: int
    """Groups that fell as a whole and were run again."""
    transactions: int
    """Interactive transactions that were begun."""
    commits: int
    """Commits, those of groups and those of interactive transactions."""
    busy_retries: int
    """Times another process held the lock and the pool waited."""
    interrupts: int
    """Calls stopped on the thread: their caller was cancelled, or they ran for too long."""
    overruns: int
    """Write functions stopped because they ran longer than DB_WRITE_TIMEOUT."""
    cancelled: int
    """Calls whose caller was cancelled."""
    timeouts: int
    """Calls that waited too long for their turn or for a lock."""
    refused: int
    """Calls refused because the waiting line was full."""
    opened: int
    """Connections opened."""
    closed: int
    """Connections closed."""
    broken: int
    """Of these, the ones given up after an error."""
    connections_ms: int
    """Milliseconds spent opening connections."""
    connections_errors: int
    """Connections that could not be opened."""

    @classmethod
    def of(
        cls, counters: Counters, tallies: Iterable[Tally], *, readers: tuple[int, int, int], waiting: tuple[int, int]
    ) -> "PoolStats":
        """Return the numbers as they are now; `readers` are open, idle, most, `waiting` are reads, writes."""
        total = Tally()
        for tally in (counters.tally, *tallies):
            total.add(tally)
        kept = {name: getattr(counters, name) for name in Counters.__slots__ if name in cls.__slots__}
        return cls(
            **kept | {"group_sizes": tuple(counters.group_sizes)},
            readers=readers[0],
            readers_idle=readers[1],
            readers_max=readers[2],
            reads_waiting=waiting[0],
            writes_waiting=waiting[1],
            requests_waiting=sum(waiting),
            requests_wait_ms=round(1000 * total.waited),
            requests_errors=counters.timeouts + counters.refused,
            usage_ms=round(1000 * total.used),
            statements=total.statements,
            connections_ms=round(1000 * counters.connecting),
        )


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """Whether the pool answers. `latency` is seconds for one read, `error` says why it does not."""

    ok: bool
    latency: float
    error: str = ""
