"""`betcore migrate`: the schema of the weekly files, or of one file of one's own."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from betcore_async.cli.migrating import (
    PENDING,
    DatabaseOption,
    DryRunOption,
    Row,
    SourceOption,
    Target,
    show,
    target,
)
from betcore_async.cli.output import JsonOption, print_json

if TYPE_CHECKING:
    from betcore_async.sqlite.migrations import AppliedMigration, PlannedMigration

application = typer.Typer(
    no_args_is_help=True, help="Bring every weekly file, or a database of your own, to a schema version."
)

ToOption = Annotated[
    int | None, typer.Option(min=0, help="Version to stop at; default: the newest.", metavar="N", show_default=False)
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask. Taking a migration back deletes what it added.")]
Plan = Callable[[Path], Awaitable[Sequence["PlannedMigration"]]]


@application.command()
def up(
    to: ToOption = None,
    dry_run: DryRunOption = False,
    source: SourceOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Apply what is missing: to the live week, then to every other one.

    When the live week fails, no other is touched; an error in another keeps the rest from nothing. Status 1 when a
    file failed.
    """
    chosen = target(source, database)

    async def plan(path: Path) -> "list[PlannedMigration]":
        return [step for step in await chosen.migrator.plan(path, to) if step.direction == "up"]

    if dry_run:
        _print_plans(chosen, plan, as_json=as_json)
    else:
        chosen.move(lambda path: chosen.migrator.up(path, to), as_json=as_json)


@application.command()
def down(
    steps: Annotated[int, typer.Option(min=1, help="How many migrations to take back.", metavar="N")] = 1,
    *,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    source: SourceOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take the newest migrations back in every file. This deletes the data they made room for.

    A weekly file without its first migration holds nothing, and is removed.
    """
    chosen = target(source, database)

    async def plan(path: Path) -> "list[PlannedMigration]":
        current = (await chosen.migrator.status(path)).current
        return await chosen.migrator.plan(path, max(0, current - steps))

    if dry_run:
        _print_plans(chosen, plan, as_json=as_json)
    else:
        _confirm(yes=yes)
        chosen.move(lambda path: chosen.migrator.down(path, steps), as_json=as_json)


@application.command()
def goto(
    version: Annotated[int, typer.Argument(min=0, metavar="N", help="Version to go to.")],
    *,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    source: SourceOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go up or down to version N in every file. The way down deletes data, and asks first."""
    chosen = target(source, database)

    async def plan(path: Path) -> "list[PlannedMigration]":
        return await chosen.migrator.plan(path, version)

    if dry_run:
        _print_plans(chosen, plan, as_json=as_json)
        return
    if any(step["direction"] == "down" for row in _plans(chosen, plan) for step in row.get("steps", ())):
        _confirm(yes=yes)
    chosen.move(lambda path: chosen.migrator.goto(path, version), as_json=as_json)


@application.command("plan")
def plan_command(
    to: ToOption = None, source: SourceOption = None, database: DatabaseOption = None, as_json: JsonOption = False
) -> None:
    """Show the migrations that lead from here to the newest version, or to N, in every file. Touches nothing."""
    chosen = target(source, database)
    rows = _plans(chosen, lambda path: chosen.migrator.plan(path, to))
    show(rows, ("file", "steps", "error"), as_json=as_json, empty=chosen.nothing)
    _fail_on_errors(rows)


@application.command()
def status(source: SourceOption = None, database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Show the version of every file. Status 1 when one cannot be read, 3 when a migration is pending."""
    chosen = target(source, database)

    async def look(path: Path) -> Row:
        found = await chosen.migrator.status(path)
        cut = found.unfinished
        return {
            "version": found.current,
            "head": found.head,
            "pending": [{"version": step.version, "name": step.name} for step in found.pending],
            "unfinished": cut
            and f"{cut.version:04d} {cut.direction} was cut off after statement {cut.statements_done}",
        }

    rows = chosen.look(look)
    show(rows, ("file", "version", "head", "pending", "unfinished", "error"), as_json=as_json, empty=chosen.nothing)
    _fail_on_errors(rows)
    if any(row["pending"] or row["unfinished"] for row in rows):
        raise typer.Exit(PENDING)


@application.command()
def verify(source: SourceOption = None, database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Check every file: whole history, unedited migrations, the schema they make. Status 1 when something is wrong."""
    chosen = target(source, database)

    async def look(path: Path) -> Row:
        found = await chosen.migrator.verify(path)
        return {"version": found.current, "head": found.head}

    rows = chosen.look(look)
    show(rows, ("file", "version", "head", "error"), as_json=as_json, empty=chosen.nothing)
    _fail_on_errors(rows)


@application.command()
def baseline(
    version: Annotated[int, typer.Argument(min=1, metavar="N", help="Version whose schema is there already.")],
    source: SourceOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record migrations 1 to N as applied without running them.

    For a database that was made in another way, or, at its own version, to accept migrations that were edited since.
    """
    chosen = target(source, database)

    async def record(path: Path) -> "list[AppliedMigration]":
        await chosen.migrator.baseline(path, version)
        return []

    chosen.move(record, as_json=as_json, without_steps="recorded")


@application.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it changes, such as add_nickname.")],
    source: SourceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create the empty .up.sql and .down.sql of the next number. Until both hold a statement they are refused."""
    from betcore_async.errors import MigrationError
    from betcore_async.sqlite.migrations import create_migration, is_installed

    folder = target(source, None).migrator.source
    if is_installed(folder):
        raise MigrationError("name the folder of your migrations with --source or DB_MIGRATIONS", path=str(folder))
    files = create_migration(folder, name)
    if as_json:
        print_json(dict(zip(("up", "down"), map(str, files), strict=True)))
    else:
        print(*files, sep="\n")


@application.command()
def dump(source: SourceOption = None, database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Print the schema as SQL: of the live week, or, where there is none, of what a new one is born with."""
    chosen = target(source, database)

    async def schema() -> Row:
        for path, problem in await chosen.files():
            if not problem:
                return {"file": str(path), "sql": await chosen.migrator.dump(path)}
        return {"file": None, "sql": await chosen.migrator.schema()}

    found = asyncio.run(schema())
    if as_json:
        print_json(found)
    else:
        print(found["sql"], end="")


def _plans(chosen: Target, plan: Plan) -> list[Row]:
    async def steps(path: Path) -> Row:
        shown = ("version", "name", "direction", "path", "sql")
        return {"steps": [{name: getattr(step, name) for name in shown} for step in await plan(path)]}

    return chosen.look(steps, with_new=True)


def _print_plans(chosen: Target, plan: Plan, *, as_json: bool) -> None:
    rows = _plans(chosen, plan)
    if as_json:
        print_json(rows)
    for row in rows if not as_json else ():
        if row["error"]:
            print(f"betcore: {row['error']}", file=sys.stderr)
            continue
        print(f"-- {row['file']}: {len(row['steps']) or 'no'} to run")
        for step in row["steps"]:
            print(f"-- {step['direction']}: {step['path']}\n{step['sql'].rstrip()}")
    _fail_on_errors(rows)


def _confirm(*, yes: bool) -> None:
    if yes or (sys.stdin.isatty() and typer.confirm("This deletes data. Go on?", err=True)):
        return
    print("betcore: nothing was changed; going down deletes data, so confirm it with --yes", file=sys.stderr)
    raise typer.Exit(2)


def _fail_on_errors(rows: list[Row]) -> None:
    if any(row["error"] for row in rows):
        raise typer.Exit(1)
