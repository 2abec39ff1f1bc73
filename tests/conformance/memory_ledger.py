"""An engine in plain Python that keeps everything in memory, for the conformance tests.

Nobody would use it. It has nothing in common with the engine on SQLite, and so shows that the tests ask for what the
protocol says and for no more; where a test is wanted that only one of the two can pass, it belongs elsewhere.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from betcore_async.clock import ManualClock, to_microseconds
from betcore_async.errors import (
    BalanceLimitError,
    BetNotFoundError,
    CellClosedError,
    ConcurrentUpdateError,
    IdempotencyConflictError,
    InsufficientFundsError,
    InvalidTransitionError,
    LedgerError,
    ModelError,
    UserExistsError,
    UserNotFoundError,
)
from betcore_async.ids import IdGenerator
from betcore_async.models import (
    MAX_MONEY,
    OPEN_STATUSES,
    PPM,
    TRANSITIONS,
    Bet,
    BetStatus,
    LedgerEntry,
    User,
    as_replay,
    payout,
)
from betcore_async.partitions import BetPage, Cursor, Week
from betcore_async.stores import AuditReport
from betcore_async.stores.commands import (
    CancelBet,
    ChunkSettlement,
    ConfirmBet,
    CreateUser,
    Deposit,
    PlaceBet,
    PlaceBets,
    SettleBet,
    SettleChunk,
    Transfer,
    Withdraw,
)


@dataclass
class Cell:
    won: bool
    chunks: list[ChunkSettlement] = field(default_factory=list)
    upto: str = ""


@dataclass
class World:
    """What all engines on it see."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime(2026, 11, 18, 12, tzinfo=UTC)))
    users: dict[str, User] = field(default_factory=dict)
    bets: dict[str, Bet] = field(default_factory=dict)
    entries: list[LedgerEntry] = field(default_factory=list)
    cells: dict[str, Cell] = field(default_factory=dict)
    done: dict = field(default_factory=dict)
    """Commands by their id, with their first outcome."""
    confirmed: dict[str, Bet] = field(default_factory=dict)


class MemoryLedger:
    def __init__(self, world):
        self.world = world
        self.new_id = IdGenerator(world.clock)

    async def execute(self, command):
        await asyncio.sleep(0)  # others come in between two commands, and never into one
        match command:
            case PlaceBets():
                return tuple(self.place_or_refuse(bet) for bet in command.bets)
            case SettleChunk():
                return self.settle_chunk(command)
            case ConfirmBet() | SettleBet() | CancelBet():
                return self.decide(command)
        return self.once(command)

    def place_or_refuse(self, command):
        try:
            return self.once(command)
        except LedgerError as error:
            return error

    def once(self, command):
        if command.id not in self.world.done:
            self.world.done[command.id] = command, self.carry_out(command)
            return self.world.done[command.id][1]
        first, outcome = self.world.done[command.id]
        if type(first) is not type(command) or terms(first) != terms(command):
            raise IdempotencyConflictError(f"{command.id} was used before", id=command.id)
        return as_replay(outcome.model_copy())

    def carry_out(self, command):
        match command:
            case CreateUser():
                return self.create(command)
            case Deposit(id=id_, user_id=user, amount=amount):
                self.insist(user, amount, command.expected_version)
                return self.book(user, amount, "deposit", id_)
            case Withdraw(id=id_, user_id=user, amount=amount):
                self.insist(user, -amount, command.expected_version)
                return self.book(user, -amount, "withdrawal", id_)
            case Transfer(id=id_, from_user_id=payer, to_user_id=payee, amount=amount):
                self.insist(payer, -amount, command.expected_version)
                self.insist(payee, amount)
                self.book(payee, amount, "transfer_in", id_, {"from": payer})
                return self.book(payer, -amount, "transfer_out", id_, {"to": payee})
            case PlaceBet():
                return self.place(command)

    # Users

    def create(self, command):
        if any(user.wallet_address == command.wallet_address for user in self.world.users.values()):
            raise UserExistsError("it has an account", wallet_address=command.wallet_address)
        now, id_, wallet = self.world.clock(), command.id, command.wallet_address
        user = User(id=id_, wallet_address=wallet, balance=0, version=1, created_at=now, updated_at=now)
        self.world.users[id_] = user.model_copy(update={"version": 0})
        self.book(id_, command.opening_balance, "opening", id_)
        return self.world.users[id_]

    def insist(self, user_id, amount, expected=None):
        """Raise the error that says why a balance cannot change by `amount`, if it cannot."""
        user = self.world.users.get(user_id)
        if user is None:
            raise UserNotFoundError(f"there is no user {user_id}", user_id=user_id)
        if expected not in {None, user.version}:
            raise ConcurrentUpdateError("it changed", user_id=user_id, expected=expected, version=user.version)
        if user.balance + amount > MAX_MONEY:
            raise BalanceLimitError("too much", user_id=user_id, amount=amount)
        if user.balance + amount < 0:
            raise InsufficientFundsError(f"{-amount} is needed", user_id=user_id, balance=user.balance, amount=-amount)

    def book(self, user_id, amount, kind, ref_id, metadata=None):
        user, now = self.world.users[user_id], self.world.clock()
        balance, version = user.balance + amount, user.version + 1
        change = {"balance": balance, "version": version, "updated_at": max(user.updated_at, now)}
        self.world.users[user_id] = user.model_copy(update=change)
        what = {"amount": amount, "balance_after": balance, "ref_type": kind, "ref_id": ref_id, "metadata": metadata}
        entry = LedgerEntry(id=self.new_id(), user_id=user_id, created_at=now, **what)
        self.world.entries.append(entry)
        return entry

    # Bets

    def place(self, command):
        user, cell, amount = command.user_id, command.cell_id, command.amount
        if closed := self.world.cells.get(cell):
            raise CellClosedError("the cell is closed", cell_id=cell, won=closed.won)
        now, status, resolved_at = self.world.clock(), BetStatus.PENDING, None
        try:
            self.insist(user, -amount)
            self.book(user, -amount, "stake", command.id)
        except InsufficientFundsError:
            status, resolved_at = BetStatus.INSUFFICIENT_FUNDS, now
        what = {"user_id": user, "cell_id": cell, "amount": amount, "reward_rate": command.reward_ppm / PPM}
        bet = Bet(id=command.id, status=status, placed_at=now, resolved_at=resolved_at, **what)
        self.world.bets[bet.id] = bet
        return bet

    def decide(self, command):
        match command:
            case SettleBet():
                wanted = BetStatus.WON if command.won else BetStatus.LOST
            case CancelBet():
                wanted = BetStatus.CANCELLED
            case _:
                wanted = BetStatus.CONFIRMED
        bet = self.world.bets.get(command.bet_id)
        if bet is None:
            raise BetNotFoundError("there is no such bet", bet_id=command.bet_id)
        if wanted is BetStatus.CONFIRMED and bet.id in self.world.confirmed:
            return as_replay(self.world.confirmed[bet.id].model_copy())
        if bet.status is wanted:
            return as_replay(bet.model_copy())
        if wanted not in TRANSITIONS[bet.status]:
            raise InvalidTransitionError("it cannot", bet_id=bet.id, status=bet.status, wanted=wanted)
        return self.move_on(bet, wanted)

    def move_on(self, bet, wanted):
        change = {"status": wanted}
        if wanted is BetStatus.CONFIRMED:
            self.world.confirmed[bet.id] = bet.model_copy(update=change)
        else:
            change["resolved_at"] = max(bet.placed_at, self.world.clock())
        if wanted is BetStatus.WON:
            change["payout_amount"] = payout(bet.amount, self.world.done[bet.id][0].reward_ppm)
            self.give(bet, change["payout_amount"], "payout")
        elif wanted is BetStatus.CANCELLED:
            self.give(bet, bet.amount, "refund")
        self.world.bets[bet.id] = bet.model_copy(update=change)
        return self.world.bets[bet.id]

    def give(self, bet, amount, kind):
        try:
            self.insist(bet.user_id, amount)
        except BalanceLimitError as error:
            error.facts["bet_id"] = bet.id
            raise
        self.book(bet.user_id, amount, kind, bet.id)

    def settle_chunk(self, command):
        cell = self.world.cells.get(command.cell_id, Cell(command.won))
        if cell.won is not command.won:
            raise CellClosedError("it was settled the other way", cell_id=command.cell_id, won=cell.won)
        if command.number <= len(cell.chunks):
            first = cell.chunks[command.number - 1]
            still_open = tuple(bet for bet in first.unpaid if self.world.bets[bet].is_open)
            return replace(first, unpaid=still_open, replayed=True)
        if command.number > len(cell.chunks) + 1:
            raise ModelError("it comes before the one that it follows", field="number")
        if cell.chunks and cell.chunks[-1].is_last:
            return ChunkSettlement(0, 0, (), is_last=True, replayed=True)
        self.world.cells[command.cell_id] = cell
        waiting = sorted(
            bet.id
            for bet in self.world.bets.values()
            if bet.cell_id == command.cell_id and bet.status in OPEN_STATUSES and bet.id > cell.upto
        )
        cell.chunks.append(self.settled(waiting[: command.size], cell, is_last=len(waiting) <= command.size))
        return cell.chunks[-1]

    def settled(self, bets, cell, *, is_last):
        decided, unpaid = [], []
        for bet in bets:
            cell.upto = bet
            try:
                decided.append(self.move_on(self.world.bets[bet], BetStatus.WON if cell.won else BetStatus.LOST))
            except BalanceLimitError:
                unpaid.append(bet)
        paid = sum(bet.payout_amount or 0 for bet in decided)
        return ChunkSettlement(len(decided), paid, tuple(unpaid), is_last=is_last)

    # Questions

    async def user(self, user_id):
        return self.world.users.get(user_id)

    async def user_by_wallet(self, wallet_address):
        return next((user for user in self.world.users.values() if user.wallet_address == wallet_address), None)

    async def bet(self, bet_id):
        return self.world.bets.get(bet_id)

    async def history(self, user_id, start, end, *, status, limit, cursor, newest_first, **_):
        places = sorted(
            (to_microseconds(bet.placed_at), bet.id)
            for bet in self.world.bets.values()
            if bet.user_id == user_id and start <= bet.placed_at < end and status in {None, bet.status}
        )
        if cursor is not None:
            ended = (cursor.placed_at, cursor.id)
            places = [place for place in places if (place < ended if newest_first else place > ended)]
        page = (places[::-1] if newest_first else places)[:limit]
        more = Cursor(*page[-1]) if len(places) > limit else None
        return BetPage([self.world.bets[bet] for _, bet in page], more, ())

    async def entries(self, user_id, start, end, *, limit, newest_first):
        found = [entry for entry in self.world.entries if entry.user_id == user_id and start <= entry.created_at < end]
        return found[::-1][:limit] if newest_first else found[:limit]

    async def audit(self, weeks, progress):
        """Count; there is nothing here that could be wrong on a disk."""
        every = {Week.of(entry.created_at) for entry in self.world.entries} or {Week.of(self.world.clock())}
        chosen = every if weeks is None else set(weeks)
        for done, _ in enumerate(chosen, start=1):
            if progress is not None:
                progress(done, len(chosen))
        sums = Counter()
        for entry in self.world.entries:
            if Week.of(entry.created_at) in chosen:
                sums[entry.ref_type] += entry.amount
        held = sum(user.balance for user in self.world.users.values())
        counts = {
            "weeks": len(chosen),
            "users": len(self.world.users),
            "bets": sum(Week.of(bet.placed_at) in chosen for bet in self.world.bets.values()),
            "staked": -sums["stake"],
            "paid": sums["payout"],
            "deposited": sums["deposit"],
            "held": held,
        }
        came_in = sum(amount for kind, amount in sums.items() if amount > 0)
        went_out = -sum(amount for kind, amount in sums.items() if amount < 0)
        return AuditReport((), counts | {"money_in": held - sums.total() + came_in, "money_out": held + went_out})


def terms(command):
    """What has to be the same in a repeat; the version that a caller saw need not."""
    return replace(command, expected_version=None) if hasattr(command, "expected_version") else command
