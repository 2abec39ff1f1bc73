"""Counters of one pool. They are kept as plain integers while it runs and handed out frozen."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What happened so far; written by the pool's parts, each number by one thread at a time."""

    reads: int = 0
    writes: int = 0
    groups: int = 0
    largest_group: int = 0
    groups_split: int = 0
    transactions: int = 0
    busy_retries: int = 0
    interrupts: int = 0
    overruns: int = 0
    cancelled: int = 0
    timeouts: int = 0
    refused: int = 0
    opened: int = 0
    closed: int = 0
    broken: int = 0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A moment in the life of a pool; counts run from its opening."""

    readers: int
    """Reader connections that are open."""
    readers_idle: int
    """Of these, the ones with nothing to do."""
    reads_waiting: int
    """Reads and `acquire()` calls waiting for a reader."""
    writes_waiting: int
    """Writes and transactions waiting for the writer."""
    reads: int
    """Reads that were started."""
    writes: int
    """Write functions that were committed by a group commit."""
    groups: int
    """Group commits; `writes / groups` is the mean size of a group."""
    largest_group: int
    """Most write functions that shared one commit."""
    groups_split: int
    """Groups that fell as a whole and were run again one by one."""
    transactions: int
    """Interactive transactions that were begun."""
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


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """Whether the pool answers. `latency` is seconds for one read, `error` says why it does not."""

    ok: bool
    latency: float
    error: str = ""
