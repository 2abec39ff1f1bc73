"""Betcore: everything opened in order, closed in reverse, and honest about how it is."""

import asyncio

import pytest
from ledger_files import CELL, NOON, WEEK, path_of
from redis_tools import kill
from sqlite_files import until

from betcore_async import Betcore, EmbeddedRedis, ManualClock, Settings
from betcore_async.config import DatabaseSettings, PartitionSettings, PriceSettings, RedisSettings
from betcore_async.errors import (
    BetcoreError,
    ConfigError,
    DatabaseError,
    PoolClosedError,
    RedisClosedError,
    RedisUnavailableError,
)
from betcore_async.partitions import auto_rotation


def settings_for(folder, redis_url, prefix="betcore-tests"):
    return Settings(
        db=DatabaseSettings(path=folder / "bets.db", max_open_conns=3, max_idle_conns=1),
        redis=RedisSettings.from_url(redis_url, pool_size=2, min_idle_conns=1, connect_timeout="1s", timeout="1s"),
        prices=PriceSettings(key_prefix=prefix),
    )


@pytest.fixture
def clock():
    return ManualClock(NOON)


@pytest.fixture
def settings(tmp_path, redis_url):
    return settings_for(tmp_path, redis_url, f"betcore-tests-{tmp_path.name}")


async def test_every_part_works_inside_the_block_and_over_a_rotation(settings, clock):
    async with Betcore(settings, clock=clock) as core:
        user = await core.users.create("0xabc", opening_balance=10_000)
        bet = await core.bets.place(user.id, CELL, amount=500, reward_rate=1.9)
        await core.prices.set_price("BTC", "46350", at=NOON)
        clock.advance(WEEK)
        assert (await core.partitions.rotate_to_new_week()).performed
        assert (await core.bets.settle(bet.id, won=True)).payout_amount == 950
        assert (await core.prices.get_latest_price("BTC")).price == 46350
        assert (await core.bets.history(user.id)).bets == [await core.bets.get(bet.id)]
        assert (await core.ledger.audit()).ok
    async with Betcore(settings, clock=clock) as core:
        assert await core.ledger.balance(user.id) == 10_450


async def test_the_week_moves_on_by_itself_unless_told_not_to(settings, clock, monkeypatch):
    monkeypatch.setattr(auto_rotation, "SPREAD", 0)
    async with Betcore(settings, clock=clock) as core:
        live = core.partitions.current_week
    clock.advance(WEEK)
    by_hand = settings.model_copy(update={"partitions": PartitionSettings(auto_rotate=False)})
    async with Betcore(by_hand, clock=clock) as core:
        assert not [task for task in asyncio.all_tasks() if "rotation" in task.get_name()]
        assert core.partitions.current_week == live
    async with Betcore(settings, clock=clock) as core:
        await until(lambda: core.partitions.current_week != live)
        assert core.partitions.current_week == live.next()


async def test_a_bet_reaches_the_subscribers_of_another_process_after_its_commit(settings, clock):
    async with Betcore(settings, clock=clock) as one, Betcore(settings, clock=clock) as other:
        user = await one.users.create("0xabc", 100)
        channel = f"{settings.prices.key_prefix}:bets"
        async with other.hub.subscribe(channel) as stream:
            bet = await one.bets.place(user.id, CELL, 5, 2.0)
            await one.hub.publish(channel, bet.id)
            async with asyncio.timeout(30):
                message = await anext(stream)
        told = message.payload.decode() if isinstance(message.payload, bytes) else message.payload
        assert (await other.bets.get(told)) == bet


async def test_nothing_is_opened_before_the_block_and_everything_is_closed_after_it(settings, clock, tmp_path):
    core = Betcore(settings, clock=clock)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PoolClosedError):
        await core.users.create("0xabc")
    with pytest.raises(RedisClosedError):
        await core.redis.get("key")
    async with core:
        pass
    with pytest.raises(PoolClosedError):
        await core.users.create("0xabc")
    with pytest.raises(RedisClosedError):
        await core.redis.get("key")
    async with core:  # and again
        await core.users.create("0xabc")


async def test_a_closed_family_is_its_weekly_files_and_nothing_beside_them(settings, clock, tmp_path):
    async with Betcore(settings, clock=clock) as core:
        await core.users.create("0xabc")
        await core.ledger.audit()  # has a scanner open the live file, too
        await core.partitions.rotate_to_new_week(core.partitions.current_week.next())
        await core.ledger.audit()
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [
        ".db",
        ".db",
        ".lock",
        ".lock",
        ".lock",
    ]  # and those of rotations and of the archive


async def test_parts_are_closed_in_the_reverse_of_the_order_in_which_they_were_opened(settings, clock, monkeypatch):
    core, seen = Betcore(settings, clock=clock), []

    def note(part, step, label):
        original = getattr(part, step)

        async def noted(self, *arguments):
            seen.append(label)
            return await original(self, *arguments)

        monkeypatch.setattr(part, step, noted)

    for name in ("partitions", "redis", "hub"):
        note(type(getattr(core, name)), "__aenter__", f"open {name}")
        note(type(getattr(core, name)), "__aexit__", f"close {name}")
    async with core:
        pass
    assert seen == [
        "open partitions",
        "open redis",
        "open hub",
        "close hub",
        "close redis",
        "close partitions",
    ]


async def test_it_is_open_once_at_a_time(settings, clock):
    async with Betcore(settings, clock=clock) as core:
        with pytest.raises(BetcoreError, match="open already"):
            async with core:
                pass
        await core.users.create("0xabc")  # the refusal closed nothing


async def test_without_redis_it_does_not_open_and_leaves_nothing_open(tmp_path, clock):
    # Threads, files and tasks that are left fail every test here.
    core = Betcore(settings_for(tmp_path, "redis://127.0.0.1:1/0"), clock=clock)
    for _ in range(2):
        with pytest.raises(RedisUnavailableError):
            async with core:
                raise AssertionError("it opened")
    with pytest.raises(PoolClosedError):
        await core.partitions.read(lambda _: None)
    assert not path_of(tmp_path, "2026-W47").with_name("bets-2026-W47.db-wal").exists()


async def test_with_a_folder_that_cannot_be_used_it_does_not_reach_for_redis(tmp_path, redis_url, clock):
    (tmp_path / "file").write_text("no folder")
    core = Betcore(settings_for(tmp_path / "file", redis_url), clock=clock)
    with pytest.raises(DatabaseError):
        async with core:
            raise AssertionError("it opened")
    with pytest.raises(RedisClosedError):
        await core.redis.get("key")


async def test_an_error_inside_the_block_closes_everything_and_comes_out(settings, clock):
    core = Betcore(settings, clock=clock)

    async def fail():
        async with core:
            await core.users.create("0xabc")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(PoolClosedError):
        await core.users.create("0xdef")


async def test_a_cancelled_block_closes_everything(settings, clock):
    core, inside = Betcore(settings, clock=clock), asyncio.Event()

    async def serve():
        async with core:
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(serve())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(PoolClosedError):
        await core.users.create("0xabc")


async def test_cancelled_anywhere_while_it_opens_it_leaves_nothing_open(tmp_path, redis_url, clock):
    from reliability.cancellation import cancelled_everywhere

    settings = settings_for(tmp_path, redis_url)

    async def open_and_close():
        async with Betcore(settings, clock=clock) as core:
            await core.ledger.audit()

    runs = 0
    async for _ in cancelled_everywhere(open_and_close):
        runs += 1
    assert runs > 5
    async with Betcore(settings, clock=clock) as core:
        assert (await core.ledger.audit()).ok


async def test_health_names_the_part_that_does_not_answer(tmp_path, clock):
    async with EmbeddedRedis() as server, Betcore(settings_for(tmp_path, server.url), clock=clock) as core:
        well = await core.health()
        assert well.ok
        assert well.database.ok
        assert well.redis.ok
        assert well.database.latency > 0
        await kill(server)
        ill = await core.health()
        assert not ill.ok
        assert ill.database.ok
        assert not ill.redis.ok
        assert ill.redis.error
        user = await core.users.create("0xabc", 10)  # money does not need Redis
        assert (await core.bets.place(user.id, CELL, 5, 2.0)).is_open
        assert (await core.ledger.audit()).ok


async def test_stats_count_what_was_done(settings, clock):
    async with Betcore(settings, clock=clock) as core:
        before = core.stats()
        await asyncio.gather(*(core.users.create(f"0x{number}") for number in range(20)))
        await core.redis.get("key")
        async with core.hub.subscribe(f"{settings.prices.key_prefix}:x"):
            during = core.stats()
        assert during.database.writes - before.database.writes == 20
        assert during.redis.calls > before.redis.calls
        assert (before.hub.subscriptions, during.hub.subscriptions) == (0, 1)


async def test_settings_come_from_the_environment(tmp_path, redis_url, clock, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_PATH", "elsewhere/money.db")
    server = RedisSettings.from_url(redis_url)
    monkeypatch.setenv("REDIS_ADDR", server.addr)
    if server.password is not None:
        monkeypatch.setenv("REDIS_PASSWORD", server.password.get_secret_value())
    async with Betcore(clock=clock) as core:
        await core.users.create("0xabc")
    assert (tmp_path / "elsewhere" / "money-2026-W47.db").exists()
    monkeypatch.setenv("DB_MAX_OPEN_CONNS", "many")
    with pytest.raises(ConfigError):
        Betcore()
