"""What the toolkit speaks of: users, bets, ledger entries, prices.

All models are frozen, hold UTC times and count money in integer minor units (cents, satoshi …) that fit a signed
64-bit column.

The life of a bet, as `TRANSITIONS` has it:

    pending ──► confirmed ──► won | lost | cancelled
       └──────────────────► won | lost | cancelled
    insufficient_funds                      (recorded, never funded, final from the start)
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from betcore_async.clock import from_microseconds
from betcore_async.errors import ModelError, shown

MAX_MONEY = 2**63 - 1
"""Largest amount: what a signed 64-bit column holds. SQLite turns anything larger into a float, silently."""

PPM = 1_000_000
"""Parts per million in one: the unit in which a reward rate takes part in arithmetic."""

MAX_REWARD_RATE = 1_000_000.0
MAX_PPM = int(MAX_REWARD_RATE) * PPM

Money = Annotated[int, Field(strict=True, ge=0, le=MAX_MONEY)]
SignedMoney = Annotated[int, Field(strict=True, ge=-MAX_MONEY, le=MAX_MONEY)]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC this time is outside the years 1 to 9999") from None


UTCDatetime = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def trusted(cls, values: dict[str, Any]) -> Self:
        """Return a model of values of all its fields that were checked when they were written, without checking again.

        The same as `model_construct(**values)` in half the time, by the way that unpickling takes: that one asks every
        field for its alias and its default.
        """
        made = cls.__new__(cls)
        made.__setstate__(
            {
                "__dict__": values,
                "__pydantic_fields_set__": set(values),
                "__pydantic_extra__": None,
                "__pydantic_private__": None,
            }
        )
        return made


class _Outcome(_Model):
    """What a command comes to."""

    @property
    def replayed(self) -> bool:
        """True when the command had been executed before: this is what came of it then, and nothing was changed now.

        It says how the question was answered, and nothing about the row: equality, `model_dump` and the like leave it
        out.
        """
        return "replayed" in self.__dict__


Told = TypeVar("Told", bound=_Outcome)


def as_replay(outcome: Told) -> Told:
    """Mark a fresh model as the first outcome of a command that was repeated, and return it."""
    outcome.__dict__["replayed"] = True
    return outcome


class BetStatus(StrEnum):
    """Where a bet stands in its life; `TRANSITIONS` has the moves."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    WON = "won"
    LOST = "lost"
    CANCELLED = "cancelled"
    INSUFFICIENT_FUNDS = "insufficient_funds"


class _Statuses(dict[str, BetStatus]):
    def __missing__(self, text: str) -> BetStatus:
        raise ModelError(f"a row of a bet has the status {text!r}, which is none", field="status")


_STATUS_OF_TEXT = _Statuses({str(status): status for status in BetStatus})
OPEN_STATUSES = frozenset({BetStatus.PENDING, BetStatus.CONFIRMED})

_SETTLED = frozenset({BetStatus.WON, BetStatus.LOST, BetStatus.CANCELLED})
TRANSITIONS: dict[BetStatus, frozenset[BetStatus]] = {
    BetStatus.PENDING: _SETTLED | {BetStatus.CONFIRMED},
    BetStatus.CONFIRMED: _SETTLED,
    BetStatus.WON: frozenset(),
    BetStatus.LOST: frozenset(),
    BetStatus.CANCELLED: frozenset(),
    BetStatus.INSUFFICIENT_FUNDS: frozenset(),
}


class User(_Outcome):
    """An account. `version` counts its balance changes, the opening included."""

    id: Name
    wallet_address: Name
    balance: Money
    version: int = Field(ge=1)
    created_at: UTCDatetime
    updated_at: UTCDatetime

    COLUMNS: ClassVar[str] = "id, wallet_address, balance, version, created_at, updated_at"

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[Any]]) -> list["User"]:
        """Return users from database rows in the order of `COLUMNS`, without validating again what a CHECK holds."""
        return [
            cls.trusted(
                {
                    "id": row[0],
                    "wallet_address": row[1],
                    "balance": row[2],
                    "version": row[3],
                    "created_at": from_microseconds(row[4]),
                    "updated_at": from_microseconds(row[5]),
                }
            )
            for row in rows
        ]


class Bet(_Outcome):
    """A stake of `amount` on a price cell; `resolved_at` and `payout_amount` (won only) come with the decision."""

    id: Name
    user_id: Name
    cell_id: Name
    amount: int = Field(strict=True, gt=0, le=MAX_MONEY)
    reward_rate: float = Field(ge=1, le=MAX_REWARD_RATE, allow_inf_nan=False)
    status: BetStatus
    placed_at: UTCDatetime
    resolved_at: UTCDatetime | None = None
    payout_amount: Money | None = None

    COLUMNS: ClassVar[str] = "id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at, payout_amount"

    @model_validator(mode="after")
    def _status_fits(self) -> Self:
        if self.status in OPEN_STATUSES and self.resolved_at is not None:
            raise ValueError(f"a bet that is {self.status} has no resolved_at")
        if self.status in _SETTLED and self.resolved_at is None:
            raise ValueError(f"a bet that is {self.status} needs resolved_at")
        if (self.status is BetStatus.WON) != bool(self.payout_amount):
            raise ValueError("payout_amount belongs to a bet that is won, and to no other")
        if self.resolved_at is not None and self.resolved_at < self.placed_at:
            raise ValueError("resolved_at is before placed_at")
        return self

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_STATUSES

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[Any]]) -> list["Bet"]:
        """Return bets from database rows in the order of `COLUMNS`, without validating again what a CHECK holds."""
        return [
            cls.trusted(
                {
                    "id": row[0],
                    "user_id": row[1],
                    "cell_id": row[2],
                    "amount": row[3],
                    "reward_rate": row[4] / PPM,
                    "status": _STATUS_OF_TEXT[row[5]],
                    "placed_at": from_microseconds(row[6]),
                    "resolved_at": None if row[7] is None else from_microseconds(row[7]),
                    "payout_amount": row[8],
                }
            )
            for row in rows
        ]


class LedgerEntry(_Outcome):
    """One change of one balance; `amount` is negative for a debit. Written once, never changed."""

    id: Name
    user_id: Name
    amount: SignedMoney
    balance_after: Money
    ref_type: Name
    ref_id: Name
    metadata: dict[str, Any] | None = None
    created_at: UTCDatetime


class PricePoint(_Model):
    """A price at a moment. `price` is exact: a Decimal, kept as text on its way."""

    symbol: Name
    price: Decimal = Field(gt=0, allow_inf_nan=False)
    at: UTCDatetime


class Candle(_Model):
    """First, highest, lowest and last price of an interval [start, start + interval), and how many points it had."""

    symbol: Name
    start: UTCDatetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    count: int = Field(ge=1)


def reward_ppm(rate: float) -> int:
    """Return a reward rate as whole parts per million, rounded half to even; done once, when a bet is placed.

    A rate below 1, above MAX_REWARD_RATE or not finite raises ModelError.
    """
    # `not (a <= rate)` rather than `rate < a`: it also catches NaN.
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 1 <= rate <= MAX_REWARD_RATE:
        raise ModelError(
            f"reward_rate must be a finite number from 1 to {MAX_REWARD_RATE:.0f}; got {shown(rate)}",
            field="reward_rate",
        )
    return _ppm_of(float(rate))


@lru_cache(maxsize=4096)  # a platform offers few rates, again and again
def _ppm_of(rate: float) -> int:
    # Through repr, so that 1.13 means 113/100 and not the binary fraction just below it; of a plain float, because a
    # subclass (numpy's float64) may write itself otherwise.
    return round(Fraction(Decimal(repr(rate))) * PPM)


def payout(amount: int, ppm: int) -> int:
    """Return what a won bet pays: amount × rate, rounded down to a whole minor unit, in integer arithmetic.

    The floor of the float product is wrong: floor(100 × 1.13) is 112.
    """
    return amount * ppm // PPM


def check_money(value: int, field: str = "amount", *, least: int = 1) -> int:
    """Return `value` if it is an int from `least` to MAX_MONEY, else raise ModelError naming `field`."""
    if type(value) is not int or not least <= value <= MAX_MONEY:
        raise ModelError(
            f"{field} must be a whole number of minor units from {least} to {MAX_MONEY}; got {shown(value)}",
            field=field,
        )
    return value
