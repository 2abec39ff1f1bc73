"""Whatever is done to users and bets, in any order: the ledger does what a few lines of plain Python do."""

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from ledger_files import NOON, open_books

from betcore_async.clock import ManualClock
from betcore_async.errors import (
    IdempotencyConflictError,
    InsufficientFundsError,
    InvalidTransitionError,
    UserExistsError,
)
from betcore_async.models import OPEN_STATUSES, TRANSITIONS, BetStatus
from betcore_async.stores.commands import CreateUser, Deposit, PlaceBet, SettleChunk, Transfer, Withdraw

CELLS = st.sampled_from(["up", "down"])
AMOUNTS = st.integers(1, 120)


@dataclass
class Stake:
    """A bet, as the model has it."""

    command: PlaceBet
    status: BetStatus
    payout: int | None = None


class Ledger(RuleBasedStateMachine):
    users, bets, commands = Bundle("users"), Bundle("bets"), Bundle("commands")

    @initialize()
    def open(self):
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock(NOON)
        self.stack = contextlib.AsyncExitStack()
        books = open_books(Path(self.folder.name), self.clock)
        self.books = self.runner.run(self.stack.enter_async_context(books))
        self.balances, self.stakes, self.wallets = {}, {}, {}
        self.moves = {}  # outcome of each command that moved money

    def run(self, command):
        return self.runner.run(self.books.engine.execute(command))

    def fails(self, command, error):
        try:
            self.run(command)
        except error:
            return True
        raise AssertionError(f"{command} was not refused")

    @property
    def new_id(self):
        return self.books.engine.new_id()

    # Users

    @rule(target=users, wallet=st.integers(0, 5), balance=st.integers(0, 200))
    def create(self, wallet, balance):
        command = CreateUser(self.new_id, f"0x{wallet}", balance)
        if wallet in self.wallets:
            self.fails(command, UserExistsError)
            return self.wallets[wallet]
        assert self.run(command).balance == balance
        self.balances[command.id], self.wallets[wallet] = balance, command.id
        return command.id

    @rule(target=commands, user=users, amount=AMOUNTS)
    def deposit(self, user, amount):
        return self.moved(Deposit(self.new_id, user, amount), user, amount)

    @rule(target=commands, user=users, amount=AMOUNTS)
    def withdraw(self, user, amount):
        return self.moved(Withdraw(self.new_id, user, amount), user, -amount)

    @rule(target=commands, payer=users, payee=users, amount=AMOUNTS)
    def transfer(self, payer, payee, amount):
        if payer == payee:
            return self.moved(Deposit(self.new_id, payer, amount), payer, amount)
        command = self.moved(Transfer(self.new_id, payer, payee, amount), payer, -amount)
        self.balances[payee] += amount if command.id in self.moves else 0
        return command

    def moved(self, command, user, amount):
        if self.balances[user] + amount < 0:
            self.fails(command, InsufficientFundsError)
        else:
            self.moves[command.id] = entry = self.run(command)
            self.balances[user] += amount
            assert (entry.amount, entry.balance_after) == (amount, self.balances[user])
        return command

    # Bets

    @rule(target=bets, user=users, cell=CELLS, amount=AMOUNTS, ppm=st.integers(1_000_000, 3_000_000))
    def place(self, user, cell, amount, ppm):
        command = PlaceBet(self.new_id, user, cell, amount, ppm)
        funded = self.balances[user] >= amount
        bet = self.run(command)
        assert bet.status is (BetStatus.PENDING if funded else BetStatus.INSUFFICIENT_FUNDS)
        self.balances[user] -= amount if funded else 0
        self.stakes[command.id] = Stake(command, bet.status)
        return command.id

    @rule(bet=bets, wanted=st.sampled_from(["confirmed", "won", "lost", "cancelled"]))
    def decide(self, bet, wanted):
        stake, wanted = self.stakes[bet], BetStatus(wanted)
        call = {
            "confirmed": lambda: self.books.bets.confirm(bet),
            "won": lambda: self.books.bets.settle(bet, True),
            "lost": lambda: self.books.bets.settle(bet, False),
            "cancelled": lambda: self.books.bets.cancel(bet),
        }[wanted]
        if stake.status is wanted or wanted in TRANSITIONS[stake.status]:
            decided = self.runner.run(call())
            self.move_on(stake, wanted)
            assert (decided.status, decided.payout_amount) == (stake.status, stake.payout)
        else:
            with contextlib.suppress(InvalidTransitionError):
                self.runner.run(call())
                raise AssertionError("it was not refused")

    def move_on(self, stake, status):
        if stake.status is status:
            return
        stake.status = status
        if status is BetStatus.WON:
            stake.payout = stake.command.amount * stake.command.reward_ppm // 1_000_000
            self.balances[stake.command.user_id] += stake.payout
        elif status is BetStatus.CANCELLED:
            self.balances[stake.command.user_id] += stake.command.amount

    @rule(cell=CELLS, won=st.booleans())
    def settle_cell(self, cell, won):
        waiting = [bet for bet in self.stakes.values() if bet.command.cell_id == cell and bet.status in OPEN_STATUSES]
        settled = self.runner.run(self.books.bets.settle_cell(cell, won))
        for stake in waiting:
            self.move_on(stake, BetStatus.WON if won else BetStatus.LOST)
        assert (settled.bets, settled.payout) == (len(waiting), sum(stake.payout or 0 for stake in waiting))

    @rule(cell=CELLS, won=st.booleans(), size=st.integers(1, 3))
    def settle_one_chunk_twice(self, cell, won, size):
        waiting = sorted(
            bet.command.id
            for bet in self.stakes.values()
            if bet.command.cell_id == cell and bet.status in OPEN_STATUSES
        )[:size]
        upto = self.runner.run(self.books.engine.chunk_end(cell, "", size))
        assert upto == (waiting[-1] if waiting else None)
        if waiting:
            assert [self.run(SettleChunk(cell, won, "", upto)).bets for _ in range(2)] == [len(waiting), 0]
            for bet in waiting:
                self.move_on(self.stakes[bet], BetStatus.WON if won else BetStatus.LOST)

    # Time, and what comes again

    @rule(weeks=st.integers(0, 2), hours=st.integers(-2, 60))
    def time_passes(self, weeks, hours):
        self.clock.now += timedelta(weeks=weeks, hours=hours)

    @rule()
    def rotate(self):
        self.runner.run(self.books.partitions.rotate_to_new_week())

    @rule(command=commands)
    def repeat(self, command):
        if command.id in self.moves:
            assert self.run(command) == self.moves[command.id]
            self.fails(replace(command, amount=command.amount + 1), IdempotencyConflictError)

    @rule(bet=bets)
    def place_again(self, bet):
        stake = self.stakes[bet]
        again = self.run(stake.command)
        assert (again.status, again.payout_amount) == (stake.status, stake.payout)
        self.fails(replace(stake.command, cell_id="elsewhere"), IdempotencyConflictError)
        self.fails(Deposit(bet, stake.command.user_id, 1), IdempotencyConflictError)

    def teardown(self):
        try:
            self.runner.run(self.check())
        finally:
            self.runner.run(self.stack.aclose())
            self.runner.close()
            self.folder.cleanup()

    async def check(self):
        await self.books.assert_audit_is_clean()
        for user, balance in self.balances.items():
            assert await self.books.ledger.balance(user) == balance
            assert sum(entry.amount for entry in await self.books.ledger.entries(user, limit=None)) == balance
            listed = {bet.id: bet for bet in (await self.books.bets.history(user, limit=1000)).bets}
            mine = {bet: stake for bet, stake in self.stakes.items() if stake.command.user_id == user}
            assert {bet: stake.status for bet, stake in mine.items()} == {
                id_: bet.status for id_, bet in listed.items()
            }
        for bet, stake in self.stakes.items():
            assert (await self.books.bets.get(bet)).payout_amount == stake.payout


TestLedger = Ledger.TestCase
TestLedger.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
