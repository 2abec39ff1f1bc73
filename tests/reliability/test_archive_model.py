"""Archived, restored, rotated, lost and reopened in any order: queries tell all, or which weeks not."""

import asyncio
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weekly_files import ALWAYS, W, platform

from betcore_async.errors import PartitionArchivedError, PartitionError, PartitionMissingError

pytestmark = pytest.mark.usefixtures("object_stores")

OLDEST = W[:4]
STEPS = st.one_of(
    st.tuples(st.sampled_from(["archive", "restore", "lose record", "lose file of"]), st.sampled_from(OLDEST)),
    st.tuples(st.sampled_from(["rotate", "reopen", "retain"]), st.just(W[0])),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Seven weeks with a decided bet each; the oldest four may be archived. And the bets, by week."""
    folder = tmp_path_factory.mktemp("template") / "data"

    async def make():
        bets = {}
        async with platform(folder) as it:
            user = await it.users.create("0xabc", 10_000)
            for week in W[:7]:
                if week != W[0]:
                    await it.next_week()
                bets[week] = (await it.bets.settle((await it.bets.place(user.id, "c", 1, 2.0)).id, won=True)).id
        return user.id, bets

    return folder, *asyncio.run(make())


class Model:
    """What is where: `here` as a file, in the archive, with a record."""

    def __init__(self):
        self.here, self.stored, self.recorded = set(W[:7]), set(), set()

    @property
    def missing(self):
        return {*W[:7]} - self.here

    async def step(self, it, name, week):
        if name == "archive":
            await self._archive(it, week)
        elif name == "restore":
            await self._restore(it, week)
        elif name == "lose record":
            it.manager._family.record_of(week).unlink(missing_ok=True)
            self.recorded.discard(week)
        elif name == "lose file of":
            it.file(week).unlink(missing_ok=True)
            self.here.discard(week)
        elif name == "retain":
            for info in await it.manager.archive_old_weeks(5):
                self._away(info.week)
        await it.manager._refresh()

    def _away(self, week):
        self.here.discard(week)
        self.stored.add(week)
        self.recorded.add(week)

    async def _archive(self, it, week):
        if week in self.here or week in self.recorded:
            info = await it.manager.archive(week)
            assert info.performed == (week in self.here)
            self._away(week)
        else:
            with pytest.raises(PartitionError):
                await it.manager.archive(week)

    async def _restore(self, it, week):
        if week in self.here or week in self.stored:
            await it.manager.restore(week)
            if week not in self.here:
                self.recorded.add(week)
            self.here.add(week)
        else:
            with pytest.raises(PartitionMissingError):
                await it.manager.restore(week)


async def check(it, model, user, bets):
    gone = model.missing
    page = await it.manager.query_bets(user, *ALWAYS, newest_first=False, allow_partial=True)
    assert [bet.id for bet in page.bets] == [bet for week, bet in bets.items() if week not in gone]
    # Weeks before the oldest that is known of, but for the last of them, are known to nobody.
    oldest = min(model.here | model.recorded)
    known = {week for week in gone if week >= oldest or week.next() == oldest}
    assert known <= set(page.missing_weeks) <= gone
    if gone:
        kind = PartitionArchivedError if set(page.missing_weeks) <= model.recorded else PartitionMissingError
        with pytest.raises(kind) as caught:
            await it.manager.query_bets(user, *ALWAYS)
        assert caught.value.weeks == page.missing_weeks
    assert {info.week for info in await it.manager.partitions() if info.location} == model.recorded - model.here


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=3, max_size=8))
def test_queries_tell_all_or_which_weeks_not(template, tmp_path_factory, steps):
    source, user, bets = template
    folder = shutil.copytree(source, tmp_path_factory.mktemp("model") / "data")

    async def run():
        model, left, live = Model(), list(steps), W[6]
        while left:
            async with platform(folder, live) as it:
                while left:
                    name, week = left.pop(0)
                    if name == "reopen":
                        break
                    if name == "rotate":
                        await it.next_week()
                        live = it.manager.current_week
                    else:
                        await model.step(it, name, week)
                    await check(it, model, user, bets)
        async with platform(folder, live) as it:
            await check(it, model, user, bets)

    asyncio.run(run())
