"""Models: what they refuse, that JSON keeps them exactly, that fast construction equals the checked one."""

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from betcore_async.clock import from_microseconds, to_microseconds
from betcore_async.errors import ModelError
from betcore_async.models import (
    MAX_MONEY,
    MAX_REWARD_RATE,
    OPEN_STATUSES,
    PPM,
    TRANSITIONS,
    Bet,
    BetStatus,
    Candle,
    LedgerEntry,
    PricePoint,
    User,
    check_money,
    payout,
    reward_ppm,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=256)
money = st.integers(0, MAX_MONEY)
stakes = st.integers(1, MAX_MONEY)
moments = st.integers(
    to_microseconds(datetime(1970, 1, 1, tzinfo=UTC)), to_microseconds(datetime(9999, 1, 1, tzinfo=UTC))
)
ppms = st.integers(PPM, int(MAX_REWARD_RATE) * PPM)
decimals = st.decimals(min_value=Decimal("1e-18"), max_value=Decimal("1e18"), allow_nan=False)

users = st.builds(
    User,
    id=names,
    wallet_address=names,
    balance=money,
    version=st.integers(1, MAX_MONEY),
    created_at=moments.map(from_microseconds),
    updated_at=moments.map(from_microseconds),
)
entries = st.builds(
    LedgerEntry,
    id=names,
    user_id=names,
    amount=st.integers(-MAX_MONEY, MAX_MONEY),
    balance_after=money,
    ref_type=names,
    ref_id=names,
    metadata=st.none()
    | st.dictionaries(st.text(max_size=5), st.integers() | st.booleans() | st.none() | st.text(max_size=5)),
    created_at=moments.map(from_microseconds),
)
points = st.builds(PricePoint, symbol=names, price=decimals, at=moments.map(from_microseconds))
candles = st.builds(
    Candle,
    symbol=names,
    start=moments.map(from_microseconds),
    open=decimals,
    high=decimals,
    low=decimals,
    close=decimals,
    count=st.integers(1, 10**9),
)


@st.composite
def bet_rows(draw):
    """Rows of the bets table, in the order of Bet.COLUMNS."""
    status = draw(st.sampled_from(BetStatus))
    placed = draw(moments)
    settled = status in {BetStatus.WON, BetStatus.LOST, BetStatus.CANCELLED}
    resolved = placed + draw(st.integers(0, 10**12)) if settled else None
    won = draw(stakes) if status is BetStatus.WON else None
    return (draw(names), draw(names), draw(names), draw(stakes), draw(ppms), str(status), placed, resolved, won)


def checked_bet(row) -> Bet:
    return Bet(
        id=row[0],
        user_id=row[1],
        cell_id=row[2],
        amount=row[3],
        reward_rate=row[4] / PPM,
        status=row[5],
        placed_at=from_microseconds(row[6]),
        resolved_at=None if row[7] is None else from_microseconds(row[7]),
        payout_amount=row[8],
    )


def bet(**changes) -> Bet:
    usual = {
        "id": "b",
        "user_id": "u",
        "cell_id": "c",
        "amount": 100,
        "reward_rate": 1.5,
        "status": "pending",
        "placed_at": NOON,
    }
    return Bet(**(usual | changes))


@given(st.one_of(users, entries, points, candles, bet_rows().map(checked_bet)))
def test_json_keeps_every_model_exactly(model):
    assert type(model).model_validate_json(model.model_dump_json()) == model


@given(st.lists(bet_rows(), max_size=5))
def test_bets_from_rows_equal_checked_ones(rows):
    assert Bet.from_rows(rows) == [checked_bet(row) for row in rows]


@given(st.lists(users, max_size=5))
def test_users_from_rows_equal_checked_ones(checked):
    rows = [
        (
            user.id,
            user.wallet_address,
            user.balance,
            user.version,
            to_microseconds(user.created_at),
            to_microseconds(user.updated_at),
        )
        for user in checked
    ]
    assert User.from_rows(rows) == checked


@pytest.mark.parametrize("model", [User, Bet])
def test_the_columns_of_a_model_are_its_fields(model):
    columns = model.COLUMNS.replace("reward_ppm", "reward_rate").split(", ")
    assert columns == list(model.model_fields)


@pytest.mark.parametrize("make", [bet, lambda: PricePoint(symbol="BTC", price="1.5", at=NOON)])
def test_a_model_cannot_be_changed(make):
    model = make()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(model, next(iter(type(model).model_fields)), "x")


@pytest.mark.parametrize("amount", [0, -1, MAX_MONEY + 1, 1.0, "5", True, None, Decimal(5)])
def test_a_stake_is_a_positive_64_bit_integer_and_nothing_like_it(amount):
    with pytest.raises(ValidationError, match="amount"):
        bet(amount=amount)


@pytest.mark.parametrize("rate", [math.nan, math.inf, -math.inf, 0.99, 0, -1, MAX_REWARD_RATE * 1.1, "high"])
def test_a_reward_rate_is_finite_and_within_bounds(rate):
    with pytest.raises(ValidationError, match="reward_rate"):
        bet(reward_rate=rate)


@pytest.mark.parametrize(
    "moment",
    [
        NOON.replace(tzinfo=None),
        "2026-01-01T00:00:00",
        "9999-12-31T23:59:59-01:00",
        "0001-01-01T00:00:00+01:00",
    ],
)
def test_a_time_without_zone_or_outside_the_calendar_is_refused(moment):
    with pytest.raises(ValidationError, match="placed_at"):
        bet(placed_at=moment)


def test_times_become_utc():
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert bet(placed_at=there).placed_at == NOON
    assert bet(placed_at=there).placed_at.tzinfo is UTC


LATER = NOON + timedelta(minutes=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "pending", "resolved_at": LATER},
        {"status": "confirmed", "resolved_at": LATER},
        {"status": "won", "payout_amount": 150},
        {"status": "won", "resolved_at": LATER},
        {"status": "won", "resolved_at": LATER, "payout_amount": 0},
        {"status": "lost"},
        {"status": "cancelled"},
        {"status": "lost", "resolved_at": LATER, "payout_amount": 150},
        {"status": "insufficient_funds", "payout_amount": 150},
        {"status": "lost", "resolved_at": NOON - timedelta(microseconds=1)},
        {"status": "drawn"},
        {"extra": 1},
        {"id": ""},
        {"id": "x" * 257},
    ],
)
def test_a_bet_whose_parts_do_not_fit_is_refused(changes):
    with pytest.raises(ValidationError):
        bet(**changes)


def test_a_bet_is_open_until_it_is_decided():
    assert bet().is_open
    assert bet(status="confirmed").is_open
    assert not bet(status="won", resolved_at=LATER, payout_amount=150).is_open
    assert not bet(status="insufficient_funds").is_open


def test_exactly_the_open_statuses_can_change():
    assert TRANSITIONS.keys() == set(BetStatus)
    assert {status for status, wanted in TRANSITIONS.items() if wanted} == OPEN_STATUSES


@given(stakes, ppms)
def test_a_payout_is_the_floor_of_the_exact_product(amount, ppm):
    assert payout(amount, ppm) == math.floor(Fraction(amount) * Fraction(ppm, PPM))


@given(st.integers(1, 10**9), st.integers(100, 10_000))
def test_a_rate_with_two_decimals_pays_what_a_person_reckons(amount, hundredths):
    assert payout(amount, reward_ppm(hundredths / 100)) == amount * hundredths // 100


def test_the_payout_of_100_at_1_13_is_113():
    assert payout(100, reward_ppm(1.13)) == 113


@given(ppms)
def test_a_rate_of_whole_parts_per_million_keeps_them(ppm):
    assert reward_ppm(ppm / PPM) == ppm


class Float64(float):
    """Like numpy's: a float with a repr of its own."""

    def __repr__(self) -> str:
        return f"np.float64({float(self)!r})"


def test_a_model_from_a_row_is_in_every_way_what_a_checked_one_is():
    row = ("b", "u", "c", 100, 1_900_000, "won", 1_764_000_000_000_000, 1_764_000_000_000_001, 190)
    made, checked = Bet.from_rows([row])[0], checked_bet(row)
    assert made.model_fields_set == checked.model_fields_set
    assert made.model_dump_json() == checked.model_dump_json()
    assert made.model_copy(update={"amount": 7}) == checked.model_copy(update={"amount": 7})
    assert made.__getstate__() == checked.__getstate__()  # what pickle keeps
    assert (hash(made), repr(made), made.model_extra) == (hash(checked), repr(checked), checked.model_extra)
    with pytest.raises(ValidationError, match="frozen"):
        made.amount = 7


def test_a_row_with_a_status_that_is_none_is_a_model_error_that_shows_it():
    row = ("b", "u", "c", 100, 1_900_000, "paid", 1_764_000_000_000_000, None, None)
    with pytest.raises(ModelError, match="'paid'") as caught:
        Bet.from_rows([row])
    assert caught.value.field == "status"


@pytest.mark.parametrize(
    ("rate", "ppm"), [(1, PPM), (2, 2 * PPM), (1.0000005, PPM), (1.0000015, PPM + 2), (Float64(1.13), 1_130_000)]
)
def test_a_rate_becomes_whole_parts_per_million(rate, ppm):
    assert reward_ppm(rate) == ppm


@pytest.mark.parametrize(
    "rate", [0, 0.999999, -1, math.nan, math.inf, MAX_REWARD_RATE + 1, True, "1.5", None, Decimal("1.5")]
)
def test_a_rate_that_cannot_be_is_a_model_error_naming_its_field(rate):
    with pytest.raises(ModelError, match="reward_rate must be") as caught:
        reward_ppm(rate)
    assert caught.value.field == "reward_rate"


@pytest.mark.parametrize("value", [0, -1, MAX_MONEY + 1, 1.0, True, "1", None])
def test_money_that_cannot_be_is_a_model_error_naming_its_field(value):
    with pytest.raises(ModelError, match="stake must be") as caught:
        check_money(value, "stake")
    assert caught.value.field == "stake"


@pytest.mark.parametrize(("value", "least"), [(1, 1), (MAX_MONEY, 1), (0, 0)])
def test_money_within_bounds_passes(value, least):
    assert check_money(value, least=least) == value
