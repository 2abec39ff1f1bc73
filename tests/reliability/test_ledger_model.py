"""Whatever is done to users and bets, in any order: the ledger does what a few lines of plain Python do."""

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule
from ledger_files import NOON, open_books

from betcore_async.clock import ManualClock
from betcore_async.errors import (
    CellClosedError,
    IdempotencyConflictError,
    InsufficientFundsError,
    InvalidTransitionError,
    UserExistsError,
)
from betcore_async.models import OPEN_STATUSES, TRANSITIONS, Bet, BetStatus
from betcore_async.stores import CellSettlement
from betcore_async.stores.commands import (
    ChunkSettlement,
    CreateUser,
    Deposit,
    PlaceBet,
    PlaceBets,
    SettleChunk,
    Transfer,
    Withdraw,
)

CELLS = st.sampled_from(["up", "down", "left", "right"])
AMOUNTS = st.integers(1, 120)
RATES = st.integers(1_000_000, 3_000_000)


@dataclass
class Stake:
    """A bet, as the model has it."""

    command: PlaceBet
    status: BetStatus
    placed: Bet
    payout: int | None = None
    was_confirmed: bool = False


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
        self.verdicts = {}  # of each cell that was settled
        self.chunks = {}  # outcome of each chunk that was decided, by cell
        self.touched = {}  # cells of which a chunk was decided, by week
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

    @rule(target=bets, user=users, cell=CELLS, amount=AMOUNTS, ppm=RATES)
    def place(self, user, cell, amount, ppm):
        command = PlaceBet(self.new_id, user, cell, amount, ppm)
        if cell in self.verdicts:
            self.fails(command, CellClosedError)
            return multiple()
        self.placed(command, self.run(command))
        return command.id

    @rule(target=bets, wanted=st.lists(st.tuples(users, CELLS, AMOUNTS, RATES), max_size=5))
    def place_many(self, wanted):
        commands = [PlaceBet(self.new_id, *terms) for terms in wanted]
        outcomes = self.run(PlaceBets(tuple(commands)))
        for command, outcome in zip(commands, outcomes, strict=True):
            if command.cell_id in self.verdicts:
                assert isinstance(outcome, CellClosedError)
            else:
                self.placed(command, outcome)
        known = [command for command in commands if command.id in self.stakes]
        again = self.run(PlaceBets(tuple(known)))
        assert list(again) == [outcome for outcome in outcomes if not isinstance(outcome, CellClosedError)]
        assert all(outcome.replayed for outcome in again)
        return multiple(*(command.id for command in known))

    def placed(self, command, bet):
        funded = self.balances[command.user_id] >= command.amount
        assert bet.status is (BetStatus.PENDING if funded else BetStatus.INSUFFICIENT_FUNDS)
        assert not bet.replayed
        self.balances[command.user_id] -= command.amount if funded else 0
        self.stakes[command.id] = Stake(command, bet.status, bet)

    @rule(bet=bets, wanted=st.sampled_from(["confirmed", "won", "lost", "cancelled"]))
    def decide(self, bet, wanted):
        stake, wanted = self.stakes[bet], BetStatus(wanted)
        call = {
            "confirmed": lambda: self.books.bets.confirm(bet),
            "won": lambda: self.books.bets.settle(bet, True),
            "lost": lambda: self.books.bets.settle(bet, False),
            "cancelled": lambda: self.books.bets.cancel(bet),
        }[wanted]
        if wanted is BetStatus.CONFIRMED and stake.was_confirmed:
            again = self.runner.run(call())
            assert again == stake.placed.model_copy(update={"status": BetStatus.CONFIRMED})
            assert again.replayed
        elif stake.status is wanted or wanted in TRANSITIONS[stake.status]:
            replayed = stake.status is wanted
            decided = self.runner.run(call())
            self.move_on(stake, wanted)
            assert (decided.status, decided.payout_amount) == (stake.status, stake.payout)
            assert decided.replayed is replayed
        else:
            with contextlib.suppress(InvalidTransitionError):
                self.runner.run(call())
                raise AssertionError("it was not refused")

    def move_on(self, stake, status):
        if stake.status is status:
            return
        stake.status = status
        stake.was_confirmed |= status is BetStatus.CONFIRMED
        if status is BetStatus.WON:
            stake.payout = stake.command.amount * stake.command.reward_ppm // 1_000_000
            self.balances[stake.command.user_id] += stake.payout
        elif status is BetStatus.CANCELLED:
            self.balances[stake.command.user_id] += stake.command.amount

    @rule(cell=CELLS, won=st.booleans())
    def settle_cell(self, cell, won):
        if self.verdicts.setdefault(cell, won) is not won:
            self.fails(SettleChunk(cell, won, 1), CellClosedError)
            return
        waiting = self.open_bets(cell)
        chunks = self.chunks.setdefault(cell, [])
        settled = self.runner.run(self.books.bets.settle_cell(cell, won))
        if not (chunks and chunks[-1].is_last):
            self.decide_all(cell, waiting, won)
            chunks.append(ChunkSettlement(len(waiting), self.payouts(waiting), (), is_last=True))
        assert settled == CellSettlement(sum(one.bets for one in chunks), sum(one.payout for one in chunks))

    @rule(cell=CELLS, won=st.booleans(), size=st.integers(1, 3))
    def settle_one_chunk_twice(self, cell, won, size):
        chunks = self.chunks.setdefault(cell, [])
        if self.verdicts.setdefault(cell, won) is not won or (chunks and chunks[-1].is_last):
            return
        waiting = self.open_bets(cell)
        decided = waiting[:size]
        first, again = [self.run(SettleChunk(cell, won, len(chunks) + 1, size)) for _ in range(2)]
        self.decide_all(cell, decided, won)
        chunks.append(ChunkSettlement(len(decided), self.payouts(decided), (), is_last=decided == waiting))
        assert first == again == chunks[-1]
        assert (first.replayed, again.replayed) == (False, True)

    def open_bets(self, cell):
        stakes = (self.stakes[bet] for bet in sorted(self.stakes))
        return [stake for stake in stakes if stake.command.cell_id == cell and stake.status in OPEN_STATUSES]

    def decide_all(self, cell, stakes, won):
        self.touched.setdefault(self.books.partitions.current_week, set()).add(cell)
        for stake in stakes:
            self.move_on(stake, BetStatus.WON if won else BetStatus.LOST)

    def payouts(self, stakes):
        return sum(stake.payout or 0 for stake in stakes)

    # Time, and what comes again

    @rule(weeks=st.integers(0, 2), hours=st.integers(-2, 60))
    def time_passes(self, weeks, hours):
        self.clock.now += timedelta(weeks=weeks, hours=hours)

    @rule()
    def rotate(self):
        report = self.runner.run(self.books.partitions.rotate_to_new_week())
        if report.performed:
            # What was settled in the week before is still known, and what is not settled to its end.
            fresh = self.touched.get(report.previous, set())
            for cell in set(self.verdicts) - fresh:
                if self.chunks[cell][-1].is_last:
                    del self.verdicts[cell], self.chunks[cell]

    @rule(command=commands)
    def repeat(self, command):
        if command.id in self.moves:
            assert self.run(command) == self.moves[command.id]
            self.fails(replace(command, amount=command.amount + 1), IdempotencyConflictError)

    @rule(bet=bets)
    def place_again(self, bet):
        stake = self.stakes[bet]
        again = self.run(stake.command)
        assert again == stake.placed
        assert again.replayed
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
