"""`betcore config`: which settings there are, and which hold."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from betcore_async.cli.output import JsonOption, print_json, print_table

application = typer.Typer(no_args_is_help=True, help="Show the settings and where they come from.")


@application.command()
def show(as_json: JsonOption = False) -> None:
    """Show every setting with its value and where the value comes from; secrets are masked."""
    from betcore_async.config import Settings, variable_names

    settings = Settings().model_dump(mode="json")
    sources = [("environment", os.environ), (".env", _dotenv()), ("secrets folder", _secrets())]
    rows = [
        {"variable": variable, "value": settings[part][field], "source": _source(variable, sources)}
        for variable, (part, field) in variable_names().items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(
            ("Variable", "Value", "From"), [(row["variable"], _text(row["value"]), row["source"]) for row in rows]
        )


@application.command()
def docs(as_json: JsonOption = False) -> None:
    """Print the table of all settings, as Markdown."""
    from betcore_async.config_docs import options_table

    table = options_table()
    if as_json:
        print_json({"markdown": table})
    else:
        print(table, end="")


def _source(variable: str, sources: list[tuple[str, Mapping[str, str | None]]]) -> str:
    # The order in which the settings look, and their rule that an empty value is none.
    for name, values in sources:
        if any(key.upper() == variable and value for key, value in values.items()):
            return name
    return "default"


def _dotenv() -> Mapping[str, str | None]:
    from dotenv import dotenv_values

    return dotenv_values(".env") if Path(".env").is_file() else {}


def _secrets() -> Mapping[str, str | None]:
    folder = os.environ.get("SECRETS_DIR")
    return {path.name: "set" for path in Path(folder).iterdir()} if folder else {}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
