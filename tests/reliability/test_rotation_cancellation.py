"""Cancelled anywhere, the manager still works: nothing is lost, nothing stays open, exactly one week is live."""

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from reliability.cancellation import MODES, cancelled_at, suspensions
from weekly_files import ALWAYS, WEEK, Platform, W, live_weeks, manager_for, platform, states

from betcore_async.clock import ManualClock
from betcore_async.partitions import PartitionManager, own_sql
from betcore_async.partitions.moving import move_in, move_out


async def some_bets(it: Platform) -> str:
    """Make a user with two weeks of bets, one of them open since the first, and return the user's id."""
    user = await it.users.create("0xabc", 10_000)
    await it.bets.place(user.id, "open", 100, 2.0)
    for _ in range(2):
        await it.bets.settle((await it.bets.place(user.id, "cell", 10, 2.0)).id, won=True)
        await it.next_week()
    return user.id


async def check_it_works(it: Platform, user_id: str) -> None:
    """Place, ask, rotate and audit."""
    before = await it.manager.query_bets(user_id, *ALWAYS)
    bet = await it.bets.place(user_id, "after", 1, 2.0)
    page = await it.manager.query_bets(user_id, *ALWAYS)
    assert page.bets == [bet, *before.bets]
    assert len(live_weeks(it.folder)) == 1
    await it.next_week()
    assert (await it.manager.query_bets(user_id, *ALWAYS)).bets == page.bets
    assert (await it.ledger.audit()).ok
    assert len(live_weeks(it.folder)) == 1
    assert lock_is_free(it.folder / "bets.db.lock")
    assert lock_is_free(it.folder / "bets.db.rotation.lock")


def lock_is_free(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir())) if os.path.isdir("/proc/self/task") else 0  # noqa: PTH112


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def numbers(mode: str, one_in: Callable[[int], int]) -> range:
    return suspensions(mode, one_in)


@pytest.fixture
async def weeks(tmp_path: Path) -> tuple[Path, str]:
    """A folder with three weeks, and the id of the user in them."""
    folder = tmp_path / "template"
    async with platform(folder) as it:
        return folder, await some_bets(it)


async def read_all(it: Platform) -> None:
    async for _ in it.manager.iterate_bets(*ALWAYS, chunk=1):
        pass


OPERATIONS: dict[str, Callable[[Platform, str], Coroutine[Any, Any, Any]]] = {
    "write": lambda it, user_id: it.bets.place(user_id, "cell", 1, 2.0),
    "read": lambda it, user_id: it.users.get(user_id),
    "query_bets": lambda it, user_id: it.manager.query_bets(user_id, *ALWAYS),
    "sum_bets": lambda it, _: it.manager.sum_bets(*ALWAYS),
    "query": lambda it, _: it.manager.query("SELECT * FROM bets", start=ALWAYS[0], end=ALWAYS[1]),
    "iterate_bets": lambda it, _: read_all(it),
    "partitions": lambda it, _: it.manager.partitions(),
    "rotate_to_new_week": lambda it, _: it.manager.rotate_to_new_week(),
    "audit": lambda it, _: it.ledger.audit(),
    "health": lambda it, _: it.manager.health(),
}


async def every_suspension(
    template: Path, folder: Path, strike: Callable[[Path, int], Awaitable[bool]], numbers: range
) -> int:
    """Call `strike(copy of the template, n)` for each number until it says that the work has no such suspension."""
    for number in numbers:
        copy = folder / str(number)
        shutil.copytree(template, copy)
        if not await strike(copy, number):
            return number
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_operation_cancelled_at_any_moment_leaves_a_manager_that_works(name, weeks, tmp_path, mode, numbers):
    template, user_id = weeks

    async def strike(folder: Path, number: int) -> bool:
        async with platform(folder, W[2]) as it:
            if name == "rotate_to_new_week":
                it.clock.advance(WEEK)
            struck = await cancelled_at(number, OPERATIONS[name](it, user_id), mode)
            await check_it_works(it, user_id)
        return struck

    assert await every_suspension(template, tmp_path, strike, numbers) >= 1


@pytest.mark.parametrize("sql", ["SELECT id FROM bets", "SELECT id FROM bets ORDER BY id", "SELECT count(*) FROM bets"])
async def test_a_question_in_groups_cancelled_at_any_moment_leaves_a_manager_that_works(
    sql, weeks, tmp_path, mode, numbers
):
    template, user_id = weeks

    async def strike(folder: Path, number: int) -> bool:
        async with platform(folder, W[2]) as it:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(own_sql, "ATTACH_LIMIT", 2)  # of three weeks
                struck = await cancelled_at(number, it.manager.query(sql, start=ALWAYS[0], end=ALWAYS[1]), mode)
            assert not it.manager._reading.scanners._merging
            await check_it_works(it, user_id)
        return struck

    assert await every_suspension(template, tmp_path, strike, numbers) > 3


async def test_a_move_out_of_the_folder_and_back_cancelled_at_any_moment_can_be_repeated(
    weeks, tmp_path, mode, numbers
):
    template, user_id = weeks
    name, patience = f"bets-{W[0]}.db", timedelta(seconds=10)

    async def there_and_back(it: Platform) -> None:
        """Do what is left to do."""
        if it.file(W[0]).exists():
            await move_out(it.manager._family, W[0], it.folder / "outside", patience)
        await move_in(it.manager._family, W[0], it.folder / "outside" / name, patience)
        (it.folder / "outside" / name).unlink()

    async def strike(folder: Path, number: int) -> bool:
        (folder / "outside").mkdir()
        async with platform(folder, W[2]) as it:
            await it.manager.detach_partition(W[0])
            content = it.file(W[0]).read_bytes()
            struck = await cancelled_at(number, there_and_back(it), mode)
            places = [path for path in (it.file(W[0]), folder / "outside" / name) if path.exists()]
            assert places
            assert {path.read_bytes() for path in places} == {content}
            assert not list(folder.glob("*.restoring*"))
            if len(places) > 1:  # it was copied back
                places[1].unlink()
            elif struck:
                await there_and_back(it)
        async with platform(folder, W[2]) as it:
            await check_it_works(it, user_id)
        return struck

    assert await every_suspension(template, tmp_path, strike, numbers) >= 1


async def test_detach_cancelled_at_any_moment_can_be_repeated(weeks, tmp_path, mode, numbers):
    template, user_id = weeks

    async def strike(folder: Path, number: int) -> bool:
        async with platform(folder, W[2]) as it:
            await asyncio.gather(*(it.manager.sum_bets(*ALWAYS) for _ in range(4)))  # has both scanners open it
            struck = await cancelled_at(number, it.manager.detach_partition(W[0]), mode)
            await it.manager.detach_partition(W[0])
            assert not is_open(it.file(W[0]))
            it.file(W[0]).rename(folder / "moved")
            await it.manager.attach_partition(W[0], folder / "moved")
            await check_it_works(it, user_id)
        return struck

    assert await every_suspension(template, tmp_path, strike, numbers) >= 1


async def test_attach_cancelled_at_any_moment_is_done_or_not(weeks, tmp_path, mode, numbers):
    template, user_id = weeks

    async def strike(folder: Path, number: int) -> bool:
        (folder / f"bets-{W[0]}.db").rename(folder / "moved")
        async with platform(folder, W[2]) as it:
            struck = await cancelled_at(number, it.manager.attach_partition(W[0], folder / "moved"), mode)
            if W[0] not in [info.week for info in await it.manager.partitions()]:
                await it.manager.attach_partition(W[0], folder / "moved")
            await check_it_works(it, user_id)
        return struck

    assert await every_suspension(template, tmp_path, strike, numbers) > 1


def is_open(path: Path) -> bool:
    """Tell whether this process has a file open."""
    return any(entry.is_symlink() and entry.resolve() == path for entry in Path("/proc/self/fd").iterdir())


async def test_open_cancelled_at_any_moment_can_be_repeated(weeks, tmp_path, mode, numbers):
    template, user_id = weeks

    async def strike(folder: Path, number: int) -> bool:
        before = threads()
        clock = ManualClock(W[2].start)
        manager = manager_for(folder, clock)
        struck = await cancelled_at(number, manager.open(), mode)
        if struck:
            await until_threads(before)
            await manager.open()
        async with contextlib.aclosing(Closing(manager)):
            await check_it_works(Platform(manager, clock, folder), user_id)
        return struck

    assert await every_suspension(template, tmp_path, strike, numbers) >= 3


async def test_the_first_open_cancelled_at_any_moment_can_be_repeated(tmp_path, mode, numbers):
    (tmp_path / "template").mkdir()

    async def strike(folder: Path, number: int) -> bool:
        clock = ManualClock(W[2].start)
        manager = manager_for(folder, clock)
        struck = await cancelled_at(number, manager.open(), mode)
        if struck:
            await manager.open()
        async with contextlib.aclosing(Closing(manager)):
            assert states(folder) == {str(W[2]): "live"}
        return struck

    assert await every_suspension(tmp_path / "template", tmp_path, strike, numbers) >= 3


async def test_close_cancelled_at_any_moment_closes_all_the_same(weeks, tmp_path, mode, numbers):
    template, user_id = weeks

    async def strike(folder: Path, number: int) -> bool:
        before = threads()
        clock = ManualClock(W[2].start)
        manager = manager_for(folder, clock)
        await manager.open()
        await manager.query_bets(user_id, *ALWAYS)
        struck = await cancelled_at(number, manager.close(), mode)
        await until_threads(before)
        async with platform(folder, W[2]) as it:
            await check_it_works(it, user_id)
        return struck

    assert await every_suspension(template, tmp_path, strike, numbers) >= 1


async def test_following_a_rival_cancelled_at_any_moment_is_done_by_the_next_call(weeks, tmp_path, mode, numbers):
    template, user_id = weeks

    async def strike(folder: Path, number: int) -> bool:
        async with platform(folder, W[2]) as it, platform(folder, W[2]) as rival:
            await rival.next_week()
            struck = await cancelled_at(number, it.users.get(user_id), mode)
            it.clock.now = rival.clock.now
            assert (await it.users.get(user_id)).balance > 0
            assert it.manager.current_week == W[3]
            await check_it_works(it, user_id)
        return struck

    assert await every_suspension(template, tmp_path, strike, numbers) >= 3


class Closing:
    """Lets `contextlib.aclosing` close a manager."""

    def __init__(self, manager: PartitionManager) -> None:
        self.aclose = manager.close


async def until_threads(number: int) -> None:
    async with asyncio.timeout(30):
        while threads() > number:  # noqa: ASYNC110 - threads end by themselves, and set no event
            await asyncio.sleep(0.001)
