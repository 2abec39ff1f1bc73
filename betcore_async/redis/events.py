"""What a subscription yields: messages, and the truth about those that are missing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    channel: str
    payload: bytes
    pattern: str | None = None
    """The pattern that matched the channel, when the subscription was by pattern."""
    skipped: int = 0
    """With the policy `latest`: how many older messages of the same key this one stands for."""
    offset: str | None = None
    """Where a durable message stands in the history of its channel; `subscribe(replay_from=…)` goes on after it."""


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
