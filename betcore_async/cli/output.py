"""How commands speak: results on stdout, as a table or as JSON; everything else on stderr."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from betcore_async.config import Settings

_PIPE_WIDTH = 400  # characters; a line for people may be cut by their pager, one for grep must be whole

_SHORT = 10
"""Characters up to which a cell is never broken."""

_PADDING = 3
"""Characters beside a column and its neighbour."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def print_json(value: object) -> None:
    """Print `value` as indented JSON; paths and the like as their text."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    sys.stdout.buffer.write(orjson.dumps(value, default=str, option=options))
    sys.stdout.buffer.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print rows under their headings; a terminal wraps long cells, a file or a pipe gets whole lines.

    So does a terminal on which even short cells, such as the names of weeks, would be broken.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    texts = [["" if value is None else str(value) for value in row] for row in rows]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(columns))
    needed = 0
    for place, column in enumerate(columns):
        width = max(map(len, (column, *(row[place] for row in texts))))
        needed += min(width, _SHORT) + _PADDING
        table.add_column(
            column,
            style="bold" if place == 0 else None,
            overflow="fold",
            min_width=min(width, _SHORT),
            no_wrap=width <= _SHORT,
        )
    for row in texts:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    if console.is_terminal and needed <= console.width:
        console.print(table)
        return
    console.width = _PIPE_WIDTH
    with console.capture() as text:
        console.print(table)
    print("\n".join(line.rstrip() for line in text.get().strip("\n").splitlines()))


def print_picture(picture: "Text") -> None:
    """Print text in colours on a terminal, plain to a file or a pipe."""
    from rich.console import Console

    Console(highlight=False).print(picture, soft_wrap=True)


@contextmanager
def logs_on_stderr(settings: "Settings") -> Iterator[None]:
    """Keep stdout for the result: what is logged during the block goes to stderr, warnings and worse by default."""
    from betcore_async.config import LogSettings
    from betcore_async.logs import configure_logging

    chosen = settings.log if "level" in settings.log.model_fields_set else LogSettings(level="warning")
    with redirect_stdout(sys.stderr):
        configure_logging(chosen.model_copy(update={"format": settings.log.format}))
        yield
