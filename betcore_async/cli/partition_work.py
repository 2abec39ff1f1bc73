"""What the commands of `betcore partitions` share: an opened manager, a bar for long work, a row for a week."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import typer

from betcore_async.cli.families import no_file_yet
from betcore_async.cli.output import print_json, print_table

if TYPE_CHECKING:
    from betcore_async.config import Settings
    from betcore_async.partitions import ArchiveProgress, PartitionInfo, PartitionManager, Week
    from betcore_async.partitions.archive import OnProgress
    from betcore_async.partitions.files import Family

Row = dict[str, Any]
Work = Callable[["Week", "OnProgress"], Awaitable[Row]]


def family_of(settings: "Settings") -> "Family | None":
    """Return the family of weekly files; None where there is no file yet."""
    from betcore_async.partitions.files import Family

    family = Family(settings.db.path)
    return family if family.folder.is_dir() and family.weekly_files() else None


@asynccontextmanager
async def opened(settings: "Settings") -> "AsyncIterator[PartitionManager]":
    """Open the weekly files. Raises PartitionMissingError where there is none: the first is not made by looking."""
    from betcore_async.errors import PartitionMissingError
    from betcore_async.partitions import PartitionManager

    if family_of(settings) is None:
        raise PartitionMissingError(no_file_yet(settings.db.path), weeks=())
    async with PartitionManager(settings.db, settings.partitions) as manager:
        yield manager


async def look(manager: "PartitionManager") -> "tuple[list[PartitionInfo], list[Week]]":
    """Return the weeks that are known, and those that are missing."""
    from betcore_async.partitions.plan import known_missing

    missing = await manager.scan(lambda _, catalog: [week for week in known_missing(catalog) if week not in catalog])
    return await manager.partitions(), missing


async def count(manager: "PartitionManager") -> "tuple[list[PartitionInfo], list[Week], int]":
    """Return the same, and how many bets were placed in those weeks: one that was carried over counts only there."""
    partitions, missing = await look(manager)
    here = await manager.count_bets(partitions[0].start, partitions[-1].end, allow_partial=True)
    left_open = {info.week: info.open_bets for info in partitions}
    away = [info for info in partitions if info.location]
    carried = sum(left_open.get(info.predecessor, 0) for info in away if info.predecessor)
    return partitions, missing, here + sum(info.bets for info in away) - carried


def archived_weeks(settings: "Settings") -> "list[Week]":
    """Return the weeks that are in the archive and not here, also where the record that says so is damaged."""
    from betcore_async.partitions.files import Family

    family = Family(settings.db.path)
    return sorted(family.records().keys() - family.weekly_files().keys())


async def each(weeks: "Sequence[Week]", work: Work) -> list[Row]:
    """Return a row for each week: what `work` returns, or the error, which keeps no other week from its turn."""
    from betcore_async.errors import BetcoreError

    rows = []
    with _bar() as begin:
        for week in weeks:
            try:
                rows.append({"week": week.name, "error": None} | await work(week, begin(week)))
            except BetcoreError as error:
                rows.append({"week": week.name, "error": error.message})
    return rows


@contextmanager
def _bar() -> "Iterator[Callable[[Week], OnProgress]]":
    """Show a bar on stderr for the week at hand, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[week]} [bold]{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # No thread of its own draws: it would take turns with the loop that is told of the progress.
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", week="", total=None)

        def begin(week: "Week") -> "OnProgress":
            def told(at: "ArchiveProgress") -> None:
                progress.update(
                    task, week=week.name, description=at.stage, completed=at.done, total=at.total, refresh=True
                )

            return told

        yield begin


def show(rows: list[Row], columns: Sequence[str], *, as_json: bool, nothing: str) -> None:
    """Print the rows, errors of a text on stderr; status 1 when there is one."""
    if as_json:
        print_json(rows)
    else:
        done = [row for row in rows if not row["error"]]
        if done:
            print_table(
                [name.capitalize() for name in columns], [[_shown(row, name) for name in columns] for row in done]
            )
        elif not rows:
            print(nothing)
        for error in dict.fromkeys(row["error"] for row in rows if row["error"]):  # one for many weeks is told once
            print(f"betcore: {error}", file=sys.stderr)
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


def shown_size(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)


def _shown(row: Row, name: str) -> object:
    return shown_size(row[name]) if name in {"size", "archived"} else row[name]
