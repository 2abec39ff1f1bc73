import json

import pytest
from unit.demo.factories import latencies, summary

from betcore_async.demo.summary import Timing, Verdict, peak_memory

FAILED = Verdict(ok=False, violations=("2022-W01: …",), counts={"money_in": 5, "money_out": 4})


@pytest.mark.parametrize(
    ("changes", "ok"), [({}, True), ({"audit": FAILED}, False), ({"lost_bets": 1}, False), ({"doubled_bets": 1}, False)]
)
def test_a_run_is_good_when_the_audit_passed_and_no_bet_is_lost_or_doubled(changes, ok):
    assert summary(**changes).ok is ok
    assert json.loads(summary(**changes).to_json())["ok"] is ok
    assert (dict(summary(**changes).lines())["verdict"] == "OK") is ok


def test_json_holds_every_number_of_the_table():
    facts = json.loads(summary().to_json())
    assert facts["ticks"] == 10_080
    assert facts["per_second"] == {"ticks": 5040.0, "bets": 750.0, "settlements": 700.0}
    assert facts["weeks_queried"] == 2
    assert facts["weeks"][1] == {"week": "2022-W01", "won": 300, "lost": 603, "open": 97, "refused": 0, "cancelled": 0}
    assert facts["timings"]["place"] == {"count": 1500, "p50": 2.0, "p99": 9.5, "longest": 30.25}
    assert facts["first"] == "2022-01-01T00:00:00+00:00"
    assert facts["audit"]["counts"] == {"money_in": 1000, "money_out": 1000}


def test_a_run_without_time_has_no_rates():
    assert summary(elapsed=0.0).rate(5) == 0.0


def test_the_data_folder_is_told_only_where_it_was_kept():
    assert "data" not in dict(summary().lines())
    assert dict(summary(data="/somewhere").lines())["data"] == "/somewhere"


def test_timings_are_in_milliseconds():
    timing = Timing.of(latencies(0.001, 0.001, 0.1))
    assert (timing.count, timing.longest) == (3, 100.0)
    assert timing.p50 == pytest.approx(1, rel=0.05)
    assert timing.p99 == pytest.approx(100, rel=0.05)


def test_peak_memory_is_in_bytes():
    assert 10_000_000 < peak_memory() < 10_000_000_000
