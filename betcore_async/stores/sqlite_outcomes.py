"""What an id was used for before, and what that means for a command that comes with it again."""

import sqlite3
from dataclasses import dataclass
from typing import Any

from betcore_async.errors import IdempotencyConflictError, InvalidTransitionError
from betcore_async.models import Bet, BetStatus, User, as_replay
from betcore_async.stores.commands import Command, CreateUser, Deposit, PlaceBet, Transfer, Withdraw
from betcore_async.stores.rows import ENTRY_COLUMNS, entries_from_rows

_BET = f"SELECT {Bet.COLUMNS}, confirmed_at FROM {{schema}}.bets WHERE id = ?"

_ENTRIES = f"""
SELECT {ENTRY_COLUMNS}
FROM {{schema}}.ledger_entries
WHERE ref_id = ? AND ref_type <> 'carry_forward'
"""

_NEWEST = """
SELECT max(
    coalesce((SELECT max(id) FROM {schema}.bets), ''),
    coalesce((SELECT max(ref_id) FROM {schema}.ledger_entries), '')
)
"""

_TERMS = slice(0, 5)  # of Bet.COLUMNS: id, user_id, cell_id, amount, reward_ppm
_REFUSED = str(BetStatus.INSUFFICIENT_FUNDS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one weekly file has under an id."""

    bet: Any
    """Row of `Bet.COLUMNS` and confirmed_at, or None."""
    entries: dict[str, Any]
    """Rows of `ENTRY_COLUMNS` by ref_type."""


def outcome_of(raw: sqlite3.Connection, identifier: str, schema: str = "main") -> Outcome | None:
    """Return what the id was used for in a file; None where the file does not know it."""
    bet = bet_row(raw, identifier, schema)
    rows = raw.execute(_ENTRIES.format(schema=schema), (identifier,)).fetchall()
    if bet is None and not rows:
        return None
    return Outcome(bet, {row["ref_type"]: row for row in rows})


def bet_row(raw: sqlite3.Connection, bet_id: str, schema: str = "main") -> Any:
    """Return `Bet.COLUMNS` and confirmed_at of a bet in a file; None where the file does not have it."""
    return raw.execute(_BET.format(schema=schema), (bet_id,)).fetchone()


def newest_id(raw: sqlite3.Connection, schema: str) -> str:
    """Return the greatest id that was used in a file; empty when none was."""
    newest: str = raw.execute(_NEWEST.format(schema=schema)).fetchone()[0]
    return newest


def replayed(command: Command[Any], first: Outcome, user: User | None) -> Any:
    """Return what a command returns whose id was used already: what came of it then, whatever has happened since.

    `user` is the account that a CreateUser opened, as it is now. Raises IdempotencyConflictError where the id was used
    for something else, or with other terms.
    """
    match command:
        case PlaceBet(id=identifier):
            terms = (identifier, command.user_id, command.cell_id, command.amount, command.reward_ppm)
            if first.bet is not None and tuple(first.bet)[_TERMS] == terms:
                return as_replay(_as_placed(first.bet))
        case CreateUser(id=identifier):
            opening = first.entries.get("opening")
            if opening and user and (user.wallet_address, opening["amount"]) == _opening(command):
                return as_replay(_as_created(user, opening["amount"]))
        case Deposit(id=identifier) | Withdraw(id=identifier) | Transfer(id=identifier):
            kind, *terms_of_entry = movement(command)
            row = first.entries.get(kind)
            entry = None if row is None else entries_from_rows([row])[0]
            if entry and [entry.user_id, entry.amount, entry.metadata] == terms_of_entry:
                return as_replay(entry)
        case _:
            raise TypeError(f"{command} has no id of its own")
    raise conflict(identifier)


def _as_placed(row: Any) -> Bet:
    at = row["placed_at"]
    told = (_REFUSED, at, at) if row["status"] == _REFUSED else (str(BetStatus.PENDING), at, None)
    return Bet.from_rows([(*tuple(row)[_TERMS], *told, None)])[0]


def _as_created(user: User, opening: int) -> User:
    return user.model_copy(update={"balance": opening, "version": 1, "updated_at": user.created_at})


def standing(row: Any, wanted: BetStatus) -> Bet:
    """Return what an earlier decision to make a bet `wanted` came to; `row` is what `bet_row` returns.

    Raises InvalidTransitionError where the bet never was that.
    """
    bet = Bet.from_rows([row])[0]
    if bet.status is wanted:
        return as_replay(bet)
    if wanted is BetStatus.CONFIRMED and row["confirmed_at"] is not None:
        was = {"status": BetStatus.CONFIRMED, "resolved_at": None, "payout_amount": None}
        return as_replay(bet.model_copy(update=was))
    raise InvalidTransitionError(
        f"bet {bet.id} is {bet.status} and cannot become {wanted}", bet_id=bet.id, status=bet.status, wanted=wanted
    )


def movement(command: Deposit | Withdraw | Transfer) -> tuple[str, str, int, dict[str, Any] | None]:
    """Return ref_type, user, amount and metadata of the entry that a command writes (for a transfer, the payer's)."""
    match command:
        case Deposit():
            return "deposit", command.user_id, command.amount, None
        case Withdraw():
            return "withdrawal", command.user_id, -command.amount, None
        case Transfer():
            return "transfer_out", command.from_user_id, -command.amount, {"to": command.to_user_id}


def _opening(command: CreateUser) -> tuple[str, int]:
    return command.wallet_address, command.opening_balance


def conflict(identifier: str) -> IdempotencyConflictError:
    return IdempotencyConflictError(f"{identifier} was used before, for something else", id=identifier)
