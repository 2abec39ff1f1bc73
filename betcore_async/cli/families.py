"""Which family of weekly files a command is to work on: the one of the settings, or one that is named."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from betcore_async.config import Settings

PathArgument = Annotated[
    Path | None,
    typer.Argument(
        help="A data folder, or a family of weekly files such as data/bets.db. Default: DB_PATH.", show_default=False
    ),
]


def with_family(settings: "Settings", path: Path | None) -> "Settings":
    """Return the settings with DB_PATH as `path` says; raises ConfigError where it does not name a family."""
    if path is None:
        return settings
    return settings.model_copy(update={"db": settings.db.model_copy(update={"path": _family_path(path)})})


def no_file_yet(path: Path) -> str:
    """Say that DB_PATH, which is `path`, has no weekly file, and where `path` is a folder what it should have been."""
    hint = f"; DB_PATH is the name of the files in a folder, such as {path / 'bets.db'}" if path.is_dir() else ""
    return f"there is no weekly file of {path} yet{hint}"


def _family_path(path: Path) -> Path:
    """Return the name of the family that `path`, or the only one in the folder `path`, is."""
    from betcore_async.errors import ConfigError
    from betcore_async.partitions.files import Family

    if path.is_dir():
        stems = {found.name[: -len("-2026-W01.db")] for found in path.glob("*-????-W??.db")}
        if len(stems) != 1:
            names = ", ".join(sorted(stems)) or "none"
            raise ConfigError(f"{path} does not hold one family of weekly files but {names}", problems={"PATH": names})
        return path / f"{stems.pop()}.db"
    if not (path.parent.is_dir() and Family(path).weekly_files()):
        raise ConfigError(f"there is no weekly file of {path}", problems={"PATH": "no weekly file"})
    return path
