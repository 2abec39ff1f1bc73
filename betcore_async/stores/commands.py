"""The closed set of things that can happen to users, bets and the ledger.

A command is a value: checked when it is made, executed whole by an engine, or not at all. Its `id` makes it idempotent:
executed again with the same terms it returns the first outcome and changes nothing.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from betcore_async.errors import LedgerError, ModelError, shown
from betcore_async.ids import parse_id
from betcore_async.models import MAX_MONEY, MAX_PPM, PPM, Bet, LedgerEntry, User, check_money, payout

R = TypeVar("R")

NAME_LENGTH = 256
CHUNK = 10_000
"""Bets that one command places or decides at most: other writers wait for one of them."""


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
    expected_version: int | None = None
    """Version of the user that the caller saw. A guard and not a term: a repeat returns its first outcome anyway."""

    def __post_init__(self) -> None:
        parse_id(self.id)
        check_name(self.user_id, "user_id")
        check_money(self.amount)
        check_version(self.expected_version)


@dataclass(frozen=True, slots=True)
class Withdraw(Command[LedgerEntry]):
    id: str
    user_id: str
    amount: int
    expected_version: int | None = None

    def __post_init__(self) -> None:
        parse_id(self.id)
        check_name(self.user_id, "user_id")
        check_money(self.amount)
        check_version(self.expected_version)


@dataclass(frozen=True, slots=True)
class Transfer(Command[LedgerEntry]):
    id: str
    from_user_id: str
    to_user_id: str
    amount: int
    expected_version: int | None = None
    """Of the user who pays."""

    def __post_init__(self) -> None:
        parse_id(self.id)
        check_version(self.expected_version)
        check_name(self.from_user_id, "from_user_id")
        check_name(self.to_user_id, "to_user_id")
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
        check_name(self.user_id, "user_id")
        check_name(self.cell_id, "cell_id")
        check_money(self.amount)
        if type(self.reward_ppm) is not int or not PPM <= self.reward_ppm <= MAX_PPM:
            told = f"reward_ppm must be a whole number from {PPM} to {MAX_PPM}; got {shown(self.reward_ppm)}"
            raise ModelError(told, field="reward_ppm")
        if payout(self.amount, self.reward_ppm) > MAX_MONEY:
            raise ModelError("amount × reward_rate is more than a payout can be", field="amount")


@dataclass(frozen=True, slots=True)
class PlaceBets(Command[tuple[Bet | LedgerError, ...]]):
    """Several bets, one after the other in one transaction; each has an outcome of its own, a refusal included."""

    bets: tuple[PlaceBet, ...]

    def __post_init__(self) -> None:
        if len(self.bets) > CHUNK:
            raise ModelError(f"{len(self.bets)} bets are too many for one call; place {CHUNK} at a time", field="bets")


@dataclass(frozen=True, slots=True)
class ConfirmBet(Command[Bet]):
    bet_id: str

    def __post_init__(self) -> None:
        parse_id(self.bet_id, "bet_id")


@dataclass(frozen=True, slots=True)
class SettleBet(Command[Bet]):
    bet_id: str
    won: bool

    def __post_init__(self) -> None:
        parse_id(self.bet_id, "bet_id")
        check_verdict(self.won)


@dataclass(frozen=True, slots=True)
class CancelBet(Command[Bet]):
    bet_id: str

    def __post_init__(self) -> None:
        parse_id(self.bet_id, "bet_id")


@dataclass(frozen=True, slots=True)
class CellSettlement:
    """What settling a cell came to: bets decided, and minor units paid out."""

    bets: int
    payout: int
    replayed: bool = field(default=False, compare=False)
    """True when all of it had been done before: this is what came of it then, and nothing was changed now."""


@dataclass(frozen=True, slots=True)
class ChunkSettlement:
    """What settling one chunk of a cell came to."""

    bets: int
    payout: int
    unpaid: tuple[str, ...]
    """Bets that were won and stay open, because the balance of their user cannot grow so much.

    A repeat tells those of them that are still open.
    """
    is_last: bool
    """No open bet of the cell lies behind this chunk."""
    replayed: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class SettleChunk(Command[ChunkSettlement]):
    """Decide the next `size` open bets of a cell, in the order of their ids, as chunk `number` (from 1).

    The first chunk closes the cell. A chunk that was decided before returns what came of it, and never takes the next.
    """

    cell_id: str
    won: bool
    number: int
    size: int = CHUNK

    def __post_init__(self) -> None:
        check_name(self.cell_id, "cell_id")
        check_verdict(self.won)
        for value, name in ((self.number, "number"), (self.size, "size")):
            if type(value) is not int or not 1 <= value <= MAX_MONEY:
                raise ModelError(f"{name} must be a whole number from 1; got {shown(value)}", field=name)


def check_name(value: str, field: str) -> str:
    """Return `value` if it is a text of 1 to 256 characters, else raise ModelError naming `field`.

    NUL and lone surrogates are refused: the one ends a text for SQLite's functions, the others cannot be stored.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= NAME_LENGTH:
        raise ModelError(f"{field} must be a text of 1 to {NAME_LENGTH} characters", field=field)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ModelError(f"{field} holds half a character: {value!r}", field=field) from None
    if "\0" in value:
        raise ModelError(f"{field} must not hold a NUL character: {value!r}", field=field)
    return value


def check_version(version: int | None) -> None:
    """Raise ModelError unless `version` is None or a version that a user can have."""
    if version is not None and (type(version) is not int or not 1 <= version <= MAX_MONEY):
        raise ModelError(
            f"expected_version must be a whole number from 1; got {shown(version)}", field="expected_version"
        )


def check_verdict(won: bool) -> None:  # noqa: FBT001 - the value under check
    """Raise ModelError unless `won` is True or False: taken for its truth, the text "lost" would pay out."""
    if won is not True and won is not False:
        raise ModelError(f"won must be True or False; got {shown(won)}", field="won")
