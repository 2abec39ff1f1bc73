"""Prices as they travel: checked on the way in, exact decimal text on the wire."""

import re
from datetime import datetime
from decimal import Decimal, InvalidOperation

import orjson
from pydantic import ValidationError

from betcore_async.clock import from_microseconds, to_microseconds
from betcore_async.errors import ModelError
from betcore_async.models import PricePoint

Price = int | float | Decimal | str

# No braces, which mark the part of a key that decides its cluster slot; no `*`, which would make a channel a pattern;
# no quotes, controls or spaces, so that a symbol can stand in JSON and in a log as it is.
_SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/\-]{0,63}")

_MOST_DIGITS = 64
"""Characters of a price's decimal text. Keeps `1e999999` from becoming a megabyte of zeros."""

_EARLIEST = -(2**53)
_LATEST = 2**53
"""Microseconds that a sorted set's score, a double, holds exactly: the years 1684 to 2255."""


def check_symbol(symbol: str) -> str:
    """Return `symbol` if it is 1 to 64 letters, digits and . _ : / -, beginning with a letter or digit."""
    if not isinstance(symbol, str) or not _SYMBOL.fullmatch(symbol):
        raise ModelError(
            f"symbol must be 1 to 64 letters, digits or . _ : / - such as BTC-USD; got {str(symbol)[:70]!r}",
            field="symbol",
        )
    return symbol


def check_price(price: Price) -> Decimal:
    """Return `price` exactly; a float means what it prints as. Raises ModelError unless finite and above 0."""
    try:
        if isinstance(price, bool) or not isinstance(price, int | float | Decimal | str):
            raise TypeError
        exact = Decimal(repr(price)) if isinstance(price, float) else Decimal(price)
        usable = exact.is_finite() and exact > 0 and _length(exact) <= _MOST_DIGITS
    except (TypeError, ValueError, InvalidOperation):
        usable = False
    if not usable:
        raise ModelError(
            f"price must be a finite number above 0 of at most {_MOST_DIGITS} digits; got {str(price)[:50]!r}",
            field="price",
        )
    return exact


def check_time(moment: datetime, field: str) -> int:
    """Return `moment` in microseconds since the epoch; raises ModelError naming `field` for a naive one."""
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ModelError(f"{field} must be a datetime with a time zone, best UTC; got {moment!r}", field=field)
    at = to_microseconds(moment)
    if not _EARLIEST < at < _LATEST:
        raise ModelError(f"{field} must lie between the years 1684 and 2255; got {moment!r}", field=field)
    return at


def price_text(price: Decimal) -> str:
    """Return a price without exponent, so that every reader understands it: `0.00001`, not `1E-5`."""
    return format(price, "f")


def decode_tick(payload: bytes) -> PricePoint:
    """Return the price of a message on a price channel; raises ModelError when it is none."""
    try:
        fields = orjson.loads(payload)
        return PricePoint(symbol=fields["symbol"], price=fields["price"], at=from_microseconds(fields["at"]))
    except (ValueError, KeyError, TypeError, OverflowError, ValidationError):
        raise ModelError(f"not a price message: {payload[:100]!r}", field="payload") from None


def _length(price: Decimal) -> int:
    """Return how many digits `price_text` has, without making the text."""
    exponent = price.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError  # noqa: TRY004 - infinity and NaN have a letter there
    return max(price.adjusted() + 1, 1) + max(-exponent, 0)
