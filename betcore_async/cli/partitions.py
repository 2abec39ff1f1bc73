"""`betcore partitions`: the weekly files, here and in the archive."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from betcore_async.cli.families import no_file_yet
from betcore_async.cli.output import JsonOption, print_json, print_picture, print_table
from betcore_async.cli.partition_work import (
    Row,
    archived_weeks,
    count,
    each,
    family_of,
    look,
    opened,
    show,
    shown_size,
)

if TYPE_CHECKING:
    from betcore_async.config import Settings
    from betcore_async.partitions import PartitionInfo, PartitionManager, RotationReport, Week
    from betcore_async.partitions.archive import OnProgress

T = TypeVar("T")

application = typer.Typer(no_args_is_help=True, help="Look at the weekly files, rotate them, move them, archive them.")

WeekArgument = Annotated[str, typer.Argument(help="An ISO week, such as 2026-W47.", show_default=False)]
WeeksArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[WEEK]...", help="ISO weeks, such as 2026-W47.", show_default=False)
]


def _with_manager(work: "Callable[[PartitionManager], Coroutine[Any, Any, T]]", settings: "Settings") -> T:
    async def run() -> T:
        async with opened(settings) as manager:
            return await work(manager)

    return asyncio.run(run())


@application.command("list")
def list_partitions(as_json: JsonOption = False) -> None:
    """Show every weekly file with its state, schema version, size and number of rows; status 1 when one is damaged."""
    from betcore_async.config import Settings

    settings = Settings()
    partitions, missing = _with_manager(look, settings) if family_of(settings) else ([], [])
    if as_json:
        print_json([_with_names(partition) for partition in partitions])
    elif partitions:
        columns = ("Week", "State", "Schema", "Users", "Bets", "Open", "Entries", "Size", "Place", "Problem")
        shown = len(columns) if any(partition.problem for partition in partitions) else -1
        print_table(columns[:shown], [_cells(partition)[:shown] for partition in partitions])
        _print_timeline(partitions, missing)
    else:
        print(no_file_yet(settings.db.path))
    if any(partition.problem for partition in partitions):
        raise typer.Exit(1)


@application.command()
def stats(as_json: JsonOption = False) -> None:
    """Show how many weeks there are in which state, and what they hold and take."""
    from betcore_async.config import Settings

    partitions, missing, bets = _with_manager(count, Settings())
    live = next(info for info in partitions if info.state.value == "live")
    states = Counter(partition.state.value for partition in partitions) | Counter(missing=len(missing))
    found: Row = {
        "weeks": dict(states),
        "missing": [week.name for week in missing],
        "bytes_here": sum(each.size for each in partitions if not each.location),
        "bytes_archived": sum(each.size for each in partitions if each.location),
        "bets": bets,
        "open_bets": live.open_bets,
        "entries": sum(each.entries for each in partitions),
        "users": live.users,
        "schema_versions": sorted({each.schema_version for each in partitions if not each.problem}),
    }
    if as_json:
        print_json(found)
        return
    _print_timeline(partitions, missing)
    shown = found | {"weeks": ", ".join(f"{count} {state}" for state, count in states.items() if count)}
    shown |= {name: shown_size(found[name]) for name in ("bytes_here", "bytes_archived")}
    shown |= {name: ", ".join(map(str, found[name])) for name in ("missing", "schema_versions")}
    shown |= {name: f"{found[name]:,}" for name in ("bets", "open_bets", "entries", "users")}
    print_table(("", ""), [(name.replace("_", " "), value) for name, value in shown.items()])


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

    report = _with_manager(lambda manager: manager.rotate_to_new_week(week), Settings())
    if as_json:
        print_json(_with_names(report))
    elif report.performed:
        carried = f"{report.users:,} users and {report.open_bets:,} open bets carried over in {report.seconds:.2f} s"
        waited = f"writers waited for {report.blocked_seconds:.2f} s of it"
        print(f"{report.previous} is sealed, {report.week} is live; {carried}, {waited}")
    else:
        print(f"nothing to do: {report.week} is live")


@application.command()
def attach(
    week: WeekArgument,
    file: Annotated[Path, typer.Argument(help="The file that holds the week; it stays where it is.")],
    as_json: JsonOption = False,
) -> None:
    """Copy the file of a sealed week into the folder, checked and at the newest schema."""
    from betcore_async.config import Settings
    from betcore_async.partitions.files import Family
    from betcore_async.partitions.moving import move_in

    settings = Settings()

    async def work(manager: "PartitionManager") -> "PartitionInfo":
        info = await manager.attach_partition(week, file)  # checks and migrates it
        await manager.detach_partition(week)
        await move_in(Family(settings.db.path), info.week, info.path, settings.db.busy_timeout)
        return info

    info = _with_manager(work, settings)
    place = Family(settings.db.path).path_of(info.week)
    if as_json:
        print_json({"week": info.week.name, "path": place, "bets": info.bets})
    else:
        print(f"{info.week} is attached: {place}, {info.bets:,} bets")


@application.command()
def detach(
    week: WeekArgument,
    to: Annotated[Path, typer.Option("--to", metavar="PATH", help="Folder or name it is moved to.")],
    as_json: JsonOption = False,
) -> None:
    """Move the file of a sealed week out of the folder; queries that reach it then say that it is missing."""
    from betcore_async.config import Settings
    from betcore_async.partitions import Week
    from betcore_async.partitions.files import Family
    from betcore_async.partitions.moving import move_out

    settings = Settings()

    async def work(manager: "PartitionManager") -> Path:
        await manager.detach_partition(week)
        return await move_out(Family(settings.db.path), Week.parse(week), to, settings.db.busy_timeout)

    place = _with_manager(work, settings)
    if as_json:
        print_json({"week": week, "path": place})
    else:
        print(f"{week} is detached: {place}")


@application.command()
def archive(
    weeks: WeeksArgument = None,
    *,
    keep: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Archive all but the newest N; default: PARTITIONS_KEEP_WEEKS."),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="WEEK", help="Archive the weeks before this one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which weeks these are, and touch nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Move sealed weeks to the archive: compressed, read back and compared, then removed here.

    Status 1 when a week could not be archived; that week is still here.
    """
    from betcore_async.config import Settings

    settings = Settings()
    if not (weeks or keep or older_than or settings.partitions.keep_weeks):
        raise typer.BadParameter("name weeks, --keep or --older-than, or set PARTITIONS_KEEP_WEEKS")
    if sum(map(bool, (weeks, keep, older_than))) > 1:
        raise typer.BadParameter("weeks, --keep and --older-than exclude each other")

    async def work(manager: "PartitionManager") -> list[Row]:
        chosen = await _chosen(manager, weeks, keep, older_than)

        async def one(week: "Week", on_progress: "OnProgress") -> Row:
            info = await manager.archive(week, on_progress=on_progress)
            saved = {"size": info.size, "archived": info.archived_size}
            return {"place": f"{info.location}/{info.object}", **saved, "performed": info.performed}

        return [{"week": week.name, "error": None} for week in chosen] if dry_run else await each(chosen, one)

    rows = _with_manager(work, settings)
    columns = ("week",) if dry_run else ("week", "size", "archived", "place")
    show(rows, columns, as_json=as_json, nothing="nothing to archive")


@application.command()
def restore(weeks: Annotated[list[str], typer.Argument(metavar="WEEK...")], as_json: JsonOption = False) -> None:
    """Bring weeks back from the archive, compared with what was put there. Status 1 when one could not be."""
    from betcore_async.config import Settings
    from betcore_async.partitions import Week

    async def work(manager: "PartitionManager") -> list[Row]:
        async def one(week: "Week", on_progress: "OnProgress") -> Row:
            info = await manager.restore(week, on_progress=on_progress)
            return {"state": info.state, "bets": info.bets, "size": info.size, "place": info.path}

        return await each([Week.parse(week) for week in weeks], one)

    rows = _with_manager(work, Settings())
    show(rows, ("week", "state", "bets", "size", "place"), as_json=as_json, nothing="")


@application.command()
def verify(weeks: WeeksArgument = None, as_json: JsonOption = False) -> None:
    """Read weeks in the archive (default: all) and compare them with what was put there; status 1 when one differs."""
    from betcore_async.config import Settings
    from betcore_async.partitions import Week

    async def work(manager: "PartitionManager") -> list[Row]:
        async def one(week: "Week", on_progress: "OnProgress") -> Row:
            report = await manager.verify(week, on_progress=on_progress)
            return {"ok": report.ok, "size": report.size, "place": report.location} | (
                {} if report.ok else {"error": "; ".join(report.problems)}
            )

        return await each([Week.parse(week) for week in weeks] if weeks else archived_weeks(settings), one)

    settings = Settings()
    rows = _with_manager(work, settings)
    show(rows, ("week", "ok", "size", "place"), as_json=as_json, nothing="nothing is archived")


async def _chosen(
    manager: "PartitionManager", weeks: list[str] | None, keep: int | None, older_than: str | None
) -> "list[Week]":
    from betcore_async.partitions import PartitionState, Week

    if weeks:
        return [Week.parse(week) for week in weeks]
    if older_than is None:
        return await manager.weeks_to_archive(keep)
    bound = Week.parse(older_than)
    return [
        info.week for info in await manager.partitions() if info.state == PartitionState.SEALED and info.week < bound
    ]


def _print_timeline(partitions: "list[PartitionInfo]", missing: "list[Week]") -> None:
    from betcore_async.cli.timeline import timeline

    states = {partition.week: partition.state.value for partition in partitions}
    print_picture(timeline(states | dict.fromkeys(missing, "missing")))


def _with_names(told: "PartitionInfo | RotationReport") -> Row:
    """Return its fields, weeks by their names, as the rows of all commands have them."""
    from betcore_async.partitions import Week

    values = {field.name: getattr(told, field.name) for field in fields(told)}
    return {name: value.name if isinstance(value, Week) else value for name, value in values.items()}


def _cells(partition: "PartitionInfo") -> tuple[object, ...]:
    counts = (partition.users, partition.bets, partition.open_bets, partition.entries)
    place = partition.location or partition.path
    shown = (f"{count:,}" for count in counts)
    about = (partition.week, partition.state, partition.schema_version)
    return (*about, *shown, shown_size(partition.size), place, partition.problem)
