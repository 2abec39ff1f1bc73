from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.errors import ModelError
from betcore_async.redis.ticks import check_price, check_symbol, check_time, decode_tick, price_text

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that it has no time zone is the point
PRICES = st.decimals(min_value=Decimal("1e-15"), max_value=Decimal("1e15"), places=20)


@pytest.mark.parametrize("symbol", ["BTC-USD", "a", "BRK.B", "BTC/USDT", "X:EUR_USD", "9", "A" * 64])
def test_usual_symbols_pass(symbol):
    assert check_symbol(symbol) == symbol


@pytest.mark.parametrize(
    "symbol",
    ["", "A" * 65, "-A", ".", "A B", "A\n", "A*", "{A}", 'A"', "A\\", "Ä", "\x00", "A,B", None, 7, b"BTC", "A?", "[A]"],
)
def test_hostile_symbols_are_refused(symbol):
    with pytest.raises(ModelError) as error:
        check_symbol(symbol)
    assert error.value.field == "symbol"


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (1, "1"),
        (0.1, "0.1"),
        (1e22, "10000000000000000000000"),
        (1e-7, "0.0000001"),
        ("42000.50", "42000.50"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.30000000000000004"), "0.30000000000000004"),
        (10**63, "1" + "0" * 63),
    ],
)
def test_prices_are_kept_exactly_and_written_without_exponent(price, text):
    assert price_text(check_price(price)) == text


@pytest.mark.parametrize(
    "price",
    [
        *(0, -1, -0.0, float("nan"), float("inf"), -float("inf"), "NaN", "sNaN", "Infinity", "", "one", "1,5", None),
        *(True, [], b"1", 10**64, "1e999999999", "1e-999999999", Decimal("1e-70"), "9" * 70, 1j),
    ],
)
def test_what_is_no_price_is_refused(price):
    with pytest.raises(ModelError) as error:
        check_price(price)
    assert error.value.field == "price"


@given(PRICES)
def test_a_price_survives_the_wire(price):
    payload = orjson.dumps({"symbol": "A", "price": price_text(check_price(price)), "at": 1})
    assert decode_tick(payload).price == price


@given(st.floats(min_value=1e-15, max_value=1e15))
def test_a_float_means_the_number_it_prints_as(price):
    assert check_price(price) == Decimal(repr(price))


def test_a_tick_is_decoded_with_its_exact_time():
    at = datetime(2026, 11, 23, 12, 0, 0, 123457, tzinfo=UTC)
    payload = b'{"symbol":"BTC-USD","price":"42000.50","at":%d}' % check_time(at, "at")
    point = decode_tick(payload)
    assert (point.symbol, str(point.price), point.at) == ("BTC-USD", "42000.50", at)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"hello",
        b"[]",
        b"1",
        b"{}",
        b'{"symbol":"A","price":"1"}',
        b'{"symbol":"A","price":"0","at":1}',
        b'{"symbol":"A","price":"NaN","at":1}',
        b'{"symbol":"","price":"1","at":1}',
        b'{"symbol":"A","price":"1","at":"x"}',
        b'{"symbol":"A","price":"1","at":99999999999999999999999999}',
        b'{"symbol":"A","price":"1","at":null}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_tick_is_refused(payload):
    with pytest.raises(ModelError):
        decode_tick(payload)


@given(st.binary(max_size=60))
def test_decoding_noise_raises_nothing_but_a_model_error(payload):
    with pytest.raises(ModelError):
        decode_tick(payload)


@pytest.mark.parametrize(
    "moment",
    [NAIVE, None, 1.0, "2026-01-01", datetime(2300, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)],
)
def test_a_time_that_is_naive_or_cannot_be_kept_exactly_is_refused(moment):
    with pytest.raises(ModelError) as error:
        check_time(moment, "start")
    assert error.value.field == "start"


def test_a_time_of_another_zone_is_the_same_moment():
    there = datetime(2026, 1, 1, 3, tzinfo=timezone(timedelta(hours=3)))
    assert check_time(there, "at") == check_time(datetime(2026, 1, 1, tzinfo=UTC), "at")
