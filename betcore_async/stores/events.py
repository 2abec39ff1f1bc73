"""What subscribers are told: one event for each thing that happened to a bet or a balance."""

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from betcore_async.errors import ModelError
from betcore_async.models import Bet, LedgerEntry


class EventKind(StrEnum):
    """What happened: to a bet, or to a balance alone."""

    BET_PLACED = "bet_placed"
    BET_REFUSED = "bet_refused"
    """Recorded with `insufficient_funds`; no money moved."""
    BET_CONFIRMED = "bet_confirmed"
    BET_WON = "bet_won"
    BET_LOST = "bet_lost"
    BET_CANCELLED = "bet_cancelled"
    BALANCE_CHANGED = "balance_changed"
    """An opening, a deposit, a withdrawal or one side of a transfer."""


class Event(BaseModel):
    """Something that happened to a user, and is committed. A repeat has the same `id` and `sequence`."""

    model_config = ConfigDict(frozen=True)

    id: str
    """The id of the bet with what became of it, or of the ledger entry."""
    sequence: int = Field(ge=0)
    """Grows from event to event, over all weeks; not by one. Whoever has seen it, or a later one, drops the event."""
    kind: EventKind
    user_id: str
    bet: Bet | None = None
    """The bet as it was then."""
    entry: LedgerEntry | None = None
    """How the balance changed; None where no money moved."""

    @classmethod
    def parse(cls, payload: bytes | str) -> Self:
        """Return the event that a message holds. Raises ModelError for one that holds none."""
        try:
            return cls.model_validate_json(payload)
        except ValidationError as error:
            raise ModelError(f"this is not an event: {error}", field="payload") from error

    def encode(self) -> bytes:
        """Return it as JSON, for a message."""
        return self.model_dump_json(exclude_none=True).encode()


def channel_of(user_id: str) -> str:
    """Return the channel on which the events of a user are published."""
    return f"events:user:{user_id}"
