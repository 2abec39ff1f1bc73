"""What each command does to a weekly file: `function(books, command) -> result`, inside a transaction.

They run on the writer's thread and may run more than once before they are committed, so they touch nothing but the
connection.
"""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from betcore_async.errors import (
    BetNotFoundError,
    IdempotencyConflictError,
    InsufficientFundsError,
    InvalidTransitionError,
    LedgerError,
    UserExistsError,
    UserNotFoundError,
)
from betcore_async.models import MAX_MONEY, PPM, TRANSITIONS, Bet, BetStatus, LedgerEntry, User, payout
from betcore_async.stores.commands import (
    CancelBet,
    CellSettlement,
    ConfirmBet,
    CreateUser,
    Deposit,
    PlaceBet,
    SettleBet,
    SettleChunk,
    Transfer,
    Withdraw,
)
from betcore_async.stores.rows import ENTRY_COLUMNS, entries_from_rows

_USER = f"SELECT {User.COLUMNS} FROM users WHERE id = ?"
_BET = f"SELECT {Bet.COLUMNS} FROM bets WHERE id = ?"
_ENTRY = f"SELECT {ENTRY_COLUMNS} FROM ledger_entries WHERE ref_type = ? AND ref_id = ?"

_INSERT_USER = """
INSERT INTO users (id, wallet_address, balance, version, created_at, updated_at)
VALUES (?, ?, ?, 1, ?, ?)
"""

_CHANGE_BALANCE = """
UPDATE users
SET balance = balance + :amount, version = version + 1, updated_at = max(updated_at, :now)
WHERE id = :user_id AND balance + :amount BETWEEN 0 AND :most
RETURNING balance, version
"""

_INSERT_ENTRY = """
INSERT INTO ledger_entries (id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_INSERT_BET = """
INSERT INTO bets (id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

_RESOLVE_BET = """
UPDATE bets
SET status = :status, resolved_at = max(placed_at, :now), payout_amount = :payout
WHERE id = :id
"""

_OPEN_OF_CHUNK = """
SELECT id
FROM bets
WHERE cell_id = ? AND id > ? AND id <= ? AND status IN ('pending', 'confirmed')
ORDER BY id
"""


_PPM_COLUMN = 4  # of Bet.COLUMNS

_Reference = tuple[str, str, dict[str, Any] | None]
"""What a ledger entry is about: ref_type, ref_id, metadata."""


@dataclass(frozen=True, slots=True)
class Books:
    """An open write transaction on the live week."""

    raw: sqlite3.Connection
    now: int
    """Microseconds since the epoch, within the live week."""
    new_id: Callable[[], str]


def create_user(books: Books, command: CreateUser) -> User:
    balance, now = command.opening_balance, books.now
    try:
        books.raw.execute(_INSERT_USER, (command.id, command.wallet_address, balance, now, now))
    except sqlite3.IntegrityError as error:
        known = _user(books.raw, command.id)
        if known is None:
            raise UserExistsError(
                f"the wallet address {command.wallet_address!r} has an account already",
                wallet_address=command.wallet_address,
            ) from error
        if known.wallet_address != command.wallet_address:
            raise _conflict(command.id) from error
        return known
    entry = (books.new_id(), command.id, 1, balance, balance, "opening", command.id, None, now)
    books.raw.execute(_INSERT_ENTRY, entry)
    return User.from_rows([(command.id, command.wallet_address, balance, 1, now, now)])[0]


def deposit(books: Books, command: Deposit) -> LedgerEntry:
    return _move(books, command, "deposit", command.amount)


def withdraw(books: Books, command: Withdraw) -> LedgerEntry:
    return _move(books, command, "withdrawal", -command.amount)


def _move(books: Books, command: Deposit | Withdraw, kind: str, amount: int) -> LedgerEntry:
    first = replayed(command, books.raw.execute(_ENTRY, (kind, command.id)).fetchone())
    return first or _change_balance(books, command.user_id, amount, (kind, command.id, None))


def transfer(books: Books, command: Transfer) -> LedgerEntry:
    first = replayed(command, books.raw.execute(_ENTRY, ("transfer_out", command.id)).fetchone())
    if first is not None:
        return first
    out, into = ("transfer_out", command.id, {"to": command.to_user_id}), ("transfer_in", command.id, None)
    entry = _change_balance(books, command.from_user_id, -command.amount, out)
    _change_balance(books, command.to_user_id, command.amount, into)
    return entry


def place_bet(books: Books, command: PlaceBet) -> Bet:
    raw, now = books.raw, books.now
    known = _bet(raw, command.id)
    if known is not None:
        return replayed_bet(known, command)
    user = _user(raw, command.user_id)
    if user is None:
        raise _unknown_user(command.user_id)
    terms = (command.id, command.user_id, command.cell_id, command.amount, command.reward_ppm)
    if user.balance >= command.amount:
        _change_balance(books, command.user_id, -command.amount, ("stake", command.id, None))
        row: tuple[Any, ...] = (*terms, BetStatus.PENDING.value, now, None)
    else:
        row = (*terms, BetStatus.INSUFFICIENT_FUNDS.value, now, now)
    raw.execute(_INSERT_BET, row)
    return Bet.from_rows([(*row, None)])[0]


def confirm_bet(books: Books, command: ConfirmBet) -> Bet:
    bet = _known_bet(books.raw, command.bet_id)
    if bet.status is BetStatus.CONFIRMED:
        return bet
    _check_transition(bet, BetStatus.CONFIRMED)
    books.raw.execute("UPDATE bets SET status = 'confirmed' WHERE id = ?", (bet.id,))
    return _known_bet(books.raw, bet.id)


def settle_bet(books: Books, command: SettleBet) -> Bet:
    return _resolve(books, command.bet_id, BetStatus.WON if command.won else BetStatus.LOST)


def cancel_bet(books: Books, command: CancelBet) -> Bet:
    return _resolve(books, command.bet_id, BetStatus.CANCELLED)


def settle_chunk(books: Books, command: SettleChunk) -> CellSettlement:
    rows = books.raw.execute(_OPEN_OF_CHUNK, (command.cell_id, command.after, command.upto)).fetchall()
    wanted = BetStatus.WON if command.won else BetStatus.LOST
    settled = [_resolve(books, bet_id, wanted) for (bet_id,) in rows]
    return CellSettlement(len(settled), sum(bet.payout_amount or 0 for bet in settled))


def _resolve(books: Books, bet_id: str, wanted: BetStatus) -> Bet:
    """Decide a bet and book what it pays back; a bet that is decided this way already is returned as it is."""
    row = books.raw.execute(_BET, (bet_id,)).fetchone()
    if row is None:
        raise _unknown_bet(bet_id)
    bet, ppm = Bet.from_rows([row])[0], row[_PPM_COLUMN]
    if bet.status is wanted:
        return bet
    _check_transition(bet, wanted)
    paid = payout(bet.amount, ppm) if wanted is BetStatus.WON else None
    books.raw.execute(_RESOLVE_BET, {"status": wanted.value, "now": books.now, "payout": paid, "id": bet_id})
    if paid is not None:
        _change_balance(books, bet.user_id, paid, ("payout", bet_id, None))
    elif wanted is BetStatus.CANCELLED:
        _change_balance(books, bet.user_id, bet.amount, ("refund", bet_id, None))
    return _known_bet(books.raw, bet_id)


def _change_balance(books: Books, user_id: str, amount: int, reference: _Reference) -> LedgerEntry:
    """Change a balance together with its ledger entry. Raises UserNotFoundError, InsufficientFundsError."""
    raw, now = books.raw, books.now
    change = {"amount": amount, "now": now, "user_id": user_id, "most": MAX_MONEY}
    changed = raw.execute(_CHANGE_BALANCE, change).fetchone()
    if changed is None:
        raise _refused(raw, user_id, amount)
    balance, version = changed
    kind, ref_id, metadata = reference
    entry_id, text = books.new_id(), None if metadata is None else json.dumps(metadata)
    raw.execute(_INSERT_ENTRY, (entry_id, user_id, version, amount, balance, kind, ref_id, text, now))
    return entries_from_rows([(entry_id, user_id, amount, balance, kind, ref_id, text, now)])[0]


def replayed(command: Deposit | Withdraw | Transfer, row: Any) -> LedgerEntry | None:
    """Return the first outcome of a command that moved money from its ledger row; other terms are a conflict."""
    match command:
        case Deposit(user_id=user_id, amount=amount):
            terms: tuple[Any, ...] = (user_id, amount, None)
        case Withdraw(user_id=user_id, amount=amount):
            terms = (user_id, -amount, None)
        case Transfer(from_user_id=user_id, to_user_id=other, amount=amount):
            terms = (user_id, -amount, {"to": other})
    if row is None:
        return None
    entry = entries_from_rows([row])[0]
    if (entry.user_id, entry.amount, entry.metadata) != terms:
        raise _conflict(command.id)
    return entry


def replayed_bet(bet: Bet, command: PlaceBet) -> Bet:
    """Return a bet that was placed before; other terms under its id are a conflict."""
    first = (bet.user_id, bet.cell_id, bet.amount, round(bet.reward_rate * PPM))
    if first != (command.user_id, command.cell_id, command.amount, command.reward_ppm):
        raise _conflict(command.id)
    return bet


def _user(raw: sqlite3.Connection, user_id: str) -> User | None:
    row = raw.execute(_USER, (user_id,)).fetchone()
    return None if row is None else User.from_rows([row])[0]


def _bet(raw: sqlite3.Connection, bet_id: str) -> Bet | None:
    row = raw.execute(_BET, (bet_id,)).fetchone()
    return None if row is None else Bet.from_rows([row])[0]


def _known_bet(raw: sqlite3.Connection, bet_id: str) -> Bet:
    bet = _bet(raw, bet_id)
    if bet is None:
        raise _unknown_bet(bet_id)
    return bet


def _check_transition(bet: Bet, wanted: BetStatus) -> None:
    if wanted not in TRANSITIONS[bet.status]:
        raise InvalidTransitionError(
            f"bet {bet.id} is {bet.status} and cannot become {wanted}", bet_id=bet.id, status=bet.status, wanted=wanted
        )


def _refused(raw: sqlite3.Connection, user_id: str, amount: int) -> LedgerError:
    user = _user(raw, user_id)
    if user is None:
        return _unknown_user(user_id)
    if amount > 0:
        return LedgerError(f"the balance of user {user_id} cannot grow by {amount}: that is too much", user_id=user_id)
    return InsufficientFundsError(
        f"user {user_id} has {user.balance}, {-amount} is needed", user_id=user_id, balance=user.balance, amount=-amount
    )


def _unknown_user(user_id: str) -> UserNotFoundError:
    return UserNotFoundError(f"there is no user {user_id!r}", user_id=user_id)


def _unknown_bet(bet_id: str) -> BetNotFoundError:
    return BetNotFoundError(f"there is no bet {bet_id!r}", bet_id=bet_id)


def _conflict(identifier: str) -> IdempotencyConflictError:
    return IdempotencyConflictError(f"{identifier} was used before, with other terms", id=identifier)
