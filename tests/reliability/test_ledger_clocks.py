"""Whatever clocks do, and however late or early weeks are rotated: what was done once is not done again."""

import contextlib
import random
from datetime import timedelta

import pytest
from ledger_files import NOON, id_born, open_books

from betcore_async.clock import ManualClock
from betcore_async.errors import LedgerError, RotationError

STEPS = 70
JUMPS = [timedelta(**{unit: count}) for unit, count in [("minutes", 1), ("hours", 7), ("days", 3), ("days", 20)]]
AHEAD = [timedelta(0), timedelta(0), timedelta(hours=-2), timedelta(days=-40), timedelta(days=6)]
"""How far a caller's clock is from ours."""


class Story:
    """Commands from two processes, of which every one may be repeated in either of them at any later time."""

    def __init__(self, seed, processes):
        self.chance, self.processes, self.clock = random.Random(seed), processes, processes[0].clock
        self.done, self.bets, self.users = [], [], []

    @property
    def books(self):
        return self.chance.choice(self.processes)

    async def do(self, call):
        """Execute a command for the first time; one that is refused leaves no trace, and may be done later."""
        with contextlib.suppress(LedgerError):
            first = await call(self.books)
            assert not first.replayed
            self.done.append((call, first))
            return first

    async def create(self):
        identifier, wallet = self.processes[0].engine.new_id(), f"0x{len(self.users)}"
        self.users.append((await self.do(lambda books: books.users.create(wallet, 1_000, id=identifier))).id)

    async def move(self):
        one, two = self.chance.sample(self.users, 2)
        identifier = id_born(self.clock.now + self.chance.choice(AHEAD))
        calls = [
            lambda books: books.users.deposit(one, 7, id=identifier),
            lambda books: books.users.withdraw(one, 5, id=identifier),
            lambda books: books.users.transfer(one, two, 3, id=identifier),
        ]
        await self.do(self.chance.choice(calls))

    async def place(self):
        user, identifier = self.chance.choice(self.users), id_born(self.clock.now + self.chance.choice(AHEAD))
        amount = self.chance.choice([1, 10, 10**9])
        await self.do(lambda books: books.bets.place(user, "cell", amount, 1.5, id=identifier))
        self.bets.append(identifier)

    async def decide(self):
        bet = self.chance.choice(self.bets or [None])
        calls = [
            lambda books: books.bets.confirm(bet),
            lambda books: books.bets.settle(bet, True),
            lambda books: books.bets.settle(bet, False),
            lambda books: books.bets.cancel(bet),
        ]
        if bet is not None and (await self.books.bets.get(bet)).status == "pending":
            await self.do(self.chance.choice(calls))

    async def jump(self):
        self.clock.now += self.chance.choice(JUMPS) * self.chance.choice([1, 1, -1])

    async def rotate(self):
        partitions = self.books.partitions
        week = self.chance.choice([None, None, partitions.current_week.next()])
        with contextlib.suppress(RotationError):  # the clock went back behind the live week, or too far ahead
            await partitions.rotate_to_new_week(week)

    async def repeat(self):
        call, first = self.chance.choice(self.done)
        again = await call(self.books)
        assert again == first
        assert again.replayed


# In the last two, weeks were overdue for so long, and caught up with one by one, that commands once were done again.
@pytest.mark.parametrize("seed", [1, 2, 5, 8, 26])
async def test_no_clock_and_no_rotation_makes_a_command_happen_twice(tmp_path, seed):
    clock = ManualClock(NOON)
    async with open_books(tmp_path, clock) as one, open_books(tmp_path, clock) as other:
        story = Story(seed, (one, other))
        for _ in range(3):
            await story.create()
        acts = [story.move, story.place, story.decide, story.jump, story.rotate, story.repeat]
        for act in story.chance.choices(acts, weights=[4, 3, 2, 2, 2, 4], k=STEPS):
            await act()
        for call, first in story.done:
            assert await call(story.books) == first
        await one.assert_audit_is_clean()
