from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.demo.cells import WINDOWS_AHEAD, Cell, band_width, cell_near, reward_rate, window_length
from betcore_async.errors import ModelError
from betcore_async.models import PricePoint

FIVE = timedelta(minutes=5)
TEN = datetime(2022, 1, 3, 10, 0, tzinfo=UTC)

prices = st.decimals(min_value=Decimal("1e-9"), max_value=Decimal("1e15"), places=9).filter(lambda price: price > 0)


def tick(price, at=TEN, symbol="BTC-USD"):
    return PricePoint(symbol=symbol, price=Decimal(price), at=at)


def test_an_id_tells_symbol_window_and_band():
    cell = cell_near(tick("46337.5", TEN + timedelta(minutes=2)), bands=-1, windows=1, length=FIVE)
    assert str(cell) == "BTC-USD:2022-01-03T10:05Z+5m:46250-46300"


@given(
    price=prices,
    bands=st.integers(-6, 6),
    windows=st.integers(0, 10),
    at=st.datetimes(datetime(1971, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    minutes=st.integers(5, 600),
)
def test_an_id_reads_back_as_its_cell(price, bands, windows, at, minutes):
    cell = cell_near(tick(price, at), bands=bands, windows=windows, length=timedelta(minutes=minutes))
    assert Cell.parse(str(cell)) == cell
    assert 0 < cell.low < cell.high


@given(price=prices, at=st.datetimes(datetime(1971, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_the_nearest_window_for_bets_begins_more_than_one_window_from_now(price, at):
    cell = cell_near(tick(price, at), bands=0, windows=WINDOWS_AHEAD, length=FIVE)
    assert FIVE < cell.start - at <= 2 * FIVE
    assert cell.low <= price < cell.high


@pytest.mark.parametrize("text", ["", "BTC-USD", "BTC-USD:2022-01-03T10:05Z+5m:1", "a:2022-01-03+5m:1-2", "a:b+c:x-y"])
def test_another_text_is_refused(text):
    with pytest.raises(ModelError):
        Cell.parse(text)


@pytest.mark.parametrize(
    ("moment", "price", "won"),
    [
        (TEN, "46300", True),
        (TEN + FIVE - timedelta(microseconds=1), "46349.99", True),
        (TEN + FIVE, "46300", False),
        (TEN - timedelta(microseconds=1), "46300", False),
        (TEN, "46350", False),
        (TEN, "46299.99", False),
    ],
)
def test_window_and_band_are_half_open(moment, price, won):
    cell = Cell("BTC-USD", TEN, TEN + FIVE, Decimal(46300), Decimal(46350))
    assert cell.won_by([tick("1", TEN), tick(price, moment)]) is won


def test_another_symbol_wins_nothing():
    cell = Cell("BTC-USD", TEN, TEN + FIVE, Decimal(1), Decimal(2))
    assert not cell.won_by([tick("1", symbol="ETH-USD")])
    assert not cell.won_by([])


@given(price=prices)
def test_bands_are_about_a_thousandth_of_the_price(price):
    assert price / 1000 <= band_width(price) <= price / 399


@pytest.mark.parametrize(("price", "width"), [("46300", "50"), ("1000", "1"), ("0.00012", "0.0000002"), ("2000", "2")])
def test_bands_have_round_edges(price, width):
    assert band_width(Decimal(price)) == Decimal(width)


@pytest.mark.parametrize(
    ("interval", "length"),
    [(timedelta(seconds=1), FIVE), (timedelta(minutes=1), FIVE), (timedelta(hours=1), timedelta(hours=5))],
)
def test_a_window_has_room_for_some_ticks(interval, length):
    assert window_length(interval) == length


def test_a_farther_band_pays_more():
    rates = [reward_rate(bands) for bands in range(7)]
    assert rates == sorted(set(rates))
    assert rates[0] >= 1
    assert reward_rate(-3) == reward_rate(3)
