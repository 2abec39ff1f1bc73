"""The waiting line in front of a connection: functions to run on it, and turns for who wants it alone, in one order."""

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from time import monotonic
from typing import Any, TypeVar

from betcore_async.config import Durability
from betcore_async.errors import PoolTimeoutError, TooManyWaitersError
from betcore_async.sqlite.retry import backoff, busy_timeout
from betcore_async.sqlite.stats import Counters

T = TypeVar("T")

TIDY_AFTER = 64
"""Abandoned places the line may hold before it is tidied; fewer are not worth the walk."""


class State(Enum):
    WAITING = auto()
    STARTED = auto()
    ABANDONED = auto()


_WAITING, _STARTED = State.WAITING, State.STARTED


class Item:
    """One place in the line. Started or abandoned, whichever comes first; the line's lock decides."""

    __slots__ = ("answered", "enqueued_at", "future", "patient", "state")

    def __init__(self, future: "asyncio.Future[Any]", *, patient: bool = False) -> None:
        self.future = future
        self.enqueued_at = monotonic()
        self.patient = patient  # its caller has a timeout of its own
        self.state = State.WAITING
        self.answered = False  # also when nobody listened: no other answer will come


class Job(Item):
    """A function to run on the connection, and the future its caller waits on."""

    __slots__ = ("alone", "attempts", "cancelled", "durability", "function", "snapshot")

    def __init__(
        self,
        function: Callable[[sqlite3.Connection], Any],
        future: "asyncio.Future[Any]",
        durability: Durability = Durability.NORMAL,
        snapshot: bool = False,  # noqa: FBT001, FBT002 - keywords cost, and this is made for every call
    ) -> None:
        self.future = future  # on the path of every call: what `Item` sets is written out
        self.enqueued_at = monotonic()
        self.patient = False
        self.state = _WAITING
        self.answered = False
        self.function = function
        self.durability = durability
        self.snapshot = snapshot
        self.alone = False  # in a transaction of its own: it is long, or was a member of a group that fell
        self.cancelled = False  # its caller was cancelled while it ran: to be undone
        self.attempts = 0  # that came to nothing, and were nobody's fault


class Turn(Item):
    """A claim to have the connection alone for a while."""

    __slots__ = ("held",)

    def __init__(self, future: "asyncio.Future[Any]", *, patient: bool = False) -> None:
        super().__init__(future, patient=patient)
        self.held: Any = None

    def grant(self, held: object) -> None:
        """Hand over what was claimed; a claimant cancelled in this moment finds it in `held` and gives it on."""
        self.held = held
        settle(self, held)


class Line:
    """A bounded first-in first-out line of items. Appended by the loop alone, taken by connection threads too."""

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._items: deque[Item] = deque()
        self._abandoned = 0  # items that nobody wants any more lie in the line until it is their turn
        self._limit = limit

    def __len__(self) -> int:
        return len(self._items) - self._abandoned

    def append(self, item: Item) -> None:
        """Add an item at the end; raises TooManyWaitersError when the line is full."""
        # Without the lock, which would be a tenth of the price of a read: who takes does so from the other end.
        items = self._items
        if len(items) - self._abandoned >= self._limit:
            raise TooManyWaitersError(
                f"{self._limit} callers are waiting already (DB_MAX_WAITERS); slow down, or shed load",
                limit=self._limit,
            )
        items.append(item)

    def abandon(self, item: Item) -> bool:
        """Take an item out of the line; False when it has been started already."""
        with self._lock:
            if item.state is State.WAITING:
                item.state = State.ABANDONED
                self._abandoned += 1
                if self._abandoned > len(self) + TIDY_AFTER:
                    wanted = deque(item for item in self._items if item.state is State.WAITING)
                    self._abandoned, self._items = 0, wanted
            return item.state is State.ABANDONED

    def put_back(self, items: list[Job]) -> None:
        """Put started jobs back at the head, in their order."""
        with self._lock:
            for item in reversed(items):
                item.state = State.WAITING
                self._items.appendleft(item)

    def head(self) -> Item | None:
        """Return the first item that is still wanted; abandoned ones are dropped on the way."""
        with self._lock:
            return self._head()

    def _head(self) -> Item | None:
        while self._items:
            if self._items[0].state is State.WAITING:
                return self._items[0]
            self._abandoned -= 1  # first this, so that nobody ever reads a negative length
            self._items.popleft()
        return None

    def _take(self, state: State) -> None:
        self._items.popleft().state = state

    def take_job(self, like: Job | None = None) -> Job | None:
        """Take the head if it is a job (that may share a commit with `like`); a turn at the head keeps its place."""
        with self._lock:
            head = self._head()
            if not isinstance(head, Job):
                return None
            if like is not None and not (head.durability is like.durability and head.alone is like.alone):
                return None
            head.state = _STARTED
            self._items.popleft()
            return head

    def take_jobs(self, most: int) -> list[Job]:
        """Take the jobs at the head, up to the first turn: many for one look at the line."""
        taken: list[Job] = []
        with self._lock:
            items = self._items
            while items and len(taken) < most:
                head = items[0]
                if head.state is _WAITING:
                    if not isinstance(head, Job):
                        break
                    head.state = _STARTED
                    taken.append(head)
                else:
                    self._abandoned -= 1
                items.popleft()
        return taken

    def take_turn(self) -> Turn | None:
        """Take the head if it is a turn."""
        with self._lock:
            head = self._head()
            if not isinstance(head, Turn):
                return None
            self._take(State.STARTED)
            return head

    def take_all(self) -> list[Item]:
        """Empty the line; who stood in it is to be told why."""
        taken: list[Item] = []
        with self._lock:
            while (head := self._head()) is not None:
                self._take(State.ABANDONED)
                taken.append(head)
        return taken

    def take_expired(self, since: float) -> tuple[list[Item], float | None]:
        """Take what was enqueued at or before `since` (monotonic seconds), except who has a timeout of its own.

        Also returns when the next one was enqueued.
        """
        expired: list[Item] = []
        with self._lock:
            for item in self._items:
                if item.state is not State.WAITING or item.patient:
                    continue
                if item.enqueued_at > since:
                    return expired, item.enqueued_at
                item.state = State.ABANDONED
                self._abandoned += 1
                expired.append(item)
        return expired, None


class Sweeper:
    """Tells callers whose turn did not come in time; one timer for all of them."""

    def __init__(self, line: Line, timeout: float, counters: Counters) -> None:
        self._line = line
        self._timeout = timeout
        self._counters = counters
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """See to it that whoever stands in the line now is told in time."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._timeout, self._sweep)

    def _sweep(self) -> None:
        now = monotonic()
        expired, next_one = self._line.take_expired(now - self._timeout)
        for item in expired:
            self._counters.timeouts += 1
            settle(item, error=turn_timeout(now - item.enqueued_at))
        self._timer = None
        if next_one is not None:
            self._timer = asyncio.get_running_loop().call_later(next_one + self._timeout - now, self._sweep)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Retries:
    """Reads that met somebody else's lock (a recovery, a checkpoint), until they stand in line again."""

    def __init__(self, line: Line, budget: float, counters: Counters, what: str) -> None:
        self._line = line
        self._budget = budget
        self._counters = counters
        self._what = what
        self._pausing: dict[Job, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._pausing)

    def add(self, job: Job, error: BaseException, then: Callable[[], None]) -> None:
        """Put the job back after a pause and call `then`; tell its caller once the busy budget is spent."""
        waited = monotonic() - job.enqueued_at
        job.attempts += 1
        self._counters.busy_retries += 1
        if waited >= self._budget:
            self._counters.timeouts += 1
            failure = busy_timeout(self._what, waited, job.attempts)
            failure.__cause__ = error
            settle(job, error=failure)
            return

        def put_back() -> None:
            del self._pausing[job]
            self._line.put_back([job])
            then()

        self._pausing[job] = asyncio.get_running_loop().call_later(backoff(job.attempts), put_back)

    def take_all(self) -> list[Job]:
        """Give up every pause; who waited is to be told why."""
        for timer in self._pausing.values():
            timer.cancel()
        jobs = list(self._pausing)
        self._pausing.clear()
        return jobs


def settle(item: Item, result: object = None, error: BaseException | None = None) -> None:
    """Answer the caller of an item, if it still listens."""
    item.answered = True
    if item.future.done():
        return
    if error is None:
        item.future.set_result(result)
    else:
        item.future.set_exception(error)


def turn_timeout(waited: float) -> PoolTimeoutError:
    return PoolTimeoutError(
        f"no connection came free within {waited:.3g} s (DB_ACQUIRE_TIMEOUT); "
        "look for a transaction or an acquired connection that is held too long",
        waited=waited,
    )
