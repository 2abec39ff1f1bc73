"""`betcore migrate`: the schema of every weekly file."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from betcore_async.cli.output import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from betcore_async.sqlite.migrations import Migrator

application = typer.Typer(no_args_is_help=True, help="Bring every weekly file to a schema version.")

Row = dict[str, Any]
Move = Callable[["Migrator", Path], Awaitable[list[str]]]


@application.command()
def up(
    to: Annotated[int | None, typer.Option(min=0, help="Version to stop at; default: the newest.", metavar="N")] = None,
    as_json: JsonOption = False,
) -> None:
    """Apply what is missing to every weekly file; goes on after a file that fails, and ends with status 1 then."""

    async def move(migrator: "Migrator", path: Path) -> list[str]:
        return [str(step.version) for step in await migrator.up(path, to)]

    _report(_for_each_file(move), as_json=as_json)


@application.command()
def down(
    steps: Annotated[int, typer.Option(min=1, help="How many migrations to take back.", metavar="N")] = 1,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask. Taking a migration back deletes what it added.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take the newest migrations back in every weekly file. This deletes the data they made room for."""
    if not yes and not (
        sys.stdin.isatty() and typer.confirm("This deletes data in every weekly file. Go on?", err=True)
    ):
        print("betcore: nothing was changed; confirm with --yes", file=sys.stderr)
        raise typer.Exit(2)

    async def move(migrator: "Migrator", path: Path) -> list[str]:
        return [str(step.version) for step in await migrator.down(path, steps)]

    _report(_for_each_file(move), as_json=as_json)


@application.command()
def status(as_json: JsonOption = False) -> None:
    """Show the version of every weekly file; status 1 when one is behind or cannot be read."""

    async def look(migrator: "Migrator", path: Path) -> list[str]:
        state = await migrator.status(path)
        return [str(step.version) for step in state.pending]

    rows = _for_each_file(look, done="pending")
    _report(rows, as_json=as_json, failed=any(row["error"] or row["pending"] for row in rows))


def _for_each_file(move: Move, *, done: str = "steps") -> list[Row]:
    """Return one row per file: its version after `move`, the migrations `move` names, and the error where it failed."""
    from betcore_async.config import Settings
    from betcore_async.errors import BetcoreError
    from betcore_async.partitions.files import Family
    from betcore_async.sqlite.migrations import Migrator

    settings = Settings()
    family = Family(settings.db.path)
    migrator = Migrator(settings=settings.db)

    async def visit(path: Path) -> Row:
        row: Row = {"file": str(path), "version": None, "head": None, done: [], "error": None}
        try:
            row[done] = await move(migrator, path)
            state = await migrator.status(path)
            return row | {"version": state.current, "head": state.head}
        except BetcoreError as error:
            return row | {"error": error.message}

    async def visit_all() -> list[Row]:
        return [await visit(path) for path in family.weekly_files().values()]

    return asyncio.run(visit_all()) if family.folder.is_dir() else []


def _report(rows: list[Row], *, as_json: bool, failed: bool | None = None) -> None:
    if as_json:
        print_json(rows)
    elif rows:
        columns = list(rows[0])
        print_table(
            [column.capitalize() for column in columns],
            [[", ".join(cell) if isinstance(cell, list) else cell for cell in row.values()] for row in rows],
        )
    else:
        print("there is no weekly file yet; the first one is born with the newest schema")
    if failed if failed is not None else any(row["error"] for row in rows):
        raise typer.Exit(1)
