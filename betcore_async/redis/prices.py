"""Prices: the latest of each symbol, its history, candles, and a live stream."""

import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from betcore_async.clock import Clock, from_microseconds, system_clock
from betcore_async.config import PriceSettings
from betcore_async.errors import ModelError
from betcore_async.models import Candle, PricePoint
from betcore_async.redis.buffers import Policy
from betcore_async.redis.candles import candles_of, check_interval
from betcore_async.redis.client import RedisClient
from betcore_async.redis.hub import PubSubHub
from betcore_async.redis.price_script import WRITE_POINTS
from betcore_async.redis.price_stream import PriceStream
from betcore_async.redis.ticks import Price, check_price, check_symbol, check_time, price_text

_POINTS_PER_CALL = 500
"""Points of one symbol in one script call: the server serves nobody else while a call runs (some 7 us a point)."""

_MICROSECOND = timedelta(microseconds=1)
_PREFIX = re.compile(r"[A-Za-z0-9._:\-]+")


class PriceCache:
    """Keeps prices in Redis: `await prices.set_price("BTC-USD", "42000.50")`.

    Prices are exact: int, Decimal, text, or a float, which means the number it prints as. A symbol has 1 to 64
    letters, digits and . _ : / - characters. Each write is one atomic step on the server: it appends to the history,
    renews the latest price unless a newer one is known, prunes by age and number, and publishes the tick on
    `channel(symbol)`. Points older than the newest by more than `history_max_age` are not kept and not published.

    Writes are not safe to repeat, since the same price twice is two points: they raise RedisOutcomeUnknownError when
    the connection breaks at the wrong moment. Everything raises ModelError for a value it cannot take.
    """

    def __init__(
        self,
        client: RedisClient,
        settings: PriceSettings | None = None,
        clock: Clock = system_clock,
        hub: PubSubHub | None = None,
    ) -> None:
        self._client = client
        self._settings = settings or PriceSettings()
        self._clock = clock
        self._hub = hub
        if not _PREFIX.fullmatch(self._settings.key_prefix):
            raise ModelError("the key prefix of prices takes letters, digits and . _ : -", field="key_prefix")

    def channel(self, symbol: str) -> str:
        """Return the channel on which ticks of `symbol` are published; `decode_tick` reads its messages."""
        name = check_symbol(symbol)
        # On a cluster the channel has to be where the keys are, for one script to reach both.
        return f"{self._settings.key_prefix}:{f'{{{name}}}' if self._client.transport.is_cluster else name}"

    async def set_price(self, symbol: str, price: Price, at: datetime | None = None) -> PricePoint:
        """Write one price, of now or of `at`, and return it; `at` may lie ahead by `max_ahead` at most."""
        at_us, exact = self._checked(symbol, price, at)
        await self._write({symbol: [(at_us, exact)]})
        return PricePoint(symbol=symbol, price=exact, at=from_microseconds(at_us))

    async def set_prices(
        self, points: Iterable[PricePoint | tuple[str, Price] | tuple[str, Price, datetime | None]]
    ) -> int:
        """Write many prices in one round trip; return how many were kept (those too old are not).

        Points are PricePoints or tuples (symbol, price[, at]). All are checked before any is sent. Those of a symbol
        keep their order; each call of up to 500 points of a symbol is atomic, the batch as a whole is not.
        """
        batch: dict[str, list[tuple[int, Decimal]]] = {}
        for point in points:
            symbol, price, *at = (point.symbol, point.price, point.at) if isinstance(point, PricePoint) else point
            checked = self._checked(symbol, price, at[0] if at else None)
            batch.setdefault(symbol, []).append(checked)
        return await self._write(batch) if batch else 0

    async def get_latest_price(self, symbol: str, *, max_age: timedelta | None = None) -> PricePoint | None:
        """Return the newest price, or None when none was written within `latest_ttl`, or it is older than `max_age`."""
        point = _latest(symbol, await self._client.get(self._key(symbol, "latest")))
        return point if point is not None and self._is_fresh(point, max_age) else None

    async def get_latest_prices(
        self, symbols: Iterable[str], *, max_age: timedelta | None = None
    ) -> dict[str, PricePoint]:
        """Return the newest price of each symbol that has one, not older than `max_age`, in one round trip."""
        names = list(dict.fromkeys(symbols))
        # A pipeline of GETs rather than one MGET: in a cluster the symbols live on different servers.
        pipeline = self._client.pipeline()
        for name in names:
            pipeline.get(self._key(name, "latest"))
        replies = zip(names, await pipeline.execute(), strict=True)
        points = ((name, _latest(name, reply)) for name, reply in replies)
        return {name: point for name, point in points if point is not None and self._is_fresh(point, max_age)}

    def age(self, point: PricePoint) -> timedelta:
        """Return how old a price is, by this cache's clock; never below 0, should the writer's clock run ahead."""
        return max(timedelta(0), self._clock() - point.at)

    async def get_price_history(
        self, symbol: str, start: datetime, end: datetime, *, limit: int | None = None, newest_first: bool = False
    ) -> list[PricePoint]:
        """Return the prices of [start, end), at most `limit`, in the order of their times."""
        if limit is not None and (type(limit) is not int or limit < 0):
            raise ModelError(f"limit must be a whole number from 0; got {limit!r}", field="limit")
        points = await self._range(symbol, start, end, limit=limit, newest_first=newest_first)
        return [
            PricePoint.trusted({"symbol": symbol, "price": price, "at": from_microseconds(at)}) for at, price in points
        ]

    async def candles(self, symbol: str, start: datetime, end: datetime, interval: timedelta) -> list[Candle]:
        """Return a candle for each interval with prices in [start, end), oldest first.

        Intervals are counted from the epoch. Where `start` or `end` cut one, its candle is made of the part inside.
        """
        width = check_interval(interval)
        return candles_of(symbol, await self._range(symbol, start, end), width)

    @asynccontextmanager
    async def stream(
        self, *symbols: str, policy: Policy = "latest", maxsize: int = 1000
    ) -> AsyncGenerator[PriceStream, None]:
        """Yield a PriceStream: the latest price of each symbol first, then every newer one as it is written.

        The policies are those of PubSubHub.subscribe; `latest` skips prices that were replaced before you came to
        read them. For every single tick, late ones included, subscribe to `channel(symbol)` with the policy `block`.
        """
        names = tuple(dict.fromkeys(map(check_symbol, symbols)))
        async with AsyncExitStack() as stack:
            hub = self._hub
            if hub is None:
                hub = await stack.enter_async_context(PubSubHub(self._client))
            channels = map(self.channel, names)
            updates = await stack.enter_async_context(hub.subscribe(*channels, policy=policy, maxsize=maxsize))
            stream = PriceStream(updates, lambda: self.get_latest_prices(names))
            await stream.refresh()
            yield stream

    def _is_fresh(self, point: PricePoint, max_age: timedelta | None) -> bool:
        return max_age is None or self.age(point) <= max_age

    def _key(self, symbol: str, part: str) -> str:
        # The braces keep all keys of a symbol in one slot of a cluster, where one script can reach them.
        return f"{self._settings.key_prefix}:{{{check_symbol(symbol)}}}:{part}"

    def _checked(self, symbol: str, price: Price, at: datetime | None) -> tuple[int, Decimal]:
        check_symbol(symbol)
        now = self._clock()
        at_us = check_time(now if at is None else at, "at")
        if at is not None and at - now > self._settings.max_ahead:
            raise ModelError(f"{at} lies further ahead than {self._settings.max_ahead}; is a clock wrong?", field="at")
        return at_us, check_price(price)

    async def _write(self, batch: dict[str, list[tuple[int, Decimal]]]) -> int:
        limits = (
            max(1, self._settings.latest_ttl // timedelta(milliseconds=1)),
            self._settings.history_max_age // _MICROSECOND,
            self._settings.history_max_points,
            self._client.transport.publishing,
        )
        calls: list[tuple[Sequence[str], Sequence[Any]]] = []
        for symbol, points in batch.items():
            keys = [self._key(symbol, part) for part in ("latest", "history", "sequence")]
            head = (symbol, self.channel(symbol), *limits)
            for first in range(0, len(points), _POINTS_PER_CALL):
                part = points[first : first + _POINTS_PER_CALL]
                calls.append((keys, (*head, *(word for at, price in part for word in (at, price_text(price))))))
        return sum(await WRITE_POINTS.run_many(self._client.transport, calls))

    async def _range(
        self, symbol: str, start: datetime, end: datetime, *, limit: int | None = None, newest_first: bool = False
    ) -> list[tuple[int, Decimal]]:
        first, last = check_time(start, "start"), check_time(end, "end")
        if last < first:
            raise ModelError(f"end ({end}) is before start ({start})", field="end")
        bounds = ("ZREVRANGEBYSCORE", f"({last}", first) if newest_first else ("ZRANGEBYSCORE", first, f"({last}")
        name, low, high = bounds
        cut = () if limit is None else ("LIMIT", 0, limit)
        flat = await self._client.execute(name, self._key(symbol, "history"), low, high, "WITHSCORES", *cut)
        return [
            (int(float(score)), Decimal(member.partition(b":")[2].decode()))
            for member, score in zip(flat[::2], flat[1::2], strict=True)
        ]


def _latest(symbol: str, stored: bytes | None) -> PricePoint | None:
    if stored is None:
        return None
    at, _, price = stored.decode().partition(" ")
    return PricePoint.trusted({"symbol": symbol, "price": Decimal(price), "at": from_microseconds(int(at))})
