"""The table of all settings, as Markdown: what `betcore config docs` prints and docs/configuration.md shows."""

from datetime import timedelta
from enum import Enum

from betcore_async.config import Settings, variable_names
from betcore_async.durations import format_duration


def options_table() -> str:
    """Return a Markdown table with one line per environment variable: its name, its default, what it does.

    Defaults stand as the environment takes them (`10s`, `false`); an empty one means that nothing is set.
    """
    defaults = Settings.model_construct()
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for variable, (part, field) in variable_names().items():
        section = getattr(defaults, part)
        meaning = type(section).model_fields[field].description or ""
        default = _as_environment(getattr(section, field))
        lines.append(f"| `{variable}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines) + "\n"


def _as_environment(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case timedelta():
            return format_duration(value)
        case Enum():
            return str(value.value)
        case _:
            return str(value)
