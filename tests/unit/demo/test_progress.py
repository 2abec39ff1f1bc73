import asyncio

import pytest

from betcore_async.demo import progress
from betcore_async.demo.tally import Tally


async def test_where_there_is_no_terminal_lines_tell_stage_share_and_week(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.001)
    tally = Tally(expected_ticks=200, stage="replaying", week="2022-W01", ticks=50, bets=7)
    async with asyncio.timeout(30), progress.shown(tally, bar=False):
        while not (text := capsys.readouterr()).err:  # noqa: ASYNC110 - what is printed sets no event
            await asyncio.sleep(0.001)
    assert text.err.startswith("replaying 25% 2022-W01")
    assert "7 bets" in text.err
    assert text.out == ""


async def test_the_bar_draws_on_stderr_alone(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_REFRESH", 0.001)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    tally = Tally(expected_ticks=200, stage="replaying", week="2022-W01", ticks=50)
    drawn = ""
    async with asyncio.timeout(20), progress.shown(tally, bar=True):
        while "2022-W01" not in drawn:
            await asyncio.sleep(0.001)
            text = capsys.readouterr()
            assert text.out == ""
            drawn += text.err


async def test_the_display_ends_with_its_block_also_when_that_fails():
    with pytest.raises(KeyError):
        async with progress.shown(Tally(expected_ticks=1), bar=False):
            raise KeyError
    assert [task for task in asyncio.all_tasks() if task.get_name() == "demo progress"] == []
