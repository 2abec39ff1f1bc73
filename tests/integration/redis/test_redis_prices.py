import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from betcore_async.clock import ManualClock
from betcore_async.config import PriceSettings, RedisSettings
from betcore_async.errors import ModelError
from betcore_async.models import PricePoint
from betcore_async.redis import Gap, PriceCache, PubSubHub, Reconnected, RedisClient, decode_tick

T0 = datetime(2026, 11, 23, 12, tzinfo=UTC)
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that it has no time zone is the point
SECOND = timedelta(seconds=1)


def at(seconds):
    return T0 + seconds * SECOND


@pytest.fixture
def clock():
    return ManualClock(T0 + timedelta(days=1))


@pytest.fixture
def make_prices(client, hub, clock, unique):
    def make(**options):
        return PriceCache(client, PriceSettings(key_prefix=unique, **options), clock, hub)

    return make


@pytest.fixture
def prices(make_prices):
    return make_prices()


async def history(prices, symbol="BTC-USD", **options):
    points = await prices.get_price_history(symbol, T0 - timedelta(days=400), T0 + timedelta(days=400), **options)
    return [(int((point.at - T0) / SECOND), str(point.price)) for point in points]


async def test_the_latest_price_comes_back_exactly(prices, clock):
    assert await prices.get_latest_price("BTC-USD") is None
    written = await prices.set_price("BTC-USD", "42000.50")
    assert written == PricePoint(symbol="BTC-USD", price=Decimal("42000.50"), at=clock())
    read = await prices.get_latest_price("BTC-USD")
    assert read == written
    assert str(read.price) == "42000.50"


async def test_a_late_tick_joins_the_history_but_never_replaces_a_newer_price(prices):
    await prices.set_price("BTC-USD", 2, at(20))
    await prices.set_price("BTC-USD", 1, at(10))
    assert (await prices.get_latest_price("BTC-USD")).price == 2
    await prices.set_prices([("BTC-USD", 3, at(15)), ("BTC-USD", 5, at(30)), ("BTC-USD", 4, at(25))])
    assert (await prices.get_latest_price("BTC-USD")).price == 5
    assert await history(prices) == [(10, "1"), (15, "3"), (20, "2"), (25, "4"), (30, "5")]


async def test_at_equal_times_the_later_write_is_the_latest(prices):
    await prices.set_price("BTC-USD", 1, at(10))
    await prices.set_price("BTC-USD", 2, at(10))
    assert (await prices.get_latest_price("BTC-USD")).price == 2


async def test_a_late_tick_does_not_become_latest_because_the_newer_one_expired(prices, client, unique):
    await prices.set_price("BTC-USD", 2, at(20))
    assert await client.delete(f"{unique}:{{BTC-USD}}:latest") == 1  # as if its time had run out
    await prices.set_price("BTC-USD", 1, at(10))
    assert await prices.get_latest_price("BTC-USD") is None
    assert await history(prices) == [(10, "1"), (20, "2")]


async def test_a_history_that_was_cleared_by_hand_does_not_make_a_late_tick_the_latest(prices, client, unique):
    await prices.set_price("BTC-USD", 2, at(20))
    await client.delete(f"{unique}:{{BTC-USD}}:history")
    await prices.set_price("BTC-USD", 1, at(10))
    assert (await prices.get_latest_price("BTC-USD")).price == 2


async def test_the_latest_price_expires_unless_renewed_and_a_late_tick_does_not_renew_it(make_prices, client, unique):
    prices = make_prices(latest_ttl="60s")
    await prices.set_price("BTC-USD", 2, at(20))
    key = f"{unique}:{{BTC-USD}}:latest"
    assert 0 < await client.execute("PTTL", key) <= 60_000
    await client.execute("PEXPIRE", key, 5_000)
    await prices.set_price("BTC-USD", 1, at(10))
    assert await client.execute("PTTL", key) <= 5_000
    await prices.set_price("BTC-USD", 3, at(30))
    assert await client.execute("PTTL", key) > 5_000


async def test_the_same_price_twice_is_two_points_also_at_the_same_moment(prices):
    for _ in range(2):
        await prices.set_price("BTC-USD", "1.5", at(1))
        await prices.set_price("BTC-USD", "1.5", at(2))
    assert await history(prices) == [(1, "1.5"), (1, "1.5"), (2, "1.5"), (2, "1.5")]


async def test_points_of_one_moment_keep_the_order_they_were_written_in(prices):
    written = [(1, str(price)) for price in [9, 10, 1, 200, 3] * 30]
    await prices.set_prices([("BTC-USD", price, at(second)) for second, price in written])
    assert await history(prices) == written
    assert await history(prices, newest_first=True) == written[::-1]


async def test_history_is_half_open_and_limited(prices):
    await prices.set_prices([("BTC-USD", second, at(second)) for second in range(1, 6)])

    async def seconds(start, end, **options):
        return [int(point.price) for point in await prices.get_price_history("BTC-USD", start, end, **options)]

    assert await seconds(at(2), at(4)) == [2, 3]
    assert await seconds(at(2), at(4) + timedelta(microseconds=1)) == [2, 3, 4]
    assert await seconds(at(2), at(2)) == []
    assert await seconds(at(0), at(9), limit=2) == [1, 2]
    assert await seconds(at(0), at(9), limit=2, newest_first=True) == [5, 4]
    assert await seconds(at(2), at(4), newest_first=True) == [3, 2]
    assert await seconds(at(0), at(9), limit=0) == []


async def test_history_is_pruned_by_age_relative_to_the_newest_point(make_prices):
    prices = make_prices(history_max_age="10s")
    assert await prices.set_prices([("BTC-USD", second, at(second)) for second in range(1, 21)]) == 20
    assert [second for second, _ in await history(prices)] == list(range(10, 21))
    assert await prices.set_prices([("BTC-USD", 7, at(9)), ("BTC-USD", 8, at(10))]) == 1
    assert [second for second, _ in await history(prices)] == [10, *range(10, 21)]


async def test_history_is_pruned_by_number_and_keeps_the_newest(make_prices):
    prices = make_prices(history_max_points=3)
    for second in (5, 1, 4, 2, 3):
        await prices.set_price("BTC-USD", second, at(second))
    assert [second for second, _ in await history(prices)] == [3, 4, 5]


async def test_symbols_do_not_touch_each_other(prices):
    assert await prices.set_prices([("A", 1, at(1)), ("B", 2, at(2)), ("A", 3, at(3))]) == 3
    assert await history(prices, "A") == [(1, "1"), (3, "3")]
    assert await history(prices, "B") == [(2, "2")]
    latest = await prices.get_latest_prices(["B", "A", "missing", "A"])
    assert {symbol: int(point.price) for symbol, point in latest.items()} == {"A": 3, "B": 2}
    assert await prices.get_latest_prices([]) == {}
    assert await prices.set_prices([]) == 0


async def test_a_batch_larger_than_one_call_keeps_its_order(prices):
    assert await prices.set_prices([("BTC-USD", number + 1, at(0)) for number in range(1203)]) == 1203
    assert [int(price) for _, price in await history(prices)] == list(range(1, 1204))


async def test_a_batch_with_one_bad_point_writes_nothing(prices):
    with pytest.raises(ModelError):
        await prices.set_prices([("BTC-USD", 1, at(1)), ("BTC-USD", -1, at(2))])
    assert await history(prices) == []


async def test_points_and_tuples_may_be_mixed_in_a_batch(prices, clock):
    point = PricePoint(symbol="A", price=Decimal("1.50"), at=at(1))
    assert await prices.set_prices([point, ("A", 2.5)]) == 2
    assert (await prices.get_latest_price("A")).at == clock()


async def test_a_script_the_server_forgot_is_sent_again_and_nothing_is_written_twice(prices, client):
    await prices.set_price("BTC-USD", 1, at(1))
    await client.execute("SCRIPT", "FLUSH", repeatable=True)
    await prices.set_prices([("BTC-USD", 2, at(2)), ("A", 3, at(3))])
    assert await history(prices) == [(1, "1"), (2, "2")]
    assert await history(prices, "A") == [(3, "3")]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("BTC USD", 1), "symbol"),
        ((None, 1), "symbol"),
        (("A", 0), "price"),
        (("A", float("nan")), "price"),
        (("A", 1, NAIVE), "at"),
        (("A", 1, T0 + timedelta(days=1, seconds=61)), "at"),
    ],
)
async def test_bad_points_are_refused_by_field(prices, arguments, field):
    for write in (lambda: prices.set_price(*arguments), lambda: prices.set_prices([arguments])):
        with pytest.raises(ModelError) as error:
            await write()
        assert error.value.field == field


async def test_a_tick_up_to_max_ahead_is_taken(prices, clock):
    assert (await prices.set_price("A", 1, clock() + timedelta(seconds=60))).price == 1


async def test_bad_ranges_are_refused_by_field(prices):
    for arguments, options, field in [
        (("A", NAIVE, T0), {}, "start"),
        (("A", T0, NAIVE), {}, "end"),
        (("A", at(1), at(0)), {}, "end"),
        (("A", at(0), at(1)), {"limit": -1}, "limit"),
        (("A", at(0), at(1)), {"limit": True}, "limit"),
        (("*", at(0), at(1)), {}, "symbol"),
    ]:
        with pytest.raises(ModelError) as error:
            await prices.get_price_history(*arguments, **options)
        assert error.value.field == field


def test_a_key_prefix_that_would_break_keys_or_patterns_is_refused(client):
    for prefix in ("a{b}", "a*", "a b"):
        with pytest.raises(ModelError):
            PriceCache(client, PriceSettings(key_prefix=prefix))


async def test_a_tick_is_published_after_it_was_written(prices, hub):
    async with hub.subscribe(prices.channel("BTC-USD"), policy="block") as ticks:
        written = await prices.set_price("BTC-USD", "1.50", at(1))
        tick = decode_tick((await anext(ticks)).payload)
        assert tick == written
        assert await history(prices) == [(1, "1.50")]


async def test_every_tick_of_a_batch_reaches_a_blocking_subscriber_in_order(prices, hub):
    async with hub.subscribe(prices.channel("BTC-USD"), policy="block", maxsize=16) as ticks:

        async def follow():
            return [int(decode_tick((await anext(ticks)).payload).price) for _ in range(2000)]

        following = asyncio.create_task(follow())
        for first in range(1, 2001, 100):
            await prices.set_prices([("BTC-USD", first + n, at(first + n)) for n in range(100)])
        assert await following == list(range(1, 2001))


async def test_a_stream_begins_with_what_is_known_and_goes_on_with_what_is_newer(prices):
    await prices.set_price("A", 1, at(1))
    async with prices.stream("A", "B") as stream:
        assert (await anext(stream)).price == 1
        await prices.set_price("B", 7, at(1))
        assert (await anext(stream)).symbol == "B"
        await prices.set_price("A", 9, at(0))  # late: not shown
        await prices.set_price("A", 2, at(2))
        assert (await anext(stream)).price == 2


async def test_a_stream_works_without_a_hub(client, unique, clock):
    prices = PriceCache(client, PriceSettings(key_prefix=unique), clock)
    await prices.set_price("A", 1)
    async with prices.stream("A") as stream:
        assert (await anext(stream)).price == 1


async def test_a_stream_that_lags_ends_up_at_the_newest_price(prices, hub):
    async with prices.stream("A") as stream, hub.subscribe(prices.channel("A"), policy="block") as every:
        await prices.set_prices([("A", second, at(second)) for second in range(1, 301)])
        for _ in range(300):
            await anext(every)
        assert (await anext(stream)).price == 300


async def test_after_a_lost_connection_a_stream_looks_up_what_it_missed(prices, client):
    async with prices.stream("A") as stream:
        await prices.set_price("A", 1, at(1))
        assert (await anext(stream)).price == 1
        await client.pipeline().add("CLIENT", "KILL", "TYPE", "pubsub").execute()
        await prices.set_price("A", 2, at(2))  # most likely nobody is subscribed just now
        events = []
        async with asyncio.timeout(30):
            while len(events) < 2:
                event = await anext(stream)
                assert not isinstance(event, Gap)
                events.append("back" if isinstance(event, Reconnected) else int(event.price))
    assert sorted(map(str, events)) == ["2", "back"]


async def test_keys_of_a_symbol_share_a_hash_tag(prices, client, unique):
    await prices.set_price("BTC-USD", 1)
    keys = await client.execute("KEYS", f"{unique}*")
    assert sorted(keys) == [f"{unique}:{{BTC-USD}}:{part}".encode() for part in ("history", "latest", "sequence")]


TICKS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=40)


LIMITS = st.tuples(st.integers(1, 15), st.integers(1, 45), st.integers(1, 60))


@given(batches=st.lists(TICKS, min_size=1, max_size=4), limits=LIMITS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_cache_agrees_with_a_model_of_it(redis_url, unique, batches, limits):
    """Whatever is written: latest, history and candles are those of a list that was kept by hand."""
    width, age, most = limits

    async def check():
        options = PriceSettings(key_prefix=unique, history_max_age=age * SECOND, history_max_points=most)
        model, newest = [], None
        async with RedisClient(RedisSettings.from_url(redis_url)) as client:
            for key in await client.execute("KEYS", f"{unique}*"):
                await client.delete(key)
            prices = PriceCache(client, options, ManualClock(T0 + timedelta(days=1)))
            for batch in batches:
                kept = await prices.set_prices([("A", price, at(second)) for second, price in batch])
                expected = 0
                for second, price in batch:
                    if newest is None or second >= newest[0] - age:
                        model.append((second, str(price)))
                        expected += 1
                        newest = (second, price) if newest is None or second >= newest[0] else newest
                assert kept == expected
                model.sort(key=lambda point: point[0])
                model = [point for point in model if point[0] >= newest[0] - age][-most:]
            assert await history(prices, "A") == model
            latest = await prices.get_latest_price("A")
            assert (latest.at, latest.price) == (at(newest[0]), newest[1])
            candles = await prices.candles("A", at(5), at(30), width * SECOND)
        assert sum(candle.count for candle in candles) == sum(5 <= second < 30 for second, _ in model)
        for candle in candles:
            first = (candle.start - T0) / SECOND
            inside = [Decimal(price) for second, price in model if max(5, first) <= second < min(30, first + width)]
            assert (candle.open, candle.close, candle.count) == (inside[0], inside[-1], len(inside))
            assert (candle.low, candle.high) == (min(inside), max(inside))

    asyncio.run(check())


async def test_a_hub_of_ones_own_is_closed_with_the_stream(client, unique, clock):
    prices = PriceCache(client, PriceSettings(key_prefix=unique), clock)
    before = len(asyncio.all_tasks())
    async with prices.stream("A"):
        assert len(asyncio.all_tasks()) > before
    assert len(asyncio.all_tasks()) == before


async def test_another_process_sees_the_ticks(client, redis_url, unique, clock):
    async with RedisClient(RedisSettings.from_url(redis_url)) as other, PubSubHub(other) as hub:
        theirs = PriceCache(other, PriceSettings(key_prefix=unique), clock, hub)
        async with theirs.stream("A") as stream:
            await PriceCache(client, PriceSettings(key_prefix=unique), clock).set_price("A", 5)
            assert (await anext(stream)).price == 5


async def test_prices_that_are_too_old_are_left_out_and_their_age_is_told(prices, clock):
    now = clock()
    await prices.set_prices([("OLD", 1, now - 10 * SECOND), ("NEW", 2, now - SECOND), ("AHEAD", 3, now + SECOND)])
    latest = await prices.get_latest_prices(["OLD", "NEW", "AHEAD", "NONE"])
    assert {name: prices.age(point) for name, point in latest.items()} == {
        "OLD": 10 * SECOND,
        "NEW": SECOND,
        "AHEAD": timedelta(0),
    }
    assert set(await prices.get_latest_prices(latest, max_age=5 * SECOND)) == {"NEW", "AHEAD"}
    assert await prices.get_latest_price("OLD", max_age=9 * SECOND) is None
    assert (await prices.get_latest_price("OLD", max_age=10 * SECOND)).price == 1
