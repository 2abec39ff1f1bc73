"""What a subscription yields: messages, and the truth about those that are missing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was published: `payload` are its bytes."""

    channel: str
    payload: bytes
    pattern: str | None = None
    """The pattern that matched the channel, when the subscription was by pattern."""
    skipped: int = 0
    """With the policy `latest`: how many older messages of the same key this one stands for."""
    offset: str | None = None
    """Where a durable message stands in the history of its channel; `subscribe(replay_from=…)` goes on after it."""
    _made: dict[Callable[["Message"], Any], Any] | None = field(default=None, init=False, repr=False, compare=False)

    def shared(self, make: Callable[["Message"], T]) -> T:
        """Return `make(message)`, made once for all local subscribers of the message: a frame for WebSockets, say.

        Each `make` has its own result; name one function, since a lambda written in a loop is a new one every time.
        """
        made = self._made
        if made is None:
            made = {}
            object.__setattr__(self, "_made", made)  # a memory, and no part of the message's value
        if make not in made:
            made[make] = make(self)
        result: T = made[make]
        return result


@dataclass(frozen=True, slots=True)
class Gap:
    """Here `lost` messages are missing: the buffer was full, or the channel's history did not reach back so far."""

    lost: int
    """0 when nobody knows how many: the history was lost, with the server's memory or after its time."""


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection was lost and is back, every channel subscribed again.

    Messages sent in between are lost, but for the durable ones: those follow, or a Gap in their place.
    """

    outage: float
    """Seconds from the loss to the last renewed subscription."""


Event = Message | Gap | Reconnected
