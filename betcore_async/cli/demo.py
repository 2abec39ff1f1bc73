"""`betcore demo`: the whole toolkit at work, at accelerated time."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from betcore_async.cli.output import JsonOption, logs_on_stderr, print_table

if TYPE_CHECKING:
    from betcore_async.demo.run import Demo, Plan
    from betcore_async.demo.summary import DemoSummary

_MOST_USERS = 5_000  # all of them may stand in line for a connection at one time; DB_MAX_WAITERS is 10,000
_MOST_WEEKS = 520

FeedOption = Annotated[
    Path | None,
    typer.Option(
        "--feed", help="Prices to replay: CSV or CSV.gz with time,symbol,price. Default: a random walk.", metavar="FILE"
    ),
]
UsersOption = Annotated[int, typer.Option(min=1, max=_MOST_USERS, help="How many users place bets.", metavar="N")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the random walk and of the players.", metavar="N")]
WeeksOption = Annotated[int, typer.Option(min=1, max=_MOST_WEEKS, help="Weeks of the random walk.", metavar="N")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder for the weekly files: new, empty, or of an interrupted run, which goes on.",
        metavar="DIR",
    ),
]
KeepOption = Annotated[bool, typer.Option("--keep", help="Keep the private data folder and print where it is.")]
RedisOption = Annotated[
    str | None, typer.Option("--redis", help="URL of a Redis server of yours. Default: a private one.", metavar="URL")
]
ReportOption = Annotated[Path | None, typer.Option("--report", help="Write a page with charts.", metavar="FILE.html")]


def demo(
    *,
    feed: FeedOption = None,
    users: UsersOption = 200,
    seed: SeedOption = 1,
    weeks: WeeksOption = 3,
    data: DataOption = None,
    keep: KeepOption = False,
    redis: RedisOption = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay prices, let users bet on them, settle, rotate the weekly files, then audit every cent.

    Status 0 when the audit passed, 1 when it did not, 2 when the input cannot be used. Ctrl-C ends the replay early and
    still runs the audit; a second Ctrl-C ends at once.
    """
    from betcore_async.config import RedisSettings, Settings
    from betcore_async.demo.report import check_report_path, write_report
    from betcore_async.demo.run import Demo

    settings = Settings()
    if report is not None:
        check_report_path(report)
    server = None if redis is None else RedisSettings.from_url(redis)
    plan = _plan(feed, seed, weeks, settings=settings, users=users, redis=server, data=data, keep=keep)
    running = Demo(plan)
    with logs_on_stderr(settings):
        summary = asyncio.run(_run(running, bar=sys.stderr.isatty() and not as_json))
    if report is not None:
        write_report(summary, running.trace, report)
    _tell(summary, report, as_json=as_json)
    raise typer.Exit(0 if summary.ok else 1)


def _plan(feed: Path | None, seed: int, weeks: int, **others: object) -> "Plan":
    from betcore_async.demo.feed import GeneratedFeed, generate_feed, read_feed, survey
    from betcore_async.demo.run import Plan

    if feed is not None:
        with closing(read_feed(feed)) as ticks:
            facts = survey(feed.name, ticks)
        return Plan(facts, lambda: read_feed(feed), seed=seed, **others)  # type: ignore[arg-type]
    walk = GeneratedFeed(seed=seed, weeks=weeks)
    return Plan(survey(str(walk), generate_feed(walk)), lambda: generate_feed(walk), seed=seed, **others)  # type: ignore[arg-type]


async def _run(running: "Demo", *, bar: bool) -> "DemoSummary":
    from betcore_async.demo.progress import shown

    with _ends_on_signals(running.stop):
        async with shown(running.tally, bar=bar):
            return await running.run()


@contextmanager
def _ends_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set `stop`; a second one ends the process as if nobody had caught it."""
    loop = asyncio.get_running_loop()

    def caught(number: int) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.set()
        print("betcore: ending early, the audit still runs; once more ends at once", file=sys.stderr, flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, caught, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _tell(summary: "DemoSummary", report: Path | None, *, as_json: bool) -> None:
    if as_json:
        print(summary.to_json())
    else:
        print_table(("", ""), summary.lines(), title="betcore demo")
        for violation in summary.audit.violations[:10]:
            print(f"violation: {violation}")
    if report is not None and not as_json:
        print(f"report: {report}")
