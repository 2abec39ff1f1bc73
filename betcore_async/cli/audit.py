"""`betcore audit`: whether every balance, bet and entry of every week adds up."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from betcore_async.cli.families import PathArgument, no_file_yet, with_family
from betcore_async.cli.output import JsonOption, logs_on_stderr, print_json, print_table

if TYPE_CHECKING:
    from betcore_async.config import Settings
    from betcore_async.stores.audit_report import AuditReport

Progress = Callable[[int, int], None]

WeekOption = Annotated[
    list[str] | None,
    typer.Option("--week", help="A week to look at, such as 2026-W48; may be repeated. Default: all.", metavar="WEEK"),
]


def audit(path: PathArgument = None, weeks: WeekOption = None, as_json: JsonOption = False) -> None:
    """Prove the books of every weekly file, and every hand-over between two of them.

    Status 0 when all adds up, 1 when something does not, 2 when there is nothing to look at. With --json the verdict
    is one object: `ok`, `first` (the first wrong row: week, rule, subject, detail, file, table, positions; null when
    there is none), `violations`, `unchecked`, `counts`, `seconds`.
    """
    from betcore_async.config import Settings

    settings = with_family(Settings(), path)
    with logs_on_stderr(settings):
        started = perf_counter()
        report = asyncio.run(_audit(settings, weeks))
        seconds = perf_counter() - started
    if as_json:
        print_json({"ok": report.ok, "first": report.first} | asdict(report) | {"seconds": seconds})
    else:
        _show(report, seconds)
    raise typer.Exit(0 if report.ok else 1)


async def _audit(settings: "Settings", weeks: list[str] | None) -> "AuditReport":
    from betcore_async.errors import ConfigError
    from betcore_async.partitions import PartitionManager, Week
    from betcore_async.partitions.files import Family
    from betcore_async.stores import audit as audits

    family = Family(settings.db.path)
    if not (family.folder.is_dir() and family.weekly_files()):  # to open the manager would make the first one
        raise ConfigError(no_file_yet(settings.db.path), problems={"DB_PATH": "no weekly file"})
    chosen = None if weeks is None else [Week.parse(week) for week in weeks]
    async with PartitionManager(settings.db, settings.partitions) as partitions:
        with _progress() as progress:
            return await audits.run(partitions, chosen, progress)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show a bar of weeks on a terminal; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("audit"), BarColumn(), MofNCompleteColumn(), TextColumn("weeks"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("audit", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _show(report: "AuditReport", seconds: float) -> None:
    if not report.ok:
        rows = [(found.week, found.rule, found.table, found.subject, found.detail) for found in report.violations]
        print_table(("Week", "Rule", "Table", "Row", "What is wrong"), rows)
    for unchecked in report.unchecked:
        print(f"not checked in {unchecked.week}: {unchecked.what}")
    verdict = "all adds up" if report.ok else f"{len(report.violations)} violations"
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in report.counts.items())
    print(f"{verdict}: {counts}; {seconds:.2f} s")
