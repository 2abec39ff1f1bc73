"""Prices to replay: a CSV file of your own, or a random walk made from a seed.

The file has the header `time,symbol,price`, one row a tick in the order of time, and may be gzipped (`.gz`):

    time,symbol,price
    2022-01-03T00:00:00Z,BTC-USD,47286.18
"""

import csv
import gzip
import hashlib
import io
import itertools
import math
import random
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from betcore_async.errors import FeedError
from betcore_async.models import PricePoint
from betcore_async.redis.ticks import check_price, check_symbol

HEADER = ["time", "symbol", "price"]

LOWEST_PRICE = Decimal("1e-9")
HIGHEST_PRICE = Decimal("1e15")
"""Beyond these a price is a mistake, and the bands around it would need more digits than anyone reads."""

EARLIEST = datetime(1970, 1, 5, tzinfo=UTC)  # the first whole ISO week of the epoch, from which ids count
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
MAX_GAP = timedelta(days=366)
"""A longer silence is a mistake in the file; it would also look like a clock that went wrong."""


@dataclass(frozen=True, slots=True)
class FeedFacts:
    """What is known of a feed after it was read once from end to end."""

    source: str  # the file, or the name of the generator with its arguments
    fingerprint: str  # the same for the same ticks, however they are stored
    ticks: int
    symbols: tuple[str, ...]  # in the order in which they first appear
    first: datetime
    last: datetime

    @property
    def interval(self) -> timedelta:
        """The usual time from one tick of a symbol to its next; a minute when there is but one tick."""
        steps = self.ticks // len(self.symbols) - 1
        return (self.last - self.first) / steps if steps > 0 and self.last > self.first else timedelta(minutes=1)


def survey(source: str, ticks: Iterable[PricePoint]) -> FeedFacts:
    """Read a feed from end to end and tell what is in it, so that a bad one is refused before anything is written.

    Raises FeedError for a feed that is empty or holds a silence of more than a year, and whatever reading it raises.
    """
    digest, symbols, count = hashlib.sha256(), dict[str, None](), 0
    first = last = None
    for count, tick in enumerate(ticks, start=1):
        if last is not None and tick.at - last > MAX_GAP:
            raise FeedError(
                f"{source}: nothing between {last:%Y-%m-%d %H:%M} and {tick.at:%Y-%m-%d %H:%M}, more than a year",
                source=source,
                line=count + 1,
            )
        first, last = first or tick.at, tick.at
        symbols[tick.symbol] = None
        digest.update(f"{tick.at.isoformat()},{tick.symbol},{tick.price}\n".encode())
    if first is None or last is None:
        raise FeedError(f"{source}: there is no price in it", source=source, line=1)
    return FeedFacts(source, digest.hexdigest(), count, tuple(symbols), first, last)


def read_feed(path: str | Path) -> Generator[PricePoint, None, None]:
    """Yield the ticks of a CSV or CSV.gz file in their order, as they are asked for; close it when you stop early.

    Raises FeedError with `source` and `line` for a file that cannot be read and for the first row that is not a tick:
    wrong header or number of fields, a time that is not ISO 8601 with a zone or lies before the row above, a price
    that is not a positive number.
    """
    source = str(path)
    with _opened(Path(path), source) as text:
        rows = csv.reader(text, strict=True)
        with _explained(source, lambda: max(rows.line_num, 1)):
            header = next(rows, None)
            if header != HEADER:
                raise ValueError(f"the header must be {','.join(HEADER)}, not {','.join(header or [])[:80]!r}")
            previous = EARLIEST
            for row in rows:
                tick = _tick(row)
                if tick.at < previous:
                    raise ValueError(f"time {row[0]} is before the row above; rows must be in the order of time")
                previous = tick.at
                yield tick


def _tick(row: list[str]) -> PricePoint:
    if len(row) != len(HEADER):
        raise ValueError(f"{len(row)} fields instead of {len(HEADER)} ({','.join(HEADER)})")
    time, symbol, price = row
    if ":" in check_symbol(symbol):  # it divides the parts of a cell's id
        raise ValueError(f"symbol {symbol!r} must be without ':'")
    # Every field was checked here, with an error text for people, so the model need not check again.
    return PricePoint.model_construct(symbol=symbol, price=_price(price), at=_time(time))


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"time {text[:80]!r} is not ISO 8601 (such as 2022-01-03T00:00:00Z)") from None
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no time zone; write it in UTC with a Z at its end")
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        moment = LATEST
    if not EARLIEST <= moment < LATEST:
        raise ValueError(f"time {text!r} must lie between the years {EARLIEST.year} and {LATEST.year}")
    return moment


def _price(text: str) -> Decimal:
    try:
        if not text.isascii() or "_" in text:  # Decimal reads 1_000 and other alphabets' digits; other programs don't
            raise InvalidOperation
        price = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"price {text[:80]!r} is not a number") from None
    if not price.is_finite():
        raise ValueError(f"price {text[:80]!r} is not a number")
    if price <= 0:
        raise ValueError(f"price {text[:80]!r} is not positive")
    if not LOWEST_PRICE <= price <= HIGHEST_PRICE:
        raise ValueError(f"price {text[:80]!r} must lie between {LOWEST_PRICE} and {HIGHEST_PRICE}")
    return check_price(price)


@contextmanager
def _opened(path: Path, source: str) -> Iterator[TextIO]:
    try:
        # A pipe could be read only once, but a feed is read twice: surveyed first, replayed then.
        if path.exists() and not path.is_file():
            raise FeedError(f"{source}: not a file", source=source, line=None)
        raw = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or error
        raise FeedError(f"{source}: cannot be opened: {reason}", source=source, line=None) from error
    with raw, io.TextIOWrapper(_plain(raw, path), encoding="utf-8-sig", newline="") as text:
        yield text


def _plain(raw: BinaryIO, path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw


@contextmanager
def _explained(source: str, line: Callable[[], int]) -> Iterator[None]:
    """Translate whatever can go wrong while reading into one FeedError that says where."""
    try:
        yield
    except UnicodeDecodeError as error:
        problem: str = "the text is not UTF-8"
        cause: Exception = error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem, cause = "the gzip data is damaged or cut off", error
    except csv.Error as error:
        problem, cause = f"not CSV: {error}", error
    except OSError as error:
        problem, cause = f"cannot be read: {error.strerror or error}", error
    except ValueError as error:
        problem, cause = str(error), error
    else:
        return
    # The decoder reads ahead of the rows, so its errors come at or after the line that is told.
    raise FeedError(f"{source}, line {line()}: {problem}", source=source, line=line()) from cause


@dataclass(frozen=True, slots=True)
class GeneratedFeed:
    """A random walk of one symbol, one tick a minute: always the same ticks for the same fields."""

    seed: int = 1
    symbol: str = "BTC-USD"
    start: datetime = datetime(2026, 12, 21, tzinfo=UTC)
    """A Monday; three weeks from here cross a 53rd ISO week and the turn of the year."""
    weeks: int = 3

    def __str__(self) -> str:
        return f"generated (seed {self.seed}, {self.weeks} weeks)"


_MINUTES_PER_WEEK = 7 * 24 * 60
_OPENING_PRICE = 46_000.0
_VOLATILITY = 0.0007  # of one minute; about what bitcoin had in 2022
_PULL = 0.00002  # back to the opening price, so that a long walk stays among numbers that people can read


def generate_feed(feed: GeneratedFeed) -> Iterator[PricePoint]:
    """Yield the ticks of a seeded geometric random walk, one a minute, from `feed.start` for `feed.weeks` weeks."""
    walk = random.Random(feed.seed)  # noqa: S311 - a demonstration, not a secret
    height = 0.0
    for minute in itertools.islice(itertools.count(), feed.weeks * _MINUTES_PER_WEEK):
        height += walk.gauss(0.0, _VOLATILITY) - _PULL * height
        yield PricePoint.model_construct(
            symbol=feed.symbol,
            price=Decimal(f"{_OPENING_PRICE * math.exp(height):.2f}"),
            at=feed.start + timedelta(minutes=minute),
        )
