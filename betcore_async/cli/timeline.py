"""The weeks as a picture: a line for each ISO year, a letter in its colour for each week."""

from collections.abc import Mapping

from rich.text import Text

from betcore_async.partitions import Week

STYLES = {
    "live": ("L", "bold green"),
    "sealed": ("S", "cyan"),
    "archived": ("A", "blue"),
    "missing": ("M", "bold red"),
    "damaged": ("D", "bold white on red"),
}
_NONE = ("·", "dim")
_WEEKS = 53
_RULER = "".join(f"{week:<5}" for week in range(1, _WEEKS + 1, 5)).rstrip()


def timeline(states: Mapping[Week, str]) -> Text:
    """Return the picture of weeks by state; its letters say all that its colours do."""
    picture = Text()
    picture.append(f"      {_RULER}\n", style="dim")
    years: dict[str, dict[int, str]] = {}
    for week, state in sorted(states.items()):
        year, _, number = week.name.partition("-W")
        years.setdefault(year, {})[int(number)] = state
    for year, weeks in years.items():
        picture.append(f"{year}  ", style="bold")
        for place in range(1, max(weeks) + 1):
            letter, style = STYLES[weeks[place]] if place in weeks else _NONE
            picture.append(letter, style=style)
        picture.append("\n")
    there = [name for name in STYLES if name in states.values()]
    for name in there:
        picture.append("      " if name == there[0] else "  ")
        picture.append(STYLES[name][0], style=STYLES[name][1])
        picture.append(f" {name}")
    return picture
