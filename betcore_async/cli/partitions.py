"""`betcore partitions`: the weekly files."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from betcore_async.cli.output import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from betcore_async.config import Settings
    from betcore_async.partitions import PartitionInfo, RotationReport

application = typer.Typer(no_args_is_help=True, help="List the weekly files, begin a new one.")


@application.command("list")
def list_partitions(as_json: JsonOption = False) -> None:
    """Show every weekly file with its state, size and number of rows; status 1 when one is damaged."""
    from betcore_async.config import Settings

    partitions = asyncio.run(_partitions(Settings()))
    if as_json:
        print_json([asdict(partition) for partition in partitions])
    elif partitions:
        columns = ("Week", "State", "Users", "Bets", "Open", "Entries", "Size", "File", "Problem")
        print_table(columns, [_cells(partition) for partition in partitions])
    else:
        print("there is no weekly file yet")
    if any(partition.problem for partition in partitions):
        raise typer.Exit(1)


@application.command()
def rotate(
    week: Annotated[
        str | None,
        typer.Argument(help="Week to begin, such as 2026-W48; default: the current one.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a new weekly file, carrying users and open bets over; does nothing when it is there already."""
    from betcore_async.config import Settings

    report = asyncio.run(_rotate(Settings(), week))
    if as_json:
        print_json(asdict(report))
    elif report.performed:
        carried = f"{report.users:,} users and {report.open_bets:,} open bets carried over in {report.seconds:.2f} s"
        print(f"{report.previous} is sealed, {report.week} is live; {carried}")
    else:
        print(f"nothing to do: {report.week} is live")


async def _partitions(settings: "Settings") -> "list[PartitionInfo]":
    from betcore_async.partitions import PartitionManager
    from betcore_async.partitions.files import Family

    family = Family(settings.db.path)
    if not (family.folder.is_dir() and family.weekly_files()):
        return []  # to open the manager would make the first one
    async with PartitionManager(settings.db, settings.partitions) as manager:
        return await manager.partitions()


async def _rotate(settings: "Settings", week: str | None) -> "RotationReport":
    from betcore_async.partitions import PartitionManager

    async with PartitionManager(settings.db, settings.partitions) as manager:
        return await manager.rotate_to_new_week(week)


def _cells(partition: "PartitionInfo") -> tuple[object, ...]:
    counts = (partition.users, partition.bets, partition.open_bets, partition.entries)
    size = f"{partition.size / 1e6:,.1f} MB"
    shown = (f"{count:,}" for count in counts)
    return (partition.week, partition.state, *shown, size, partition.path, partition.problem)
