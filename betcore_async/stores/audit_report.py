"""What an audit says."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: which rule, in which week, and the row that breaks it."""

    week: str
    rule: str
    subject: str
    """What is wrong, or is not there: the id of a user, bet, entry or cell; else the link, week or file by its name."""
    detail: str
    file: Path | None = None
    """The file under audit; None where an engine has none."""
    table: str | None = None
    """The table in which the row stands, or should; None where it is the file, or its sums."""
    positions: tuple[int, int] | None = None
    """First and last `position` of the ledger entries among which the wrong one is; known, twice its own."""


@dataclass(frozen=True, slots=True)
class Unchecked:
    """What an audit could not look at, though nothing says that it is wrong."""

    week: str
    what: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found, what it counted, and what it could not look at. `ok` when no promise was broken."""

    violations: tuple[Violation, ...]
    """By week; at most ten of each rule in each week."""
    counts: dict[str, int] = field(default_factory=dict)
    """Weeks, users, bets and entries looked at, and sums in minor units: `money_in` and `money_out` must be equal."""
    unchecked: tuple[Unchecked, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def first(self) -> Violation | None:
        """The first wrong row, in the oldest week that has one."""
        return self.violations[0] if self.violations else None
