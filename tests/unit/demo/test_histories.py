from datetime import UTC, datetime, timedelta

from betcore_async.demo.cells import Cell
from betcore_async.demo.histories import Histories
from betcore_async.demo.summary import WeekBets
from betcore_async.models import Bet, BetStatus
from betcore_async.partitions import Week

CELL = "BTC-USD:2022-01-03T10:05Z+5m:46250-46300"
SUNDAY = datetime(2022, 1, 2, 23, 59, tzinfo=UTC)
MONDAY = SUNDAY + timedelta(minutes=1)


def bet(number, status, placed_at=SUNDAY):
    is_decided = status in {BetStatus.WON, BetStatus.LOST, BetStatus.CANCELLED}
    return Bet(
        id=str(number),
        user_id="u",
        cell_id=CELL,
        amount=1,
        reward_rate=2,
        status=status,
        placed_at=placed_at,
        resolved_at=placed_at if is_decided else None,
        payout_amount=2 if status is BetStatus.WON else None,
    )


def test_bets_are_counted_in_the_week_in_which_they_were_placed_by_what_became_of_them():
    histories = Histories()
    histories.add("u", [bet(1, BetStatus.WON), bet(2, BetStatus.PENDING, MONDAY), bet(3, BetStatus.CONFIRMED, MONDAY)])
    histories.add("v", [bet(4, BetStatus.INSUFFICIENT_FUNDS), bet(5, BetStatus.LOST), bet(6, BetStatus.CANCELLED)])
    assert histories.weeks([Week("2022-W02")]) == (
        WeekBets("2021-W52", won=1, lost=1, refused=1, cancelled=1),
        WeekBets("2022-W01", open=2),
        WeekBets("2022-W02"),
    )
    assert histories.open_cells == {Cell.parse(CELL)}


def test_a_bet_shown_twice_is_doubled_and_counts_once():
    histories = Histories()
    histories.add("u", [bet(1, BetStatus.LOST), bet(1, BetStatus.LOST), bet(2, BetStatus.LOST)])
    assert histories.doubled == 1
    assert histories.bets_of["u"] == 2


def test_what_was_acknowledged_and_is_not_there_is_missing_for_each_user():
    histories = Histories()
    histories.add("u", [bet(1, BetStatus.LOST), bet(2, BetStatus.LOST)])
    assert histories.missing({"u": 2}) == 0
    assert histories.missing({"u": 3, "v": 1}) == 2
    assert histories.missing({"u": 1, "v": 1}) == 1  # a bet too many of one user does not hide a lost one of another
