"""Commands check themselves: what an engine is handed can be executed."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.errors import ModelError
from betcore_async.ids import IdGenerator, parse_id
from betcore_async.models import MAX_MONEY, PPM, payout, reward_ppm
from betcore_async.stores.commands import (
    CancelBet,
    ConfirmBet,
    CreateUser,
    Deposit,
    PlaceBet,
    SettleBet,
    SettleChunk,
    Transfer,
    Withdraw,
    check_name,
)

ID = IdGenerator()()


@given(st.integers(1, MAX_MONEY // 10), st.integers(PPM, 10 * PPM))
def test_a_payout_is_the_exact_product_rounded_down(amount, ppm):
    exact = Fraction(amount * ppm, PPM)
    assert payout(amount, ppm) <= exact < payout(amount, ppm) + 1


@given(st.decimals(min_value=1, max_value=1000, places=6))
def test_a_rate_of_six_decimals_is_kept_exactly(rate):
    assert Fraction(reward_ppm(float(rate)), PPM) == Fraction(rate)


def test_the_rate_that_floats_get_wrong():
    assert payout(100, reward_ppm(1.13)) == 113
    assert int(100 * 1.13) == 112


@given(st.text(max_size=300))
def test_a_name_is_returned_as_it_is_or_refused(text):
    if 1 <= len(text) <= 256 and "\0" not in text and text.encode(errors="replace").decode() == text:
        assert check_name(text, "cell_id") == text
    else:
        with pytest.raises(ModelError) as caught:
            check_name(text, "cell_id")
        assert caught.value.field == "cell_id"


@pytest.mark.parametrize("won", [1, 0, None, "lost", "won", "", 1.0])
def test_a_verdict_is_true_or_false_and_nothing_that_is_like_it(won):
    for make in (lambda: SettleBet(ID, won), lambda: SettleChunk("cell", won, "", ID)):
        with pytest.raises(ModelError) as caught:
            make()
        assert caught.value.field == "won"


class Count(int):
    """An int that is not one: what numpy and friends hand out looks like it."""


HUGE = 10**5000  # more digits than Python writes out


@pytest.mark.parametrize("rate", [True, Count(PPM), float(PPM), "1", None, 0, -PPM, PPM - 1, 10**12 + 1])
def test_a_rate_in_a_command_is_whole_parts_per_million_that_a_rate_can_have(rate):
    with pytest.raises(ModelError) as caught:
        PlaceBet(ID, "user", "cell", 1, rate)
    assert caught.value.field == "reward_ppm"


@pytest.mark.parametrize(
    "refused",
    [
        lambda: reward_ppm(HUGE),
        lambda: PlaceBet(ID, "user", "cell", 1, HUGE),
        lambda: CreateUser(ID, "0xabc", -HUGE),
        lambda: parse_id(HUGE),
        lambda: Deposit(ID, "user", 1, HUGE),
        lambda: SettleBet(ID, HUGE),
        lambda: SettleChunk("cell", True, HUGE),
    ],
)
def test_a_number_of_very_many_digits_is_refused_like_any_other(refused):
    with pytest.raises(ModelError) as caught:
        refused()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("amount", [True, Count(5), 5.0, "5", None, 0, -1, MAX_MONEY + 1])
def test_an_amount_is_an_int_within_its_bounds(amount):
    for make in (
        lambda: Deposit(ID, "user", amount),
        lambda: Withdraw(ID, "user", amount),
        lambda: Transfer(ID, "user", "other", amount),
        lambda: PlaceBet(ID, "user", "cell", amount, PPM),
    ):
        with pytest.raises(ModelError) as caught:
            make()
        assert caught.value.field == "amount"


def test_a_payout_that_no_column_could_hold_is_refused_at_placement():
    assert PlaceBet(ID, "user", "cell", MAX_MONEY // 2, 2 * PPM).amount == MAX_MONEY // 2
    with pytest.raises(ModelError) as caught:
        PlaceBet(ID, "user", "cell", MAX_MONEY // 2 + 1, 2 * PPM)
    assert caught.value.field == "amount"


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: CreateUser("x", "0xabc", 0), "id"),
        (lambda: CreateUser(ID, "", 0), "wallet_address"),
        (lambda: CreateUser(ID, "0xabc", -1), "opening_balance"),
        (lambda: Deposit("x", "user", 1), "id"),
        (lambda: Deposit(ID, "", 1), "user_id"),
        (lambda: Withdraw(ID, None, 1), "user_id"),
        (lambda: Transfer(ID, "", "other", 1), "from_user_id"),
        (lambda: Transfer(ID, "user", "", 1), "to_user_id"),
        (lambda: Transfer(ID, "user", "user", 1), "to_user_id"),
        (lambda: PlaceBet(ID, "user", "a\0b", 1, PPM), "cell_id"),
        (lambda: PlaceBet(ID, "user", "\udc00", 1, PPM), "cell_id"),
        (lambda: ConfirmBet("x"), "bet_id"),
        (lambda: CancelBet(ID.upper()), "bet_id"),
        (lambda: SettleBet("", won=True), "bet_id"),
        (lambda: SettleChunk("", True, "", ID), "cell_id"),
    ],
)
def test_a_refusal_names_the_field(make, field):
    with pytest.raises(ModelError) as caught:
        make()
    assert caught.value.field == field
