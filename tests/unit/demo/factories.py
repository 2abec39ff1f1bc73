"""What the tests of the summary and the report are made of."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from betcore_async.demo.cells import cell_near
from betcore_async.demo.feed import GeneratedFeed, generate_feed, survey
from betcore_async.demo.latency import Latencies
from betcore_async.demo.summary import DemoSummary, Timing, Verdict, WeekBets
from betcore_async.demo.trace import Trace

FEED = GeneratedFeed(start=datetime(2022, 1, 1, tzinfo=UTC), weeks=1)


def latencies(*seconds):
    made = Latencies()
    for value in seconds:
        made.record(value)
    return made


def summary(**changes):
    plain = DemoSummary(
        feed="prices.csv",
        first=datetime(2022, 1, 1, tzinfo=UTC),
        last=datetime(2022, 1, 7, 23, 59, tzinfo=UTC),
        complete=True,
        resumed=False,
        users=20,
        ticks=10_080,
        ticks_settled=10_080,
        live_deliveries=30_000,
        bets=1_500,
        refused=3,
        settlements=1_400,
        rotations=1,
        weeks=(WeekBets("2021-W52", won=100, lost=397, refused=3), WeekBets("2022-W01", won=300, lost=603, open=97)),
        lost_bets=0,
        doubled_bets=0,
        elapsed=2.0,
        timings={"place": Timing(1_500, 2.0, 9.5, 30.25)},
        audit=Verdict(ok=True, violations=(), counts={"money_in": 1_000, "money_out": 1_000}),
        peak_memory=120_000_000,
        data=None,
    )
    return replace(plain, **changes)


def trace(*, ticks=10_080, cells=True):
    made = Trace(survey(str(FEED), generate_feed(FEED)))
    for count, tick in enumerate(generate_feed(FEED)):
        if count == ticks:
            break
        made.tick(tick)
        if tick.at.isoweekday() == 1 and not made.rotations:
            made.rotated(tick.at)
        if cells and count % 3 == 0:
            made.settled(
                cell_near(tick, bands=count % 5 - 2, windows=0, length=timedelta(minutes=5)), won=count % 2 == 0, bets=2
            )
    made.latencies = {"place": latencies(0.001, 0.002, 0.004), "query": latencies(0.01), "settle": latencies()}
    made.balances = [990_000, 1_000_000, 1_000_500]
    return made
