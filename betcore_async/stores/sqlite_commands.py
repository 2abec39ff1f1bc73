"""What each command does to a weekly file: `function(books, command) -> result`, inside a transaction.

They run on the writer's thread and may run more than once before they are committed, so they touch nothing but the
connection. Each does its usual work first, guarded so that it finds nothing to do where something is amiss; only then
it looks what is.
"""

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from betcore_async.errors import (
    BalanceLimitError,
    BetNotFoundError,
    CellClosedError,
    ConcurrentUpdateError,
    InsufficientFundsError,
    LedgerError,
    UserExistsError,
    UserNotFoundError,
)
from betcore_async.ids import IdGenerator
from betcore_async.models import MAX_MONEY, Bet, BetStatus, LedgerEntry, User
from betcore_async.stores.commands import (
    CancelBet,
    ConfirmBet,
    CreateUser,
    Deposit,
    PlaceBet,
    PlaceBets,
    SettleBet,
    Transfer,
    Withdraw,
)
from betcore_async.stores.rows import entries_from_rows
from betcore_async.stores.sqlite_outcomes import bet_row, conflict, movement, outcome_of, replayed, standing

_USER = f"SELECT {User.COLUMNS} FROM users WHERE id = ?"

_INSERT_USER = """
INSERT INTO users (id, wallet_address, balance, version, created_at, updated_at)
VALUES (?, ?, ?, 1, ?, ?)
"""

# Parameters: amount, now, user, id of the command, and expected version or cell; by number, as looking names up
# takes a while. A sum beyond 64 bits becomes a float, which is compared exactly and refused as well.
_CHANGE_BALANCE = """
UPDATE users
SET balance = balance + ?1, version = version + 1, updated_at = max(updated_at, ?2)
WHERE id = ?3 AND balance + ?1 BETWEEN 0 AND 9223372036854775807 {unless}
RETURNING balance, version
"""
_UNUSED = """
    AND NOT EXISTS (SELECT 1 FROM ledger_entries WHERE ref_id = ?4)
    AND NOT EXISTS (SELECT 1 FROM bets WHERE id = ?4)"""
_CHANGE_ALWAYS = _CHANGE_BALANCE.format(unless="")
_CHANGE_ONCE = _CHANGE_BALANCE.format(unless=f"AND (?5 IS NULL OR version = ?5) {_UNUSED}")
_STAKE = _CHANGE_BALANCE.format(
    unless=f"""{_UNUSED}
    AND NOT EXISTS (SELECT 1 FROM cell_settlements WHERE cell_id = ?5)"""
)

_CLOSED = "SELECT won FROM cell_settlements WHERE cell_id = ? LIMIT 1"

INSERT_ENTRY = """
INSERT INTO ledger_entries (id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_INSERT_BET = """
INSERT INTO bets (id, user_id, cell_id, amount, reward_ppm, status, placed_at, resolved_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

_CONFIRM = f"""
UPDATE bets
SET status = 'confirmed', confirmed_at = max(placed_at, ?)
WHERE id = ? AND status = 'pending'
RETURNING {Bet.COLUMNS}
"""

PAYOUT = "amount / 1000000 * reward_ppm + amount % 1000000 * reward_ppm / 1000000"
"""amount × rate rounded down, in steps that stay within 64 bits where the result does."""

_RESOLVE = f"""
UPDATE bets
SET status = :status, resolved_at = max(placed_at, :now), payout_amount = {{payout}}
WHERE id = :id AND status IN ('pending', 'confirmed')
RETURNING {Bet.COLUMNS}
"""
_RESOLVE_UNPAID = _RESOLVE.format(payout="NULL")
_RESOLVE_WON = _RESOLVE.format(payout=PAYOUT)


_Reference = tuple[str, str, dict[str, Any] | None]
"""What a ledger entry is about: ref_type, ref_id, metadata."""


@dataclass(slots=True)  # made for each command: frozen, that would take three times as long
class Books:
    """An open write transaction on the live week."""

    raw: sqlite3.Connection
    now: int
    """Microseconds since the epoch, within the live week."""
    new_id: IdGenerator


def create_user(books: Books, command: CreateUser) -> User:
    raw, balance, now = books.raw, command.opening_balance, books.now
    first = outcome_of(raw, command.id)
    if first is not None:
        user: User = replayed(command, first, user_of(raw, command.id))
        return user
    try:
        raw.execute(_INSERT_USER, (command.id, command.wallet_address, balance, now, now))
    except sqlite3.IntegrityError as error:
        if user_of(raw, command.id) is not None:
            raise conflict(command.id) from error
        raise UserExistsError(
            f"the wallet address {command.wallet_address!r} has an account already",
            wallet_address=command.wallet_address,
        ) from error
    entry_id = books.new_id.at(now)
    raw.execute(INSERT_ENTRY, (entry_id, command.id, 1, balance, balance, "opening", command.id, None, now))
    return User.from_rows([(command.id, command.wallet_address, balance, 1, now, now)])[0]


def move_money(books: Books, command: Deposit | Withdraw | Transfer) -> LedgerEntry:
    kind, user_id, amount, metadata = movement(command)
    change = (amount, books.now, user_id, command.id, command.expected_version)
    changed = books.raw.execute(_CHANGE_ONCE, change).fetchone()
    if changed is None:
        first = outcome_of(books.raw, command.id)
        if first is None:
            raise refused(books.raw, user_id, amount, command.expected_version) or conflict(command.id)
        known: LedgerEntry = replayed(command, first, None)
        return known
    if isinstance(command, Transfer):
        _give(books, command.to_user_id, command.amount, ("transfer_in", command.id, {"from": user_id}))
    row = _book(books, (user_id, *changed), amount, (kind, command.id, metadata))
    return entries_from_rows([row])[0]


def place_bet(books: Books, command: PlaceBet) -> Bet:
    raw, now = books.raw, books.now
    terms = (command.id, command.user_id, command.cell_id, command.amount, command.reward_ppm)
    identifier, user_id, cell_id, amount, _ = terms
    changed = raw.execute(_STAKE, (-amount, now, user_id, identifier, cell_id)).fetchone()
    if changed is not None:
        _book(books, (command.user_id, *changed), -command.amount, ("stake", command.id, None))
        row: tuple[Any, ...] = (*terms, "pending", now, None)
    else:
        first = outcome_of(raw, command.id)
        if first is not None:
            known: Bet = replayed(command, first, None)
            return known
        insist_settled_as(raw, command.cell_id, won=None)
        reason = refused(raw, command.user_id, -command.amount)
        if not isinstance(reason, InsufficientFundsError):
            raise reason or conflict(command.id)
        row = (*terms, "insufficient_funds", now, now)
    raw.execute(_INSERT_BET, row)
    return Bet.from_rows([(*row, None)])[0]


def place_bets(books: Books, command: PlaceBets) -> tuple[Bet | LedgerError, ...]:
    return tuple(_place_or_refuse(books, bet) for bet in command.bets)


def _place_or_refuse(books: Books, command: PlaceBet) -> Bet | LedgerError:
    try:
        return place_bet(books, command)
    except LedgerError as error:  # raised before anything was written
        return error


def confirm_bet(books: Books, command: ConfirmBet) -> Bet:
    row = books.raw.execute(_CONFIRM, (books.now, command.bet_id)).fetchone()
    return Bet.from_rows([row])[0] if row else _standing(books.raw, command.bet_id, BetStatus.CONFIRMED)


def settle_bet(books: Books, command: SettleBet) -> Bet:
    if not command.won:
        return _resolve(books, command.bet_id, BetStatus.LOST) or _standing(books.raw, command.bet_id, BetStatus.LOST)
    bet = _resolve(books, command.bet_id, BetStatus.WON)
    if bet is None:
        return _standing(books.raw, command.bet_id, BetStatus.WON)
    _give(books, bet.user_id, bet.payout_amount or 0, ("payout", bet.id, None))
    return bet


def cancel_bet(books: Books, command: CancelBet) -> Bet:
    bet = _resolve(books, command.bet_id, BetStatus.CANCELLED)
    if bet is None:
        return _standing(books.raw, command.bet_id, BetStatus.CANCELLED)
    _give(books, bet.user_id, bet.amount, ("refund", bet.id, None))
    return bet


def _resolve(books: Books, bet_id: str, status: BetStatus) -> Bet | None:
    """Decide an open bet; None when there is no such bet, or it is not open."""
    sql = _RESOLVE_WON if status is BetStatus.WON else _RESOLVE_UNPAID
    row = books.raw.execute(sql, {"status": status.value, "now": books.now, "id": bet_id}).fetchone()
    return Bet.from_rows([row])[0] if row else None


def _standing(raw: sqlite3.Connection, bet_id: str, wanted: BetStatus) -> Bet:
    """Return what an earlier decision came to. Raises BetNotFoundError, InvalidTransitionError."""
    row = bet_row(raw, bet_id)
    if row is None:
        raise unknown_bet(bet_id)
    return standing(row, wanted)


def _give(books: Books, user_id: str, amount: int, reference: _Reference) -> None:
    """Add to a balance, with its entry. Raises UserNotFoundError, BalanceLimitError."""
    changed = books.raw.execute(_CHANGE_ALWAYS, (amount, books.now, user_id)).fetchone()
    if changed is None:
        reason = refused(books.raw, user_id, amount) or unknown_user(user_id)
        if reference[0] in {"payout", "refund"}:
            reason.facts["bet_id"] = reference[1]
        raise reason
    _book(books, (user_id, *changed), amount, reference)


def _book(books: Books, user: tuple[str, int, int], amount: int, reference: _Reference) -> tuple[Any, ...]:
    """Write the ledger entry of a change; `user` is id, balance and version after it. Returns its `ENTRY_COLUMNS`."""
    user_id, balance, version = user
    kind, ref_id, metadata = reference
    entry_id, text = books.new_id.at(books.now), None if metadata is None else json.dumps(metadata)
    books.raw.execute(INSERT_ENTRY, (entry_id, user_id, version, amount, balance, kind, ref_id, text, books.now))
    return entry_id, user_id, amount, balance, kind, ref_id, text, books.now


def user_of(raw: sqlite3.Connection, user_id: str) -> User | None:
    row = raw.execute(_USER, (user_id,)).fetchone()
    return None if row is None else User.from_rows([row])[0]


def insist_settled_as(raw: sqlite3.Connection, cell_id: str, *, won: bool | None) -> None:
    """Raise CellClosedError for a cell that was settled otherwise; with None for any that was settled."""
    closed = raw.execute(_CLOSED, (cell_id,)).fetchone()
    if closed is not None and closed[0] != won:
        won = bool(closed[0])
        verdict = "won" if won else "lost"
        raise CellClosedError(f"cell {cell_id!r} is closed: it was settled as {verdict}", cell_id=cell_id, won=won)


def refused(raw: sqlite3.Connection, user_id: str, amount: int, expected: int | None = None) -> LedgerError | None:
    """Return why a balance cannot change by `amount`; None where it could."""
    user = user_of(raw, user_id)
    if user is None:
        return unknown_user(user_id)
    if expected is not None and user.version != expected:
        return ConcurrentUpdateError(
            f"user {user_id} has version {user.version}, not {expected}: read it again",
            user_id=user_id,
            expected=expected,
            version=user.version,
        )
    if user.balance + amount > MAX_MONEY:
        return BalanceLimitError(
            f"the balance of user {user_id} cannot grow by {amount}: that is too much", user_id=user_id, amount=amount
        )
    if user.balance + amount < 0:
        return InsufficientFundsError(
            f"user {user_id} has {user.balance}, {-amount} is needed",
            user_id=user_id,
            balance=user.balance,
            amount=-amount,
        )
    return None


def unknown_user(user_id: str) -> UserNotFoundError:
    return UserNotFoundError(f"there is no user {user_id!r}", user_id=user_id)


def unknown_bet(bet_id: str) -> BetNotFoundError:
    return BetNotFoundError(f"there is no bet {bet_id!r}", bet_id=bet_id)
