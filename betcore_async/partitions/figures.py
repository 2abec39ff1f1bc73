"""What the bets of one weekly file come to, by the week in which they were placed and by status. Synchronous.

A sealed file never changes, so it is counted once. What may still change is what becomes of bets that were open when it
was sealed; that is in the files after it, under the week in which the bet was placed. So what a week comes to is the
sum, over its own file and those after it, of what was decided there, and of what is open in the last one.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from betcore_async.models import OPEN_STATUSES
from betcore_async.partitions.user_filter import ANYBODY, UserFilter

_WEEK = 604_800_000_000
_MONDAY = 345_600_000_000 - 100_000 * _WEEK
"""Start of a week long before all others, so that no remainder is negative."""

_HOME = f"placed_at - (placed_at - ({_MONDAY})) % {_WEEK}"


def sums_where(condition: str = "") -> str:
    """Return the columns that `Sums.from_row` reads, over all rows or those that meet a condition."""
    # Sums of amounts near 2^63 would overflow: their upper and lower halves are added up apart.
    halves = ("amount >> 32", "amount & 4294967295", "payout_amount >> 32", "payout_amount & 4294967295")
    chosen = f" FILTER (WHERE {condition})" if condition else ""
    return ", ".join((f"count(*){chosen}", *(f"coalesce(sum({half}){chosen}, 0)" for half in halves)))


SUMS = sums_where()

_BY_HOME = f"SELECT {_HOME} AS home, status, {SUMS} FROM bets GROUP BY home, status"

_CARRIED_BY_HOME = f"""
SELECT {_HOME} AS home, status, {SUMS}
FROM bets
WHERE rowid <= ? AND placed_at < (SELECT starts_at FROM partition_meta)
GROUP BY home, status
"""

_LAST_CARRIED = """
SELECT coalesce(max(rowid), 0)
FROM bets
WHERE placed_at < (SELECT starts_at FROM partition_meta)
"""


# As bytes: what a hostile file has there may be no text.
_USERS = """
SELECT CAST(user_id AS BLOB)
FROM (
    SELECT DISTINCT user_id
    FROM bets
    WHERE user_id IS NOT NULL AND placed_at >= (SELECT starts_at FROM partition_meta)
)
"""


@dataclass(frozen=True, slots=True)
class Sums:
    """How many bets, and what they come to in minor units."""

    count: int = 0
    amount: int = 0
    payout: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.count + other.count, self.amount + other.amount, self.payout + other.payout)

    @classmethod
    def from_row(cls, row: tuple[int, ...]) -> "Sums":
        """Return what a row of `SUMS` says."""
        count, amount_high, amount_low, payout_high, payout_low = row
        return cls(count, (amount_high << 32) + amount_low, (payout_high << 32) + payout_low)


NOTHING = Sums()


@dataclass(frozen=True, slots=True)
class Standing:
    """What the bets of one week come to in one file."""

    by_status: Mapping[str, Sums]
    count: int
    """All of them."""
    open: int
    """How many the file leaves open."""
    decided: Sums

    @classmethod
    def of(cls, by_status: Mapping[str, Sums]) -> "Standing":
        total = sum(sums.count for sums in by_status.values())
        still_open = sum(sums.count for status, sums in by_status.items() if status in OPEN_STATUSES)
        decided = sum((sums for status, sums in by_status.items() if status not in OPEN_STATUSES), NOTHING)
        return cls(by_status, total, still_open, decided)

    def decided_as(self, status: str | None) -> Sums:
        """Add up what was decided, one way or any."""
        return self.decided if status is None else NOTHING if status in OPEN_STATUSES else self._of(status)

    def open_as(self, status: str | None) -> Sums:
        """Add up what is open, in one status or any."""
        wanted = OPEN_STATUSES if status is None else OPEN_STATUSES & {status}
        return sum(map(self._of, wanted), NOTHING)

    def _of(self, status: str) -> Sums:
        return self.by_status.get(status, NOTHING)


NOBODY = Standing.of({})


@dataclass(frozen=True, slots=True)
class Figures:
    """What the bets in one file come to."""

    by_home: Mapping[int, Standing]
    """By start of the week in which they were placed (microseconds since the epoch)."""
    last_carried: int
    """Up to this rowid lie the bets that were carried over from the weeks before: they were there first."""
    users: UserFilter = ANYBODY
    """Those who placed bets in the week; who has none but carried ones is not among them."""

    def of_week(self, starts_at: int) -> Standing:
        return self.by_home.get(starts_at, NOBODY)


def count(raw: sqlite3.Connection) -> Figures:
    """Count all bets of a file, and note whose they are: one look at every row."""
    users = [row[0] for row in raw.execute(_USERS)]
    return Figures(_grouped(raw.execute(_BY_HOME)), last_carried(raw), UserFilter.of(users))


def last_carried(raw: sqlite3.Connection) -> int:
    """Return the last rowid of a bet that was carried over; 0 for none. Looks at every row."""
    last: int = raw.execute(_LAST_CARRIED).fetchone()[0]
    return last


def count_carried(raw: sqlite3.Connection, last: int) -> Figures:
    """Count the bets of a file that were carried over, all of which lie up to the rowid `last`."""
    return Figures(_grouped(raw.execute(_CARRIED_BY_HOME, (last,))), last)


def _grouped(rows: Iterable[tuple[int, ...]]) -> dict[int, Standing]:
    by_home: dict[int, dict[str, Sums]] = {}
    for home, status, *sums in rows:
        by_home.setdefault(home, {})[str(status)] = Sums.from_row(tuple(sums))
    return {home: Standing.of(by_status) for home, by_status in by_home.items()}
