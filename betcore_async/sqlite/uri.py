"""The URI under which SQLite opens a file."""

from pathlib import Path
from urllib.parse import quote

from betcore_async.errors import DatabaseError


def uri_of(path: Path, *, readonly: bool) -> str:
    """Return the URI of an existing file, which is never created. Raises DatabaseError for a name not in UTF-8.

    With an empty host in it: else SQLite takes what follows two slashes, as in `//data/bets.db`, for the name of one.
    """
    name = str(path.absolute())
    try:
        return f"file://{quote(name)}?mode={'ro' if readonly else 'rw'}"
    except UnicodeEncodeError as error:
        raise DatabaseError(f"{name!r} is not a name in UTF-8, which SQLite needs", path=path) from error
