"""The closed set of things that can happen to users, bets and the ledger.

A command is a value: checked when it is made, executed whole by an engine, or not at all. Its `id` makes it idempotent:
executed again with the same terms it returns the first outcome and changes nothing.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from betcore_async.errors import ModelError
from betcore_async.ids import parse_id
from betcore_async.models import MAX_MONEY, Bet, LedgerEntry, User, check_money, payout

R = TypeVar("R")

NAME_LENGTH = 256


class Command(Generic[R]):
    """A command with a result of type R."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class CreateUser(Command[User]):
    id: str
    wallet_address: str
    opening_balance: int

    def __post_init__(self) -> None:
        parse_id(self.id)
        check_name(self.wallet_address, "wallet_address")
        check_money(self.opening_balance, "opening_balance", least=0)


@dataclass(frozen=True, slots=True)
class Deposit(Command[LedgerEntry]):
    id: str
    user_id: str
    amount: int

    def __post_init__(self) -> None:
        parse_id(self.id)
        check_money(self.amount)


@dataclass(frozen=True, slots=True)
class Withdraw(Command[LedgerEntry]):
    id: str
    user_id: str
    amount: int

    def __post_init__(self) -> None:
        parse_id(self.id)
        check_money(self.amount)


@dataclass(frozen=True, slots=True)
class Transfer(Command[LedgerEntry]):
    id: str
    from_user_id: str
    to_user_id: str
    amount: int

    def __post_init__(self) -> None:
        parse_id(self.id)
        check_money(self.amount)
        if self.from_user_id == self.to_user_id:
            raise ModelError("a transfer needs two different users", field="to_user_id")


@dataclass(frozen=True, slots=True)
class PlaceBet(Command[Bet]):
    id: str
    user_id: str
    cell_id: str
    amount: int
    reward_ppm: int

    def __post_init__(self) -> None:
        parse_id(self.id)
        check_name(self.cell_id, "cell_id")
        check_money(self.amount)
        if payout(self.amount, self.reward_ppm) > MAX_MONEY:
            raise ModelError("amount × reward_rate is more than a payout can be", field="amount")


@dataclass(frozen=True, slots=True)
class ConfirmBet(Command[Bet]):
    bet_id: str


@dataclass(frozen=True, slots=True)
class SettleBet(Command[Bet]):
    bet_id: str
    won: bool


@dataclass(frozen=True, slots=True)
class CancelBet(Command[Bet]):
    bet_id: str


@dataclass(frozen=True, slots=True)
class CellSettlement:
    """What settling a cell came to: bets decided, and minor units paid out."""

    bets: int
    payout: int


@dataclass(frozen=True, slots=True)
class SettleChunk(Command[CellSettlement]):
    """Decide the open bets of a cell with `after < id <= upto`: a repeat finds nothing left, never the next chunk."""

    cell_id: str
    won: bool
    after: str
    upto: str


def check_name(value: str, field: str) -> str:
    """Return `value` if it is a text of 1 to 256 characters, else raise ModelError naming `field`."""
    if not isinstance(value, str) or not 1 <= len(value) <= NAME_LENGTH:
        raise ModelError(f"{field} must be a text of 1 to {NAME_LENGTH} characters", field=field)
    return value
