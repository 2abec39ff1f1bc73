"""Whatever is done to users and bets, in any order, and killed amid any of it: the ledger does what a few lines of
plain Python do."""

import asyncio
import contextlib
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import chain, islice

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule
from ledger_files import NOON, WEEK
from reliability.mortal_books import MortalBooks

from betcore_async.clock import ManualClock
from betcore_async.errors import (
    CellClosedError,
    ConcurrentUpdateError,
    IdempotencyConflictError,
    InsufficientFundsError,
    InvalidTransitionError,
    UserExistsError,
)
from betcore_async.models import OPEN_STATUSES, TRANSITIONS, Bet, BetStatus
from betcore_async.relay import OutboxRelay
from betcore_async.stores import CellSettlement, Event, outbox
from betcore_async.stores import bets as bets_module
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
SEEN = st.sampled_from([None, None, 0, 1])
"""How far the version that a caller saw is from the user's."""
CHUNK = 2  # that of `settle_cell` here
CHUNK_BEFORE = bets_module.CHUNK


@dataclass
class Stake:
    """A bet, as the model has it."""

    command: PlaceBet
    status: BetStatus
    placed: Bet
    payout: int | None = None
    was_confirmed: bool = False


class Subscriber:
    """Hears what a relay tells, and keeps of each user what is new."""

    def __init__(self):
        self.heard, self.last, self.surprise = {}, {}, None

    async def publish(self, channel, message, **_):
        event = Event.parse(message)
        told = self.heard.setdefault(event.user_id, [])
        if event.sequence > self.last.get(event.user_id, -1):
            self.last[event.user_id] = event.sequence
            told.append(the_gist(event))
        if the_gist(event) not in told or channel != f"events:user:{event.user_id}":
            self.surprise = f"{event} on {channel} is no repeat; the last one was {self.last}"


def the_gist(event):
    return event.kind.value, event.bet and event.bet.id, event.entry and event.entry.amount


def is_told(heard, groups):
    """Whether what was heard is one group after the other, each of them in whatever order."""
    rest = iter(heard)
    in_order = all(sorted(islice(rest, len(group)), key=str) == sorted(group, key=str) for group in groups)
    return in_order and not [*rest]


class Ledger(RuleBasedStateMachine):
    users, bets, commands = Bundle("users"), Bundle("bets"), Bundle("commands")

    @initialize()
    def open(self):
        bets_module.CHUNK = CHUNK
        self.mortal = MortalBooks(ManualClock(NOON))
        self.mortal.run(lambda books: books.partitions.write(outbox.turn_on))
        self.balances, self.versions, self.stakes, self.wallets = {}, {}, {}, {}
        self.verdicts = {}  # of each cell that was settled
        self.chunks = {}  # outcome of each chunk that was decided, by cell
        self.touched = {}  # cells of which a chunk was decided, by week
        self.moves = {}  # outcome of each command that moved money
        self.events, self.subscriber = {}, Subscriber()
        self.week_ends = False  # between the next crash and what is repeated after it

    @property
    def books(self):
        return self.mortal.books

    def run(self, command, meanwhile=lambda: None):
        return self.mortal.run(lambda books: books.engine.execute(command), meanwhile)

    def fails(self, command, error):
        try:
            self.run(command)
        except error:
            return True
        raise AssertionError(f"{command} was not refused")

    @property
    def new_id(self):
        return self.books.engine.new_id()

    @rule(point=st.integers(0, 12), week_ends=st.booleans())
    def be_killed_amid_the_next_commit(self, point, week_ends):
        self.mortal.dies, self.week_ends = point, week_ends

    def meanwhile(self):
        """What happens after a crash before the caller asks again."""
        if self.week_ends:
            self.mortal.clock.advance(WEEK)
            self.rotate(None)

    def changed(self, user, amount, kind, bet=None):
        self.balances[user] += amount
        self.versions[user] += 1
        self.events[user].append([(kind, bet, amount)])

    # Users

    @rule(target=users, wallet=st.integers(0, 5), balance=st.integers(0, 200))
    def create(self, wallet, balance):
        command = CreateUser(self.new_id, f"0x{wallet}", balance)
        if wallet in self.wallets:
            self.fails(command, UserExistsError)
            return self.wallets[wallet]
        assert self.run(command, self.meanwhile).balance == balance
        self.balances[command.id] = self.versions[command.id] = 0
        self.wallets[wallet], self.events[command.id] = command.id, []
        self.changed(command.id, balance, "balance_changed")
        return command.id

    @rule(target=commands, user=users, amount=AMOUNTS, seen=SEEN)
    def deposit(self, user, amount, seen):
        return self.moved(partial(Deposit, self.new_id, user, amount), user, amount, seen)

    @rule(target=commands, user=users, amount=AMOUNTS, seen=SEEN)
    def withdraw(self, user, amount, seen):
        return self.moved(partial(Withdraw, self.new_id, user, amount), user, -amount, seen)

    @rule(target=commands, payer=users, payee=users, amount=AMOUNTS, seen=SEEN)
    def transfer(self, payer, payee, amount, seen):
        if payer == payee:
            return self.deposit(payer, amount, seen)
        command = self.moved(partial(Transfer, self.new_id, payer, payee, amount), payer, -amount, seen)
        if command.id in self.moves:
            self.changed(payee, amount, "balance_changed")
        return command

    def moved(self, make, user, amount, seen):
        command = make(None if seen is None else self.versions[user] + seen)
        if seen:
            self.fails(command, ConcurrentUpdateError)
        elif self.balances[user] + amount < 0:
            self.fails(command, InsufficientFundsError)
        else:
            self.moves[command.id] = entry = self.run(command, self.meanwhile)
            self.changed(user, amount, "balance_changed")
            assert (entry.amount, entry.balance_after) == (amount, self.balances[user])
        return command

    # Bets

    @rule(target=bets, user=users, cell=CELLS, amount=AMOUNTS, ppm=RATES)
    def place(self, user, cell, amount, ppm):
        command = PlaceBet(self.new_id, user, cell, amount, ppm)
        if cell in self.verdicts:
            self.fails(command, CellClosedError)
            return multiple()
        self.placed(command, self.run(command, self.meanwhile))
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
        if funded:
            self.changed(command.user_id, -command.amount, "bet_placed", bet.id)
        else:
            self.events[command.user_id].append([("bet_refused", bet.id, None)])
        self.stakes[command.id] = Stake(command, bet.status, bet)

    @rule(bet=bets, wanted=st.sampled_from(["confirmed", "won", "lost", "cancelled"]))
    def decide(self, bet, wanted):
        stake, wanted = self.stakes[bet], BetStatus(wanted)
        call = {
            "confirmed": lambda books: books.bets.confirm(bet),
            "won": lambda books: books.bets.settle(bet, True),
            "lost": lambda books: books.bets.settle(bet, False),
            "cancelled": lambda books: books.bets.cancel(bet),
        }[wanted]
        if wanted is BetStatus.CONFIRMED and stake.was_confirmed:
            again = self.mortal.run(call)
            assert again == stake.placed.model_copy(update={"status": BetStatus.CONFIRMED})
            assert again.replayed
        elif stake.status is wanted or wanted in TRANSITIONS[stake.status]:
            replayed = stake.status is wanted
            decided = self.mortal.run(call, self.meanwhile)
            self.move_on(stake, wanted)
            assert (decided.status, decided.payout_amount) == (stake.status, stake.payout)
            assert decided.replayed is replayed
        else:
            with contextlib.suppress(InvalidTransitionError):
                self.mortal.run(call)
                raise AssertionError("it was not refused")

    def move_on(self, stake, status):
        if stake.status is status:
            return
        stake.status = status
        stake.was_confirmed |= status is BetStatus.CONFIRMED
        bet = stake.command
        if status is BetStatus.WON:
            stake.payout = bet.amount * bet.reward_ppm // 1_000_000
            self.changed(bet.user_id, stake.payout, "bet_won", bet.id)
        elif status is BetStatus.CANCELLED:
            self.changed(bet.user_id, bet.amount, "bet_cancelled", bet.id)
        else:
            self.events[bet.user_id].append([(f"bet_{status}", bet.id, None)])

    @rule(cell=CELLS, won=st.booleans())
    def settle_cell(self, cell, won):
        if self.verdicts.setdefault(cell, won) is not won:
            self.fails(SettleChunk(cell, won, 1), CellClosedError)
            return
        waiting = self.open_bets(cell)
        chunks = self.chunks.setdefault(cell, [])
        settled = self.mortal.run(lambda books: books.bets.settle_cell(cell, won))
        while not (chunks and chunks[-1].is_last):
            decided, waiting = waiting[:CHUNK], waiting[CHUNK:]
            self.decide_all(cell, decided, won)
            chunks.append(ChunkSettlement(len(decided), self.payouts(decided), (), is_last=not waiting))
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
        before = {user: len(events) for user, events in self.events.items()}
        for stake in stakes:
            self.move_on(stake, BetStatus.WON if won else BetStatus.LOST)
        for user, number in before.items():  # in which order a chunk is told, nobody promises
            self.events[user][number:] = [[*chain.from_iterable(self.events[user][number:])]]

    def payouts(self, stakes):
        return sum(stake.payout or 0 for stake in stakes)

    # Time, and what comes again

    @rule(weeks=st.integers(0, 2), hours=st.integers(-2, 60))
    def time_passes(self, weeks, hours):
        self.mortal.clock.advance(timedelta(weeks=weeks, hours=hours))

    @rule(killed_before=st.none() | st.integers(0, 12))
    def rotate(self, killed_before):
        report = self.mortal.rotate(killed_before)
        if report.performed:
            # What was settled in the week before is still known, and what is not settled to its end.
            fresh = self.touched.get(report.previous, set())
            for cell in set(self.verdicts) - fresh:
                if self.chunks[cell][-1].is_last:
                    del self.verdicts[cell], self.chunks[cell]

    @rule()
    def tell(self):
        self.mortal.run(self.tell_all)

    async def tell_all(self, books):
        async with OutboxRelay(books.partitions, self.subscriber) as relay:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(20):
                    while not (self.all_is_told() or self.subscriber.surprise):  # noqa: ASYNC110 - no event of its own
                        await asyncio.sleep(0.001)
            assert not self.subscriber.surprise
            assert self.all_is_told(), f"{relay.stats()}: {self.subscriber.heard} and not {self.events}"

    def all_is_told(self):
        heard = self.subscriber.heard
        return all(is_told(heard.get(user, []), groups) for user, groups in self.events.items())

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
            self.mortal.dies = None
            self.mortal.run(self.tell_all)
            self.mortal.run(lambda _: self.check())
        finally:
            bets_module.CHUNK = CHUNK_BEFORE
            self.mortal.close()

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
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
