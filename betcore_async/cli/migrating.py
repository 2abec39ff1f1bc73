"""What `betcore migrate` works on: the weekly files or one file of one's own, and how their rows are shown."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from betcore_async.cli.families import no_file_yet
from betcore_async.cli.output import print_json, print_table

if TYPE_CHECKING:
    from betcore_async.partitions.files import Family
    from betcore_async.partitions.migrating import FileResult
    from betcore_async.sqlite.migrations import AppliedMigration, Migrator

PENDING = 3
"""Exit status of `status` when a migration is still to be applied."""

SourceOption = Annotated[
    Path | None,
    typer.Option(
        "--source",
        metavar="DIR",
        help="Folder with the migrations; default: DB_MIGRATIONS, else those shipped.",
        show_default=False,
    ),
]
DatabaseOption = Annotated[
    Path | None,
    typer.Option(
        "--database", metavar="FILE", help="Work on this file alone, instead of the weekly files.", show_default=False
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the SQL that would run, and touch nothing.")]

Row = dict[str, Any]
Move = Callable[[Path], Awaitable[Sequence["AppliedMigration"]]]


@dataclass(frozen=True)
class Target:
    """The migrations of one call and the files they are for."""

    migrator: "Migrator"
    family: "Family"
    database: Path | None
    """The only file, where one was named."""
    nothing: str
    """What is said where there is no file at all."""

    def look(self, question: Callable[[Path], Awaitable[Row]], *, with_new: bool = False) -> list[Row]:
        """Return a row for each file: what `question` says of it, or the error.

        `with_new` asks of the file that would be made now where there is none.
        """
        return asyncio.run(self._look(question, with_new=with_new))

    async def _look(self, question: Callable[[Path], Awaitable[Row]], *, with_new: bool) -> list[Row]:
        from betcore_async.clock import system_clock
        from betcore_async.errors import BetcoreError
        from betcore_async.partitions import Week

        rows = []
        files = await self.files()
        if with_new and not files:
            files = [(self.family.path_of(Week.of(system_clock())), "")]
        for path, problem in files:
            row: Row = {"file": str(path), "error": problem or None}
            try:
                rows.append(row if problem else row | await question(path))
            except BetcoreError as error:
                rows.append(row | {"error": error.message})
        return rows

    async def files(self) -> list[tuple[Path, str]]:
        """Return the files, the live week's first, each with why it cannot be used or an empty text."""
        from betcore_async.partitions.migrating import in_order, look

        _ = self.migrator.migrations  # what is wrong with them is told once, not for each file
        if self.database is not None:
            return [(self.database, "")]
        return [(entry.path, entry.problem) for entry in in_order(await look(self.family, self.migrator))]

    def move(self, move: Move, *, as_json: bool, without_steps: str = "nothing to do") -> None:
        """Do `move` to every file, show a line for each, and end with status 1 where one failed."""
        rows: list[Row] = []
        _ = self.migrator.migrations
        with _progress(self._count()) as advance:

            def told(row: Row) -> None:
                rows.append(row)
                if not as_json:
                    print(_line(row, without_steps), flush=True)
                advance()

            asyncio.run(self._move(move, told))
        if as_json:
            print_json(rows)
        elif not rows:
            print(self.nothing)
        if any(row["error"] for row in rows):
            raise typer.Exit(1)

    def _count(self) -> int:
        from betcore_async.partitions.migrating import weekly_files

        return 1 if self.database is not None else len(weekly_files(self.family))

    async def _move(self, move: Move, told: Callable[[Row], None]) -> None:
        from betcore_async.partitions.migrating import move_all

        if self.database is None:
            await move_all(self.family, self.migrator, move, on_result=lambda result: told(_of_week(result)))
        else:
            told(await self._move_one(self.database, move))

    async def _move_one(self, path: Path, move: Move) -> Row:
        from betcore_async.errors import BetcoreError

        try:
            steps = await move(path)
            version = (await self.migrator.status(path)).current
        except BetcoreError as error:
            return {"file": str(path), "version": None, "steps": [], "error": error.message}
        return {"file": str(path), "version": version, "steps": _steps(steps), "error": None}


def target(source: Path | None, database: Path | None) -> Target:
    """Return what the options and the settings name."""
    from betcore_async.config import Settings
    from betcore_async.partitions.files import Family
    from betcore_async.sqlite.migrations import Migrator

    settings = Settings()
    nothing = f"{no_file_yet(settings.db.path)}; the first one is born with the newest schema"
    return Target(Migrator(source, settings=settings.db), Family(settings.db.path), database, nothing)


def show(rows: list[Row], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print rows: all they hold as JSON, these columns of them as a table."""
    if as_json:
        print_json(rows)
    elif rows:
        cells = [[_cell(row.get(column)) for column in columns] for row in rows]
        print_table([column.capitalize() for column in columns], cells)
    else:
        print(empty)


def _cell(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(f"{step['version']:04d}_{step['name']}" for step in value)
    return value


def _of_week(result: "FileResult") -> Row:
    return {
        "file": str(result.path),
        "week": result.week.name,
        "state": result.state.value,
        "version": result.version,
        "steps": _steps(result.steps),
        "error": None if result.error is None else result.error.message,
    }


def _steps(steps: "Sequence[AppliedMigration]") -> list[Row]:
    return [
        {"version": step.version, "name": step.name, "direction": step.direction, "duration_ms": step.duration_ms}
        for step in steps
    ]


def _line(row: Row, without_steps: str) -> str:
    if row["error"]:
        return f"{row['file']}: failed: {row['error']}"
    taken = ", ".join(f"{step['version']:04d}_{step['name']} {step['direction']}" for step in row["steps"])
    gone = " (empty, removed)" if row["version"] == 0 and "week" in row else ""
    return f"{row['file']}: version {row['version']}{gone}, {taken or without_steps}"


@contextmanager
def _progress(count: int) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal while files are worked on; call what it yields after each."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    # A result goes where stdout goes: through the bar, which moves down for it, only on a terminal.
    with Progress(
        console=console, transient=True, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty()
    ) as bar:
        task = bar.add_task("migrating", total=count)
        yield lambda: bar.advance(task)
