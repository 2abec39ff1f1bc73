"""The players: users who watch the live prices and bet on cells around them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from betcore_async.app import Betcore
from betcore_async.clock import EPOCH
from betcore_async.demo.cells import WINDOWS_AHEAD, Cell, cell_near, reward_rate, window_length
from betcore_async.demo.feed import FeedFacts
from betcore_async.demo.pace import Pace
from betcore_async.demo.tally import Tally
from betcore_async.errors import UserNotFoundError
from betcore_async.models import BetStatus, PricePoint
from betcore_async.redis.buffers import Policy
from betcore_async.tasks import all_of

OPENING_BALANCE = 50_000
"""Minor units. A stake is a fortieth of it on average, so that some users run dry and bets are refused."""

TOP_UP = 20_000
"""What a user whose bet was refused pays in."""

STAKES = range(100, 2_500, 100)
TICKS_PER_BET = 200
"""A user bets once in that many ticks, on average."""

_FARTHEST_BAND = 6
_USUAL_BAND = 2.0
_WINDOWS = 3  # how many of the next windows are chosen from


@dataclass(slots=True)
class Player:
    """A user, and the feed time from which on the next bet is due."""

    user_id: str
    next_bet: datetime


def wallet(number: int) -> str:
    """Return the wallet address of the user with that number; the same in every run."""
    return f"demo-{number:06}"


async def seat_users(betcore: Betcore, count: int) -> list[str]:
    """Return the ids of the users, in the order of their numbers; those that are not there yet are created."""

    async def seat(number: int) -> str:
        try:
            return (await betcore.users.by_wallet(wallet(number))).id
        except UserNotFoundError:
            return (await betcore.users.create(wallet(number), OPENING_BALANCE)).id

    return await all_of(seat(number) for number in range(1, count + 1))


class Desk:
    """One live subscriber to the prices, with some of the users sitting at it.

    Looks at each tick that reaches it and places the bets that are due, concurrently. `start` is the feed time from
    which on its users bet.
    """

    def __init__(
        self, betcore: Betcore, facts: FeedFacts, users: Sequence[str], *, name: str, seed: int, start: datetime
    ) -> None:
        self.name = name
        self._betcore = betcore
        self._symbols = facts.symbols
        self._window = window_length(facts.interval)
        self._gap = facts.interval / len(facts.symbols) * TICKS_PER_BET
        self._chance = random.Random(f"{seed} {name}")  # noqa: S311 - a game, not a secret
        self._players = [Player(user, start + self._gap * 2 * self._chance.random()) for user in users]

    async def play(self, policy: Policy, placed: str, pace: Pace, tally: Tally) -> None:
        """Follow the prices until cancelled; each bet is told on the channel `placed` once it is committed."""
        async with self._betcore.prices.stream(*self._symbols, policy=policy) as stream:
            pace.report(self.name, EPOCH)
            async for event in stream:
                if isinstance(event, PricePoint):
                    tally.live_deliveries += 1
                    due = [player for player in self._players if player.next_bet <= event.at]
                    if due:
                        await all_of(self._bet(player, event, placed, tally) for player in due)
                    pace.report(self.name, event.at)

    async def _bet(self, player: Player, tick: PricePoint, placed: str, tally: Tally) -> None:
        player.next_bet = tick.at + self._gap * self._chance.expovariate(1)
        bands, cell = self._choose(tick)
        with tally.place.measure():
            bet = await self._betcore.bets.place(
                player.user_id, str(cell), self._chance.choice(STAKES), reward_rate(bands)
            )
        tally.bets += 1
        tally.bets_of[player.user_id] = tally.bets_of.get(player.user_id, 0) + 1
        if bet.status is BetStatus.INSUFFICIENT_FUNDS:
            tally.refused += 1
            await self._betcore.users.deposit(player.user_id, TOP_UP)
        else:
            await self._betcore.hub.publish(placed, str(cell))

    def _choose(self, tick: PricePoint) -> tuple[int, Cell]:
        far = round(self._chance.gauss(0, _USUAL_BAND))
        bands = max(-_FARTHEST_BAND, min(far, _FARTHEST_BAND))
        windows = WINDOWS_AHEAD + self._chance.randrange(_WINDOWS)
        return bands, cell_near(tick, bands=bands, windows=windows, length=self._window)
