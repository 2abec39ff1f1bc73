"""What a caller may ask for: checked before any file is asked. Pure."""

from dataclasses import dataclass

from betcore_async.errors import ModelError, shown
from betcore_async.models import BetStatus

_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended; pass it back to get the next one. Raises ModelError for what is no place in time."""

    placed_at: int
    """Microseconds since the epoch."""
    id: str

    def __post_init__(self) -> None:
        if type(self.placed_at) is not int or not -_LARGEST <= self.placed_at < _LARGEST:
            raise ModelError(f"a cursor has a time in microseconds; got {shown(self.placed_at)}", field="placed_at")
        text_of(self.id, "id")


def cursor_of(value: Cursor | None) -> Cursor | None:
    """Return the cursor. Raises ModelError for what is none."""
    if value is not None and not isinstance(value, Cursor):
        raise ModelError(f"cursor must be the next_cursor of a page; got {shown(value)}", field="cursor")
    return value


def size_of(value: int, field: str) -> int:
    """Return a number of rows. Raises ModelError for what is no whole number from 1."""
    if type(value) is not int or not 1 <= value <= _LARGEST:
        raise ModelError(f"{field} must be at least 1, and a whole number; got {shown(value)}", field=field)
    return value


def status_of(value: BetStatus | None) -> BetStatus | None:
    """Return the status, also where it comes as text. Raises ModelError for one there is not."""
    try:
        return None if value is None else BetStatus(value)
    except ValueError:
        raise ModelError(f"status must be one of {', '.join(BetStatus)}; got {shown(value)}", field="status") from None


def text_of(value: str, field: str) -> str:
    """Return the text. Raises ModelError for what is none, and for half a character, which no file can hold."""
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):
        raise ModelError(f"{field} must be a text; got {shown(value)}", field=field) from None
    return value
