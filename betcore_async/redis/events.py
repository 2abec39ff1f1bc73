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


@dataclass(frozen=True, slots=True)
class Gap:
    """Here `lost` messages were dropped, because this subscriber's buffer was full."""

    lost: int


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection was lost and is back, every channel subscribed again; messages sent in between are lost."""

    outage: float
    """Seconds from the loss to the last renewed subscription."""


Event = Message | Gap | Reconnected
