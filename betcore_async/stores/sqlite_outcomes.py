"""What an id was used for before, and what that means for a command that comes with it again."""

import sqlite3
from dataclasses import dataclass
from typing import Any

from betcore_async.errors import IdempotencyConflictError
from betcore_async.models import Bet, User
from betcore_async.stores.commands import Command, CreateUser, Deposit, PlaceBet, Transfer, Withdraw
from betcore_async.stores.rows import ENTRY_COLUMNS, entries_from_rows

_BET = f"SELECT {Bet.COLUMNS} FROM {{schema}}.bets WHERE id = ?"

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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one weekly file has under an id."""

    bet: Any
    """Row of `Bet.COLUMNS`, or None."""
    entries: dict[str, Any]
    """Rows of `ENTRY_COLUMNS` by ref_type."""


def outcome_of(raw: sqlite3.Connection, identifier: str, schema: str = "main") -> Outcome | None:
    """Return what the id was used for in a file; None where the file does not know it."""
    bet = raw.execute(_BET.format(schema=schema), (identifier,)).fetchone()
    rows = raw.execute(_ENTRIES.format(schema=schema), (identifier,)).fetchall()
    if bet is None and not rows:
        return None
    return Outcome(bet, {row["ref_type"]: row for row in rows})


def newest_id(raw: sqlite3.Connection, schema: str) -> str:
    """Return the greatest id that was used in a file; empty when none was."""
    newest: str = raw.execute(_NEWEST.format(schema=schema)).fetchone()[0]
    return newest


def replayed(command: Command[Any], first: Outcome, user: User | None) -> Any:
    """Return what a command returns whose id was used already: what came of it then, a bet or `user` as it is now.

    Raises IdempotencyConflictError where the id was used for something else, or with other terms.
    """
    match command:
        case PlaceBet(id=identifier):
            terms = (identifier, command.user_id, command.cell_id, command.amount, command.reward_ppm)
            if first.bet is not None and tuple(first.bet)[_TERMS] == terms:
                return Bet.from_rows([first.bet])[0]
        case CreateUser(id=identifier):
            opening = first.entries.get("opening")
            if opening and user and (user.wallet_address, opening["amount"]) == _opening(command):
                return user
        case Deposit(id=identifier) | Withdraw(id=identifier) | Transfer(id=identifier):
            kind, *terms_of_entry = movement(command)
            row = first.entries.get(kind)
            entry = None if row is None else entries_from_rows([row])[0]
            if entry and [entry.user_id, entry.amount, entry.metadata] == terms_of_entry:
                return entry
        case _:
            raise TypeError(f"{command} has no id of its own")
    raise conflict(identifier)


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
