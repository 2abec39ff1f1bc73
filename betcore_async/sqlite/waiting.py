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

T = TypeVar("T")


class State(Enum):
    WAITING = auto()
    STARTED = auto()
    ABANDONED = auto()


class Item:
    """One place in the line. Started or abandoned, whichever comes first; the lock decides."""

    __slots__ = ("_lock", "enqueued_at", "future", "state")

    def __init__(self, future: "asyncio.Future[Any]", lock: threading.Lock) -> None:
        self.future = future
        self.enqueued_at = monotonic()
        self.state = State.WAITING
        self._lock = lock

    def abandon(self) -> bool:
        """Take the item out of the line; False when it has been started already."""
        with self._lock:
            if self.state is State.WAITING:
                self.state = State.ABANDONED
            return self.state is State.ABANDONED


class Job(Item):
    """A function to run on the connection, and the future its caller waits on."""

    __slots__ = ("alone", "attempts", "cancelled", "durability", "function", "snapshot")

    def __init__(
        self,
        function: Callable[[sqlite3.Connection], Any],
        future: "asyncio.Future[Any]",
        lock: threading.Lock,
        *,
        durability: Durability = Durability.NORMAL,
        snapshot: bool = False,
    ) -> None:
        super().__init__(future, lock)
        self.function = function
        self.durability = durability
        self.snapshot = snapshot
        self.alone = False  # a member of a group that fell: run again in a transaction of its own
        self.cancelled = False  # its caller was cancelled while it ran: to be undone
        self.attempts = 0


class Turn(Item):
    """A claim to have the connection alone for a while."""

    __slots__ = ("held",)

    def __init__(self, future: "asyncio.Future[Any]", lock: threading.Lock) -> None:
        super().__init__(future, lock)
        self.held: Any = None

    def grant(self, held: object) -> None:
        """Hand over what was claimed; a claimant cancelled in this moment finds it in `held` and gives it on."""
        self.held = held
        settle(self, held)


class Line:
    """A bounded first-in first-out line of items. Appended by the loop, taken by connection threads too."""

    def __init__(self, limit: int) -> None:
        self.lock = threading.Lock()
        self._items: deque[Item] = deque()
        self._limit = limit

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: Item) -> None:
        if len(self._items) >= self._limit:
            raise TooManyWaitersError(
                f"{self._limit} callers are waiting already (DB_MAX_WAITERS); slow down, or shed load",
                limit=self._limit,
            )
        self._items.append(item)

    def put_back(self, items: list[Job]) -> None:
        """Put started jobs back at the head, in their order."""
        with self.lock:
            for item in reversed(items):
                item.state = State.WAITING
                self._items.appendleft(item)

    def head(self) -> Item | None:
        """Return the first item that is still wanted; abandoned ones are dropped on the way."""
        with self.lock:
            return self._head()

    def _head(self) -> Item | None:
        while self._items:
            if self._items[0].state is not State.ABANDONED:
                return self._items[0]
            self._items.popleft()
        return None

    def take_job(self, fits: Callable[[Job], bool]) -> Job | None:
        """Take the head if it is a job that `fits`; a turn at the head stays and keeps its place."""
        with self.lock:
            head = self._head()
            if not isinstance(head, Job) or not fits(head):
                return None
            self._items.popleft()
            head.state = State.STARTED
            return head

    def take_turn(self) -> Turn | None:
        """Take the head if it is a turn."""
        with self.lock:
            head = self._head()
            if not isinstance(head, Turn):
                return None
            self._items.popleft()
            head.state = State.STARTED
            return head

    def take_all(self) -> list[Item]:
        """Empty the line."""
        with self.lock:
            items = [item for item in self._items if item.state is State.WAITING]
            self._items.clear()
            return items

    def take_expired(self, since: float) -> list[Item]:
        """Take what was enqueued at or before `since` (monotonic seconds) from the head of the line."""
        expired: list[Item] = []
        with self.lock:
            while (head := self._head()) is not None and head.enqueued_at <= since:
                self._items.popleft()
                head.state = State.ABANDONED
                expired.append(head)
        return expired


def settle(item: Item, result: object = None, error: BaseException | None = None) -> None:
    """Answer the caller of an item, if it still listens."""
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
