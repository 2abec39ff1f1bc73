"""A live stream of prices that starts from what is known."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Self

from betcore_async.models import PricePoint
from betcore_async.redis.events import Event, Gap, Message, Reconnected
from betcore_async.redis.subscription import Subscription
from betcore_async.redis.ticks import decode_tick


class PriceStream:
    """An async iterator of PricePoint, Gap and Reconnected; made by `PriceCache.stream`.

    Of each symbol it yields the latest price, then only newer ones. After a Reconnected it looks up the latest prices
    again, so that the newest is never missed, only some before it.
    """

    def __init__(self, updates: Subscription, look_up: Callable[[], Awaitable[dict[str, PricePoint]]]) -> None:
        self._updates = updates
        self._look_up = look_up
        self._ahead: deque[PricePoint] = deque()
        self._shown: dict[str, PricePoint] = {}
        self._stale = False

    async def refresh(self) -> None:
        """Look up the latest prices and yield next those not shown yet."""
        self._ahead.extend((await self._look_up()).values())
        self._stale = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PricePoint | Gap | Reconnected:
        while True:
            if self._stale:
                await self.refresh()
            event: PricePoint | Event = self._ahead.popleft() if self._ahead else await anext(self._updates)
            if isinstance(event, Reconnected):
                self._stale = True  # refreshed by the next call: if that one is cancelled, the one after does it
                return event
            if isinstance(event, Gap):
                return event
            point = decode_tick(event.payload) if isinstance(event, Message) else event
            if self._is_news(point):
                self._shown[point.symbol] = point
                return point

    def _is_news(self, point: PricePoint) -> bool:
        shown = self._shown.get(point.symbol)
        # The subscription begins before the look-up, so that nothing falls between; a tick may come both ways.
        return shown is None or point.at > shown.at or (point.at == shown.at and point.price != shown.price)
