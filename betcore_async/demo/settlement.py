"""The settlement worker: decides bets when the windows of their cells are over."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from betcore_async.app import Betcore
from betcore_async.clock import EPOCH
from betcore_async.demo.cells import Cell
from betcore_async.demo.pace import Pace
from betcore_async.demo.tally import Tally
from betcore_async.demo.trace import Trace
from betcore_async.models import PricePoint
from betcore_async.redis import Message, Reconnected, decode_tick
from betcore_async.redis.events import Event
from betcore_async.tasks import all_of

_BUFFER = 10_000
"""Messages. Some windows of ticks and bets: what the feed may be ahead."""


class SettlementWorker:
    """Consumes the fan-out on its own: prices tell it the time, committed bets tell it which cells to watch.

    It subscribes with the policy `block`, so that it sees every tick. What won is looked up in the price history, not
    remembered: so it does not matter when a cell became known, before or after its window, in this run or the last.
    """

    name = "settlement"

    def __init__(self, betcore: Betcore, symbols: Iterable[str], tally: Tally, trace: Trace) -> None:
        self._betcore = betcore
        self._symbols = tuple(symbols)
        self._tally = tally
        self._trace = trace
        self._open: defaultdict[datetime, set[Cell]] = defaultdict(set)
        self.missed_messages = False
        """Whether the connection was lost: bets of that time may not be known here, and have to be looked up."""

    def watch(self, cell: Cell) -> None:
        """Settle the bets on `cell` at the first tick that is not before the end of its window."""
        self._open[cell.end].add(cell)

    async def work(self, placed: str, pace: Pace) -> None:
        """Follow prices and the channel `placed` until cancelled."""
        channels = [self._betcore.prices.channel(symbol) for symbol in self._symbols]
        async with self._betcore.hub.subscribe(*channels, placed, policy="block", maxsize=_BUFFER) as events:
            pace.report(self.name, EPOCH)
            async for event in events:
                for moment in await self._moments(event, placed):
                    await self.settle_until(moment)
                    pace.report(self.name, moment)

    async def _moments(self, event: Event, placed: str) -> list[datetime]:
        """Return the time that an event tells, if it tells one."""
        match event:
            case Message(channel=channel, payload=payload) if channel == placed:
                self.watch(Cell.parse(payload.decode()))
            case Message(payload=payload):
                self._tally.ticks_settled += 1
                return [decode_tick(payload).at]
            case Reconnected():
                self.missed_messages = True
                # Ticks may have been missed meanwhile; the last one may have been the last of all.
                latest = await self._betcore.prices.get_latest_prices(self._symbols)
                return [max(tick.at for tick in latest.values())] if latest else []
        return []

    async def settle_until(self, now: datetime) -> None:
        """Settle every cell whose window is over at `now`."""
        for end in sorted(end for end in self._open if end <= now):
            # Taken out only when it is done: cancelled half-way, the rest is still to be settled.
            cells = self._open[end]
            await self._settle(cells)
            del self._open[end]

    async def _settle(self, cells: Iterable[Cell]) -> None:
        windows = {(cell.symbol, cell.start, cell.end) for cell in cells}
        histories = await all_of(self._betcore.prices.get_price_history(*window) for window in windows)
        prices: dict[tuple[str, datetime, datetime], list[PricePoint]] = dict(zip(windows, histories, strict=True))
        await all_of(
            self._settle_cell(cell, won=cell.won_by(prices[cell.symbol, cell.start, cell.end])) for cell in cells
        )

    async def _settle_cell(self, cell: Cell, *, won: bool) -> None:
        with self._tally.settle.measure():
            settled = await self._betcore.bets.settle_cell(str(cell), won)
        self._tally.settlements += settled.bets
        self._trace.settled(cell, won=won, bets=settled.bets)
