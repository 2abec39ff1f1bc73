import gzip
import itertools
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.demo.feed import GeneratedFeed, generate_feed, read_feed, survey
from betcore_async.errors import FeedError
from betcore_async.models import PricePoint

ROWS = """time,symbol,price
2022-01-03T00:00:00Z,BTC-USD,47286.18
2022-01-03T00:01:00Z,BTC-USD,47300
2022-01-03T01:02:00+01:00,ETH-USD,3800.5
"""


@pytest.fixture
def feed(tmp_path):
    def write(text, name="feed.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refused(path):
    with pytest.raises(FeedError) as caught:
        list(read_feed(path))
    assert caught.value.source == str(path)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", ["feed.csv", "feed.csv.gz"])
def test_rows_become_exact_prices_in_utc(feed, name):
    text = ROWS.encode()
    path = feed(gzip.compress(text) if name.endswith("gz") else text, name)
    assert list(read_feed(path)) == [
        PricePoint(symbol="BTC-USD", price=Decimal("47286.18"), at=datetime(2022, 1, 3, 0, 0, tzinfo=UTC)),
        PricePoint(symbol="BTC-USD", price=Decimal(47300), at=datetime(2022, 1, 3, 0, 1, tzinfo=UTC)),
        PricePoint(symbol="ETH-USD", price=Decimal("3800.5"), at=datetime(2022, 1, 3, 0, 2, tzinfo=UTC)),
    ]


def test_feed_is_read_only_as_far_as_it_is_asked_for(feed):
    path = feed(ROWS + "rubbish\n")
    assert len(list(itertools.islice(read_feed(path), 3))) == 3


def test_a_file_left_half_read_is_closed(feed):
    ticks = read_feed(feed(ROWS))
    next(ticks)
    ticks.close()  # an open file would become a ResourceWarning, which is an error here
    with pytest.raises(StopIteration):
        next(ticks)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("2022-01-03T00:00:00Z,BTC-USD,47286.18", "before the row above"),
        ("2022-01-03T00:05:00Z,BTC-USD,abc", "not a number"),
        ("2022-01-03T00:05:00Z,BTC-USD,", "not a number"),
        ("2022-01-03T00:05:00Z,BTC-USD,NaN", "not a number"),
        ("2022-01-03T00:05:00Z,BTC-USD,inf", "not a number"),
        ("2022-01-03T00:05:00Z,BTC-USD,1_000", "not a number"),
        ("2022-01-03T00:05:00Z,BTC-USD,0", "not positive"),
        ("2022-01-03T00:05:00Z,BTC-USD,-1", "not positive"),
        ("2022-01-03T00:05:00Z,BTC-USD,1e900", "must lie between"),
        ("2022-01-03T00:05:00,BTC-USD,1", "no time zone"),
        ("yesterday,BTC-USD,1", "not ISO 8601"),
        ("0001-01-01T00:00:00+23:00,BTC-USD,1", "must lie between"),
        ("9999-12-31T23:00:00Z,BTC-USD,1", "must lie between"),
        ("2022-01-03T00:05:00Z,,1", "symbol"),
        ("2022-01-03T00:05:00Z,a:b,1", "symbol"),
        ("2022-01-03T00:05:00Z,a b,1", "symbol"),
        (f"2022-01-03T00:05:00Z,BTC-USD,1.{'3' * 90}", "digits"),
        ("2022-01-03T00:05:00Z,BTC-USD", "2 fields instead of 3"),
        ("2022-01-03T00:05:00Z,BTC-USD,1,2", "4 fields instead of 3"),
        ('2022-01-03T00:05:00Z,"BTC-USD,1', "not CSV"),
        ("2022-01-03T00:05:00Z,BTC-USD,1\0", "line 5"),
    ],
)
def test_a_bad_row_is_named_with_its_line(feed, row, text):
    error = refused(feed(ROWS + row + "\n"))
    assert text in str(error)
    assert error.line == 5


@pytest.mark.parametrize("text", ["", "time;symbol;price\n", "2022-01-03T00:00:00Z,BTC-USD,47286.18\n"])
def test_a_wrong_header_is_told(feed, text):
    error = refused(feed(text))
    assert "header must be time,symbol,price" in str(error)
    assert error.line == 1


def test_a_cut_off_gzip_file_is_told(feed):
    many = ROWS + "".join(f"2022-01-04T{m // 60:02}:{m % 60:02}:00Z,BTC-USD,{47000 + m}\n" for m in range(1200))
    error = refused(feed(gzip.compress(many.encode())[:-200], "feed.csv.gz"))
    assert "damaged or cut off" in str(error)


def test_plain_text_named_gz_is_told(feed):
    assert "damaged or cut off" in str(refused(feed(ROWS, "feed.csv.gz")))


def test_another_encoding_is_told(feed):
    assert "not UTF-8" in str(refused(feed(ROWS.encode() + "2022-01-03T00:05:00Z,€,1\n".encode("cp1252"))))


def test_a_byte_order_mark_is_no_part_of_the_header(feed):
    assert len(list(read_feed(feed("\ufeff" + ROWS)))) == 3


def test_a_file_that_is_not_there_and_a_folder_are_told(tmp_path):
    assert "No such file" in str(refused(tmp_path / "nothing.csv"))
    assert "not a file" in str(refused(tmp_path))


def test_survey_tells_what_is_in_a_feed(feed):
    facts = survey("feed", read_feed(feed(ROWS)))
    assert (facts.ticks, facts.symbols) == (3, ("BTC-USD", "ETH-USD"))
    assert facts.last - facts.first == timedelta(minutes=2)


def test_survey_refuses_a_feed_without_prices(feed):
    with pytest.raises(FeedError, match="no price"):
        survey("feed", read_feed(feed("time,symbol,price\n")))


def test_survey_refuses_a_silence_of_more_than_a_year(feed):
    with (
        closing(read_feed(feed(ROWS + "2024-01-03T00:00:00Z,BTC-USD,1\n"))) as ticks,
        pytest.raises(FeedError, match="more than a year") as caught,
    ):
        survey("feed", ticks)
    assert caught.value.line == 5


def test_fingerprint_is_of_the_ticks_not_of_the_file(feed):
    plain = survey("a", read_feed(feed(ROWS)))
    packed = survey("b", read_feed(feed(gzip.compress(ROWS.encode()), "other.csv.gz")))
    other = survey("c", read_feed(feed(ROWS.replace("47300", "47301"), "third.csv")))
    assert plain.fingerprint == packed.fingerprint != other.fingerprint


def test_interval_is_the_usual_step_of_one_symbol():
    assert survey("g", generate_feed(GeneratedFeed(weeks=1))).interval == timedelta(minutes=1)
    tick = PricePoint(symbol="A", price=Decimal(1), at=datetime(2022, 1, 3, tzinfo=UTC))
    assert survey("one", [tick]).interval == timedelta(minutes=1)


def test_default_feed_crosses_two_mondays_one_of_them_after_a_53rd_week():
    facts = survey("g", generate_feed(GeneratedFeed()))
    weeks = {
        (facts.first + timedelta(days=day)).isocalendar()[:2] for day in range((facts.last - facts.first).days + 1)
    }
    assert weeks == {(2026, 52), (2026, 53), (2027, 1)}


@given(seed=st.integers(0, 2**32))
def test_generated_feed_is_the_same_for_the_same_seed_and_reads_as_a_feed_does(seed):
    feed = GeneratedFeed(seed=seed, weeks=1)
    ticks = list(itertools.islice(generate_feed(feed), 300))
    assert ticks == list(itertools.islice(generate_feed(feed), 300))
    assert [PricePoint(symbol=t.symbol, price=t.price, at=t.at) for t in ticks] == ticks
    assert all(later.at - tick.at == timedelta(minutes=1) for tick, later in itertools.pairwise(ticks))
    assert ticks != list(itertools.islice(generate_feed(GeneratedFeed(seed=seed + 1)), 300))
