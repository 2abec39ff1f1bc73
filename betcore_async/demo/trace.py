"""What the charts of the report show, gathered while the demonstration runs, in bounded memory."""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from betcore_async.demo.cells import Cell
from betcore_async.demo.feed import FeedFacts
from betcore_async.demo.latency import Latencies
from betcore_async.models import PricePoint

PRICE_BARS = 600  # about one for each two pixels of a wide chart
CLOSE_UP = timedelta(hours=3)
_MOST_MARKS = 1000


@dataclass(slots=True)
class PriceBar:
    """The prices of one stretch of the feed."""

    at: datetime
    low: float
    high: float
    close: float


@dataclass(frozen=True, slots=True)
class CellMark:
    """A cell that was settled, and with how many bets."""

    cell: Cell
    bets: int
    won: bool


@dataclass(slots=True)
class CloseUp:
    """A few hours of prices, tick by tick, with the cells that were bet on."""

    ticks: deque[tuple[datetime, float]] = field(default_factory=deque)
    marks: deque[CellMark] = field(default_factory=lambda: deque(maxlen=_MOST_MARKS))

    def add(self, at: datetime, price: float) -> None:
        self.ticks.append((at, price))
        while at - self.ticks[0][0] > CLOSE_UP:
            self.ticks.popleft()
        while self.marks and self.marks[0].cell.end < self.ticks[0][0]:
            self.marks.popleft()


class Trace:
    """Records the first symbol of a feed: its price in `PRICE_BARS` bars, and the hours around the first rotation."""

    def __init__(self, facts: FeedFacts) -> None:
        self.symbol = facts.symbols[0]
        self.bars: list[PriceBar] = []
        self.rotations: list[datetime] = []
        self.close_up = CloseUp()
        self.latencies: dict[str, Latencies] = {}
        self.balances: list[int] = []
        self._bar_length = max((facts.last - facts.first) / PRICE_BARS, timedelta(microseconds=1))

    def tick(self, tick: PricePoint) -> None:
        if tick.symbol != self.symbol:
            return
        price = float(tick.price)
        if not self._close_up_is_full(tick.at):
            self.close_up.add(tick.at, price)
        if not self.bars or tick.at - self.bars[-1].at >= self._bar_length:
            self.bars.append(PriceBar(tick.at, price, price, price))
        else:
            bar = self.bars[-1]
            bar.low, bar.high, bar.close = min(bar.low, price), max(bar.high, price), price

    def settled(self, cell: Cell, *, won: bool, bets: int) -> None:
        ticks = self.close_up.ticks
        if bets and cell.symbol == self.symbol and (not ticks or cell.start <= ticks[-1][0]):
            self.close_up.marks.append(CellMark(cell, bets, won))

    def rotated(self, monday: datetime) -> None:
        self.rotations.append(monday)

    def _close_up_is_full(self, now: datetime) -> bool:
        # The hours around the first rotation are kept, since they show bets that were carried over; else the last ones.
        return bool(self.rotations) and now - self.rotations[0] > CLOSE_UP / 2
