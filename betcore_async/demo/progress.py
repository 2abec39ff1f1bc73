"""Shows a run while it runs: a bar with rates on a terminal, else a plain line every few seconds."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from betcore_async.demo.tally import Tally
from betcore_async.tasks import stop

_REFRESH = 0.2  # seconds; faster flickers, slower looks stuck
_LINE_EVERY = 5.0  # seconds


@asynccontextmanager
async def shown(tally: Tally, *, bar: bool) -> AsyncIterator[None]:
    """Show `tally` on stderr during the block: as a bar, or line by line where a bar would only fill a log."""
    display = asyncio.create_task(_bar(tally) if bar else _lines(tally), name="demo progress")
    try:
        yield
    finally:
        await stop(display)


async def _bar(tally: Tally) -> None:
    columns = (
        TextColumn("{task.fields[week]:8} [bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rates]}", style="dim"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    # No thread of its own draws: it would take turns with the loop that does the work.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        task = progress.add_task(tally.stage, total=tally.expected_ticks, week="", rates="")
        try:
            while True:
                await asyncio.sleep(_REFRESH)
                progress.update(
                    task,
                    completed=tally.ticks,
                    description=tally.stage,
                    week=tally.week,
                    rates=_rates(tally),
                    refresh=True,
                )
        finally:
            progress.update(task, completed=tally.ticks, refresh=True)


async def _lines(tally: Tally) -> None:
    while True:
        await asyncio.sleep(_LINE_EVERY)
        share = tally.ticks / tally.expected_ticks
        print(f"{tally.stage} {share:.0%} {tally.week} {_rates(tally)}", file=sys.stderr, flush=True)  # noqa: T201 - its job


def _rates(tally: Tally) -> str:
    seconds = tally.elapsed or 1.0
    return (
        f"{tally.ticks / seconds:,.0f} ticks/s, {tally.bets:,} bets ({tally.bets / seconds:,.0f}/s), "
        f"{tally.settlements:,} settled"
    )
