"""Bounded buffers between the one reader and a subscriber: what each policy does when the buffer is full.

Plain data structures: no await, no clock. Every buffer holds at most `maxsize` messages; a run of other events between
two messages is merged to a few, so that the whole is bounded, too.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from betcore_async.redis.events import Event, Gap, Message, Reconnected

Policy = Literal["block", "drop_oldest", "drop_newest", "latest", "disconnect"]
Key = Callable[[Message], Hashable]


class Buffer(Protocol):
    lost: int
    """Messages dropped so far."""

    plain: deque[Event] | None
    """The messages that wait, when nothing else waits: whoever is in a hurry may take from its left end.

    None where that is not so. To be asked for again after anything was offered, forced or noted.
    """

    def offer(self, message: Message) -> bool:
        """Keep `message`, or deal with it as the policy says; False when it is neither, for want of room."""

    def offer_all(self, messages: Sequence[Message]) -> int:
        """Offer several, in order, until one is refused; return how many were not."""

    def force(self, messages: Sequence[Message]) -> None:
        """Offer what was missed; where a message too many would be refused, it is kept beyond the bound."""

    def note(self, event: Reconnected | Gap) -> None:
        """Keep an event that is never dropped."""

    def take(self) -> Event | None:
        """Return the next event, or None when there is none."""

    @property
    def has_room(self) -> bool:
        """Whether one more message fits."""

    @property
    def pending(self) -> int:
        """Messages that wait to be taken."""


class Queue:
    """First in, first out; refuses when full. What then happens is for the subscription to say."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._events: deque[Event] = deque()
        self._notes = 0
        """Events among them that are no messages. Messages are not counted: taking one is the commonest step."""
        self.plain: deque[Event] | None = self._events
        self.lost = 0

    @property
    def has_room(self) -> bool:
        return self.pending < self._maxsize

    def offer(self, message: Message) -> bool:
        if len(self._events) - self._notes >= self._maxsize:
            return False
        self._events.append(message)
        return True

    def offer_all(self, messages: Sequence[Message]) -> int:
        count = len(messages)
        if len(self._events) + count - self._notes <= self._maxsize:  # nearly always, and then one step for all
            self._events.extend(messages)
            return count
        return _offer_each(self, messages)

    def force(self, messages: Sequence[Message]) -> None:
        self._events.extend(messages)  # not more than the history holds

    def note(self, event: Reconnected | Gap) -> None:
        # Of each kind one at most between two messages: the bound holds when the connection flaps while nobody reads.
        for place in range(len(self._events) - 1, max(-1, len(self._events) - 3), -1):
            if isinstance(earlier := self._events[place], Message):
                break
            if isinstance(earlier, Reconnected) and isinstance(event, Reconnected):
                self._events[place] = _merged(earlier, event)
                return
            if isinstance(earlier, Gap) and isinstance(event, Gap):
                self._events[place] = Gap(_sum(earlier.lost, event.lost))
                return
        self._events.append(event)
        self._notes += 1
        self.plain = None

    @property
    def pending(self) -> int:
        return len(self._events) - self._notes

    def take(self) -> Event | None:
        if not self._events:
            return None
        event = self._events.popleft()
        if not isinstance(event, Message):
            self._notes -= 1
            self.plain = None if self._notes else self._events
        return event


class DropNewest(Queue):
    """A message that finds the buffer full is dropped."""

    def offer(self, message: Message) -> bool:
        if super().offer(message):
            return True
        self.lost += 1
        self.note(Gap(1))
        return True

    def force(self, messages: Sequence[Message]) -> None:
        self.offer_all(messages)


class DropOldest(Queue):
    """A message that finds the buffer full pushes out the oldest one; the Gap stands where that one stood."""

    def offer(self, message: Message) -> bool:
        if len(self._events) - self._notes >= self._maxsize:
            self._drop()
        self._events.append(message)
        return True

    def force(self, messages: Sequence[Message]) -> None:
        self.offer_all(messages)

    def _drop(self) -> None:
        lost, back = 1, None
        while not isinstance(event := self._events.popleft(), Message):
            self._notes -= 1
            if isinstance(event, Gap):
                lost = _sum(lost, event.lost)
            else:
                back = _merged(back, event)
        self.lost += 1
        self._events.appendleft(Gap(lost))
        self._notes += 1
        self.plain = None
        if back is not None:
            self._events.appendleft(back)
            self._notes += 1


class Latest:
    """Keeps the newest message of each key, in the order the keys came; a key too many pushes out the oldest key."""

    def __init__(self, maxsize: int, key: Key) -> None:
        self._maxsize = maxsize
        self._key = key
        self._newest: dict[Hashable, Message] = {}
        self._gap: int | None = None
        self._back: Reconnected | None = None
        self.plain: deque[Event] | None = None
        self.lost = 0

    @property
    def has_room(self) -> bool:
        return True

    def offer(self, message: Message) -> bool:
        key = self._key(message)
        older = self._newest.get(key)
        if older is not None:
            message = replace(message, skipped=older.skipped + 1)
        elif len(self._newest) >= self._maxsize:
            dropped = self._newest.pop(next(iter(self._newest)))
            self._add_gap(1 + dropped.skipped)
            self.lost += 1 + dropped.skipped
        self._newest[key] = message
        return True

    def offer_all(self, messages: Sequence[Message]) -> int:
        return _offer_each(self, messages)

    def force(self, messages: Sequence[Message]) -> None:
        _offer_each(self, messages)

    def note(self, event: Reconnected | Gap) -> None:
        if isinstance(event, Gap):
            self._add_gap(event.lost)
        else:
            self._back = _merged(self._back, event)

    @property
    def pending(self) -> int:
        return len(self._newest)

    def take(self) -> Event | None:
        if self._back is not None:
            back, self._back = self._back, None
            return back
        if self._gap is not None:
            gap, self._gap = Gap(self._gap), None
            return gap
        return self._newest.pop(next(iter(self._newest))) if self._newest else None

    def _add_gap(self, lost: int) -> None:
        self._gap = lost if self._gap is None else _sum(self._gap, lost)


def buffer_for(policy: Policy, maxsize: int, key: Key | None) -> Buffer:
    match policy:
        case "drop_oldest":
            return DropOldest(maxsize)
        case "drop_newest":
            return DropNewest(maxsize)
        case "latest":
            return Latest(maxsize, key or (lambda message: message.channel))
        case "block" | "disconnect":
            return Queue(maxsize)


def _offer_each(buffer: Buffer, messages: Sequence[Message]) -> int:
    for count, message in enumerate(messages):
        if not buffer.offer(message):
            return count
    return len(messages)


def _sum(lost: int, more: int) -> int:
    """Return how many are missing in two gaps that become one: 0, nobody knows, where that holds for either."""
    return lost + more if lost and more else 0


def _merged(earlier: Reconnected | None, later: Reconnected) -> Reconnected:
    return later if earlier is None else Reconnected(earlier.outage + later.outage)
